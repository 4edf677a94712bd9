package plan

import (
	"fmt"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// A parse tree has no parentheses, and the text that is written from it leaves out those it believes
// PostgreSQL does not need; some of them are needed after all, and the engine's precedences are not
// quite PostgreSQL's. So every operand that is an expression of operators itself is marked by a call,
// and the call's name is taken out of the text again: what remains of it is a pair of parentheses.

// parenMark is the name of the marking call, to which a number is added when a literal holds it.
const parenMark = "kalam_paren"

// parenAttempts bounds the search for a mark that no literal holds. One attempt is all that is needed
// unless somebody aims at this.
const parenAttempts = 8

// write writes the statement as the engine's text.
func write(q *pg.SelectStmt) (string, error) {
	stmt := &pg.Node{Node: &pg.Node_SelectStmt{SelectStmt: q}}
	m := &marker{name: parenMark}
	m.mark(stmt)
	for attempt := range parenAttempts {
		sql, err := sqlfront.Deparse(stmt)
		if err != nil {
			return "", err
		}
		if strings.Count(sql, m.name) == len(m.calls) {
			return strings.ReplaceAll(sql, m.name+"(", "("), nil
		}
		m.rename(fmt.Sprintf("%s_%d", parenMark, attempt))
	}
	return "", dberr.New(dberr.InvalidSQL, "the statement's literals hold a name that is used internally (%s)", parenMark)
}

type marker struct {
	name  string
	calls []*pg.Node // the names of the marking calls
}

func (m *marker) rename(name string) {
	m.name = name
	for _, n := range m.calls {
		n.GetString_().Sval = name
	}
}

// mark goes through everything below a node.
func (m *marker) mark(root *pg.Node) {
	sqlfront.Walk(root, func(msg proto.Message) bool {
		switch e := msg.(type) {
		case *pg.A_Expr:
			m.operand(&e.Lexpr)
			m.operand(&e.Rexpr)
		case *pg.BoolExpr:
			m.list(e.Args)
		case *pg.NullTest:
			m.operand(&e.Arg)
		case *pg.BooleanTest:
			m.operand(&e.Arg)
		case *pg.TypeCast:
			m.operand(&e.Arg)
		case *pg.A_Indirection:
			m.operand(&e.Arg)
		case *pg.SubLink:
			m.operand(&e.Testexpr)
		}
		return true
	})
}

// operand marks an operand, or those in a list (IN, BETWEEN).
func (m *marker) operand(n **pg.Node) {
	if l := (*n).GetList(); l != nil {
		m.list(l.Items)
		return
	}
	if !compound(*n) {
		return
	}
	name := pg.MakeStrNode(m.name)
	m.calls = append(m.calls, name)
	*n = pg.MakeFuncCallNode([]*pg.Node{name}, []*pg.Node{*n}, -1)
}

func (m *marker) list(items []*pg.Node) {
	for i := range items {
		m.operand(&items[i])
	}
}

// compound reports whether a node is written with operators, or with a sign.
func compound(n *pg.Node) bool {
	switch e := n.GetNode().(type) {
	case *pg.Node_AExpr, *pg.Node_BoolExpr, *pg.Node_NullTest, *pg.Node_BooleanTest:
		return true
	case *pg.Node_SubLink:
		return e.SubLink.GetTestexpr() != nil
	case *pg.Node_AConst:
		v, ok := integer(n)
		return ok && v < 0 || strings.HasPrefix(e.AConst.GetFval().GetFval(), "-")
	}
	return false
}
