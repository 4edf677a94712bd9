package sqlfront

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
)

// TestText runs testdata/*.txt. Commands:
//
//	parse   a request; prints its statements
//	each    one request per line; prints each
//	mask    a request; prints it for logs
//	eval    one expression per line; prints its value by internal/predicate
//	terms   one condition on the table of evalTable per line; prints terms and key range
func TestText(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "parse":
				return printRequest(d.Input)
			case "mask":
				return MaskSecrets(d.Input)
			}
			f := map[string]func(string) string{"each": printRequest, "eval": evalLine, "terms": termsLine}[d.Cmd]
			if f == nil {
				t.Fatalf("unknown command %s", d.Cmd)
			}
			var b strings.Builder
			for line := range strings.SplitSeq(d.Input, "\n") {
				fmt.Fprintf(&b, "%s\n    %s\n", line, strings.ReplaceAll(strings.TrimSpace(f(line)), "\n", "\n    "))
			}
			return b.String()
		})
	})
}

func printError(err error) string {
	at := ""
	if line := dberr.FieldOf(err, dberr.FieldLine); line != "" {
		at = fmt.Sprintf(" at %s:%s", line, dberr.FieldOf(err, dberr.FieldColumn))
	}
	return fmt.Sprintf("error %s%s: %v", dberr.CodeOf(err), at, err)
}

func printRequest(text string) string {
	statements, err := Parse(text, Limits{})
	if err != nil {
		return printError(err)
	}
	var b strings.Builder
	for _, s := range statements {
		fmt.Fprintln(&b, printStatement(s))
	}
	return b.String()
}

func printStatement(s Statement) string {
	switch s := s.(type) {
	case *Select:
		return "SELECT " + deparsed(s.Tree.Stmt)
	case *Insert:
		return printInsert(s)
	case *Update:
		out := fmt.Sprintf("UPDATE %s %s", s.Table, s.Alias)
		for _, a := range s.Sets {
			out += fmt.Sprintf(" [%s = %s]", a.Column, printExpr(a.Value))
		}
		return out + " where " + printExpr(s.Where) + printList(" returning", s.Returning)
	case *Delete:
		return fmt.Sprintf("DELETE %s %s where %s%s", s.Table, s.Alias, printExpr(s.Where), printList(" returning", s.Returning))
	case *ExecuteAs:
		return fmt.Sprintf("AS %s: %s", s.User, printStatement(s.Inner))
	case *Explain:
		return fmt.Sprintf("EXPLAIN analyze=%t %s", s.Analyze, printStatement(s.Inner))
	case *Subscribe:
		o, _ := json.Marshal(s.Options)
		return fmt.Sprintf("SUBSCRIBE %s %s text=%s", printStatement(s.Select), o, s.Select.Text())
	case *CreateTable:
		return printTable(s)
	}
	b, _ := json.Marshal(s)
	return fmt.Sprintf("%s %s", s.Command(), b)
}

func printTable(s *CreateTable) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE %s TABLE %s", s.Kind, s.Table)
	if s.IfNotExists {
		b.WriteString(" if-not-exists")
	}
	for _, c := range s.Columns {
		fmt.Fprintf(&b, "\n  %s %s", c.Name, c.Type)
		for _, f := range []struct {
			on   bool
			text string
		}{{c.PrimaryKey, "key"}, {c.NotNull, "not-null"}, {c.Unique, "unique"}} {
			if f.on {
				b.WriteString(" " + f.text)
			}
		}
		switch c.Default.Kind {
		case catalog.NoDefault:
		case catalog.DefaultLiteral:
			d, _, err := datum.Decode(c.Default.Literal)
			fmt.Fprintf(&b, " default %s %q %v", d.Kind(), datum.FormatText(d, c.Type), err)
		default:
			fmt.Fprintf(&b, " default function %d", c.Default.Kind)
		}
	}
	if s.Options != (catalog.TableOptions{}) {
		fmt.Fprintf(&b, "\n  options %+v", s.Options)
	}
	fmt.Fprintf(&b, "\n  access=%q seed=%t", s.Access, s.SeedGrammar)
	return b.String()
}

func printInsert(s *Insert) string {
	out := fmt.Sprintf("INSERT %s %q", s.Table, s.Columns)
	for _, row := range s.Rows {
		out += printList(" row", row)
	}
	if s.Select != nil {
		out += " from " + printStatement(s.Select)
	}
	if s.DoNothing {
		out += fmt.Sprintf(" do-nothing %q", s.ConflictColumns)
	}
	return out + printList(" returning", s.Returning)
}

func printList(label string, nodes []*Node) string {
	if nodes == nil {
		return ""
	}
	parts := make([]string, len(nodes))
	for i, n := range nodes {
		if parts[i] = printExpr(n); n.GetResTarget() != nil {
			parts[i] = printExpr(n.GetResTarget().GetVal())
		}
	}
	return label + "(" + strings.Join(parts, " | ") + ")"
}

func printExpr(n *Node) string {
	if IsDefault(n) {
		return "DEFAULT"
	}
	tree, err := Parse("SELECT 1", Limits{})
	if err != nil {
		return err.Error()
	}
	stmt := Clone(tree[0].(*Select).Tree.Stmt)
	stmt.GetSelectStmt().GetTargetList()[0].GetResTarget().Val = n
	return strings.TrimPrefix(deparsed(stmt), "SELECT ")
}

