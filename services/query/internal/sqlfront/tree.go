package sqlfront

import (
	"errors"
	"strings"
	"sync"

	pg "github.com/pganalyze/pg_query_go/v6"
	"github.com/pganalyze/pg_query_go/v6/parser"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// parseTree parses one statement with PostgreSQL's parser. The tokens are those of
// request[from:to]; prefix is put before it.
func parseTree(request, prefix string, tokens []token) (*Tree, error) {
	from, to := tokens[0].start, tokens[len(tokens)-1].end
	text, err := rewrite(request, from, to, tokens)
	if err != nil {
		return nil, err
	}
	t := &Tree{parsed: prefix + text, request: request, shift: from - len(prefix)}
	result, err := pg.Parse(t.parsed)
	if err != nil {
		return nil, t.parserError(err)
	}
	if len(result.GetStmts()) != 1 {
		return nil, syntaxError(request, from, "expected one statement, found %d", len(result.GetStmts()))
	}
	t.Stmt = result.GetStmts()[0].GetStmt()
	return t, nil
}

// parserError gives an error of PostgreSQL's parser our form; its cursor counts characters from 1.
func (t *Tree) parserError(err error) error {
	var pe *parser.Error
	if !errors.As(err, &pe) || pe.Cursorpos <= 0 {
		return dberr.New(dberr.InvalidSQL, "%w", err)
	}
	offset, chars := len(t.parsed), 0
	for i := range t.parsed {
		if chars++; chars == pe.Cursorpos {
			offset = i
			break
		}
	}
	return syntaxError(t.request, max(0, offset+t.shift), "%s", pe.Message)
}

// Locate turns a node's location into a line and a column of the request, both from 1.
func (t *Tree) Locate(location int32) (line, column int) {
	return position(t.request, max(0, int(location)+t.shift))
}

// With returns a tree of the same text for another node of it.
func (t *Tree) With(stmt *Node) *Tree {
	return &Tree{Stmt: stmt, parsed: t.parsed, request: t.request, shift: t.shift}
}

// Reads returns the tables a statement names, without the names that WITH gives anywhere in it.
func (t *Tree) Reads() []Name {
	if known := t.reads.Load(); known != nil {
		return *known
	}
	given := map[string]bool{}
	Walk(t.Stmt, func(m proto.Message) bool {
		if q, ok := m.(*pg.CommonTableExpr); ok {
			given[q.GetCtename()] = true
		}
		return true
	})
	names := []Name{}
	for _, ref := range Tables(t.Stmt) {
		if ref.GetSchemaname() != "" || !given[ref.GetRelname()] {
			names = append(names, Name{Namespace: ref.GetSchemaname(), Name: ref.GetRelname()})
		}
	}
	t.reads.Store(&names)
	return names
}

// errorAt makes an error about a node.
func (t *Tree) errorAt(code dberr.Code, location int32, format string, args ...any) error {
	e := dberr.New(code, format, args...)
	if t == nil || location < 0 {
		return e
	}
	line, column := t.Locate(location)
	return dberr.New(code, "line %d, column %d: %w", line, column, e).At(line, column)
}

// treeVersion is the version of PostgreSQL's trees, which the parser tells with every tree it makes.
var treeVersion = sync.OnceValues(func() (int32, error) {
	tree, err := pg.Parse("SELECT 1")
	return tree.GetVersion(), err
})

// Deparse writes a statement as text for a PostgreSQL-like engine.
func Deparse(stmt *Node) (string, error) {
	version, err := treeVersion()
	if err != nil {
		return "", dberr.New(dberr.Internal, "write a statement: %w", err)
	}
	text, err := pg.Deparse(&pg.ParseResult{Version: version, Stmts: []*pg.RawStmt{{Stmt: stmt}}})
	if err != nil {
		return "", dberr.New(dberr.Internal, "write a statement: %w", err)
	}
	return text, nil
}

// Clone copies a node with everything below it. Parsed statements are shared and must not be changed.
func Clone(n *Node) *Node { return proto.Clone(n).(*Node) }

// Location is where a node stands in the parsed text: the least location of it and what is below it
// (an operator's own is in its middle); -1 when none is known.
func Location(n *Node) int32 {
	least := int32(-1)
	Walk(n, func(m proto.Message) bool {
		located, ok := m.(interface{ GetLocation() int32 })
		if ok && located.GetLocation() >= 0 && (least < 0 || located.GetLocation() < least) {
			least = located.GetLocation()
		}
		return true
	})
	return least
}

// Walk calls visit for every message of a parse tree below root, root included, parents first. When
// visit returns false, what is below is left out.
func Walk(root proto.Message, visit func(m proto.Message) bool) {
	if root == nil || !root.ProtoReflect().IsValid() || !visit(root) {
		return
	}
	root.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				Walk(v.List().Get(i).Message().Interface(), visit)
			}
		default:
			Walk(v.Message().Interface(), visit)
		}
		return true
	})
}