func deparsed(n *Node) string {
	text, err := Deparse(n)
	if err != nil {
		return err.Error()
	}
	return text
}

// evalTable is the table of eval and terms, evalRow its one row.
var evalTable = (&catalog.Table{Namespace: "app", Name: "t", Columns: []catalog.Column{
	{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, PrimaryKey: true},
	{ID: 2, Name: "name", Type: catalog.Type{Kind: catalog.Text}},
	{ID: 3, Name: "small", Type: catalog.Type{Kind: catalog.SmallInt}},
	{ID: 4, Name: "i", Type: catalog.Type{Kind: catalog.Int}},
	{ID: 5, Name: "f", Type: catalog.Type{Kind: catalog.Float}},
	{ID: 6, Name: "d", Type: catalog.Type{Kind: catalog.Double}},
	{ID: 7, Name: "price", Type: catalog.Type{Kind: catalog.Decimal, Precision: 10, Scale: 2}},
	{ID: 8, Name: "ts", Type: catalog.Type{Kind: catalog.Timestamp}},
	{ID: 9, Name: "day", Type: catalog.Type{Kind: catalog.Date}},
	{ID: 10, Name: "at", Type: catalog.Type{Kind: catalog.Time}},
	{ID: 11, Name: "ok", Type: catalog.Type{Kind: catalog.Boolean}},
	{ID: 12, Name: "u", Type: catalog.Type{Kind: catalog.UUID}},
	{ID: 13, Name: "doc", Type: catalog.Type{Kind: catalog.JSON}},
	{ID: 14, Name: "raw", Type: catalog.Type{Kind: catalog.Bytes}},
	{ID: 15, Name: "nothing", Type: catalog.Type{Kind: catalog.Int}},
	{ID: 16, Name: "emb", Type: catalog.Type{Kind: catalog.Embedding, Dimension: 2}},
}}).Index()

var evalText = map[string]string{"id": "7", "name": "Grüße", "small": "32767", "i": "2147483647", "f": "0.1", "d": "2.5",
	"price": "19.99", "ts": "2024-02-29 12:34:56.789", "day": "2024-02-29", "at": "23:30", "ok": "true",
	"u": "01234567-89ab-cdef-0123-456789abcdef", "doc": `{"a": {"b": [1, "x", null]}, "n": 1.50, "s": "q\"u"}`,
	"raw": `\x00ff`, "emb": "[1,2.5]"}

type textRow map[uint32]datum.Datum

func (r textRow) Column(id uint32) datum.Datum { return r[id] }

func evalRow() textRow {
	r := textRow{}
	for name, text := range evalText {
		c, _ := evalTable.Column(name)
		d, err := datum.ParseText(c.Type, text)
		if err != nil {
			panic(err)
		}
		r[c.ID] = d
	}
	return r
}

// evalNowUS is 2025-06-15 10:00:00.
const evalNowUS = 1_749_981_600_000_000

func evalLine(line string) string {
	program, err := compileLine(line)
	if err != nil {
		return printError(err)
	}
	d, err := program.Eval(&predicate.Env{NowUS: evalNowUS, UserID: "alice", Role: catalog.RoleService}, evalRow())
	if err != nil {
		return printError(err)
	}
	typ := "-"
	if t := program.Type(); t.Kind != 0 {
		typ = t.String()
	}
	if d.IsNull() {
		return "NULL " + typ
	}
	return fmt.Sprintf("%s %s", datum.FormatText(d, program.Type()), typ)
}

func compileLine(line string) (*predicate.Program, error) {
	statements, err := Parse("SELECT "+line, Limits{})
	if err != nil {
		return nil, err
	}
	tree := statements[0].(*Select).Tree
	e, err := ToPredicate(tree.Stmt.GetSelectStmt().GetTargetList()[0].GetResTarget().GetVal(), Scope{Table: evalTable, Tree: tree,
		Params: []datum.Datum{datum.Int(7), datum.Text("2024-02-29"), datum.Null}})
	if err != nil {
		return nil, err
	}
	return predicate.Compile(e, evalTable)
}

func termsLine(line string) string {
	statements, err := Parse("SELECT "+line, Limits{})
	if err != nil {
		return printError(err)
	}
	tree := statements[0].(*Select).Tree
	e, err := ToPredicate(tree.Stmt.GetSelectStmt().GetTargetList()[0].GetResTarget().GetVal(), Scope{Table: evalTable, Tree: tree})
	if err != nil {
		return printError(err)
	}
	var b strings.Builder
	for _, term := range predicate.Terms(e, evalTable) {
		c, _ := evalTable.AnyColumn(term.Column)
		fmt.Fprintf(&b, "%s op=%d %s exact=%t\n", c.Name, term.Op, printValues(term.Values, c.Type), term.Exact)
	}
	r := predicate.KeyRange(e, evalTable)
	fmt.Fprintf(&b, "key low=%s top=%s points=%s empty=%t", printBound(r.Low), printBound(r.Top),
		printValues(r.Points, catalog.Type{Kind: catalog.BigInt}), r.Empty)
	return b.String()
}

func printValues(values []datum.Datum, t catalog.Type) string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = datum.FormatText(v, t)
	}
	return "[" + strings.Join(out, " ") + "]"
}

func printBound(b predicate.Bound) string {
	if !b.Set {
		return "-"
	}
	return fmt.Sprintf("%s/%t", datum.FormatText(b.Value, catalog.Type{Kind: catalog.BigInt}), b.Inclusive)
}