// HasParams reports whether an expression or statement holds a bind parameter.
func HasParams(root proto.Message) bool {
	found := false
	Walk(root, func(m proto.Message) bool {
		_, ok := m.(*pg.ParamRef)
		found = found || ok
		return !found
	})
	return found
}

// Params returns the highest number of a bind parameter, 0 without any.
func Params(root proto.Message) int {
	highest := 0
	Walk(root, func(m proto.Message) bool {
		if p, ok := m.(*pg.ParamRef); ok {
			highest = max(highest, int(p.GetNumber()))
		}
		return true
	})
	return highest
}

// Tables returns every table reference of a statement in no particular order. Names of WITH queries
// are among them.
func Tables(root proto.Message) []*pg.RangeVar {
	var out []*pg.RangeVar
	Walk(root, func(m proto.Message) bool {
		if r, ok := m.(*pg.RangeVar); ok {
			out = append(out, r)
		}
		return true
	})
	return out
}

// Functions returns every function call of a statement.
func Functions(root proto.Message) []*pg.FuncCall {
	var out []*pg.FuncCall
	Walk(root, func(m proto.Message) bool {
		if f, ok := m.(*pg.FuncCall); ok {
			out = append(out, f)
		}
		return true
	})
	return out
}

// IsDefault reports whether a value of VALUES or SET is the keyword DEFAULT.
func IsDefault(n *Node) bool { return n.GetSetToDefault() != nil }

// Normalize writes a text with its constants replaced by $n: a key under which statements of one
// shape meet.
func Normalize(text string) (string, error) {
	out, err := pg.Normalize(text)
	if err != nil {
		return "", dberr.New(dberr.InvalidSQL, "%w", err)
	}
	return out, nil
}

// callableKeywords may be written with empty parentheses here, which PostgreSQL does not allow.
var callableKeywords = map[string]bool{"current_user": true, "current_role": true, "current_timestamp": true,
	"current_date": true, "current_time": true, "localtimestamp": true, "session_user": true}

// rewrite turns our dialect into PostgreSQL's without moving a byte, so that positions stay right:
// quoted identifiers are folded to lower case, CURRENT_USER() loses its parentheses, and trailing
// commas become spaces.
func rewrite(request string, from, to int, tokens []token) (string, error) {
	out := []byte(request[from:to])
	is := func(i int, s string) bool {
		return i < len(tokens) && strings.EqualFold(request[tokens[i].start:tokens[i].end], s)
	}
	for i, t := range tokens {
		switch t.kind {
		case tokQuoted:
			if request[t.start] == '`' && strings.Contains(request[t.start:t.end], `"`) {
				return "", syntaxError(request, t.start, "an identifier in backquotes must not hold a double quote")
			}
			foldQuoted(out[t.start-from : t.end-from])
		case tokWord:
			if callableKeywords[strings.ToLower(request[t.start:t.end])] && is(i+1, "(") && is(i+2, ")") {
				out[tokens[i+1].start-from], out[tokens[i+2].start-from] = ' ', ' '
			}
		case tokPunct:
			if is(i, ",") && (i+1 == len(tokens) || is(i+1, ")") || is(i+1, "from")) {
				out[t.start-from] = ' '
			}
		}
	}
	return string(out), nil
}

func foldQuoted(b []byte) {
	for i, c := range b {
		switch {
		case c >= 'A' && c <= 'Z':
			b[i] = c + 'a' - 'A'
		case c == '`':
			b[i] = '"'
		}
	}
}
