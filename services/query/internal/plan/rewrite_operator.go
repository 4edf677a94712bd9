package plan

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/engine"
)

// comparisons are operators that mean the same in the engine, also with ANY and ALL.
var comparisons = map[string]bool{"=": true, "<>": true, "!=": true, "<": true, "<=": true, ">": true, ">=": true}

// sameOperators mean the same in the engine.
var sameOperators = map[string]bool{"+": true, "-": true, "*": true, "&": true, "|": true, "<<": true, ">>": true,
	"~unary": true, "+unary": true, "-unary": true}

// operator rewrites an operator; one that is not known here is refused.
func (p *planning) operator(e *pg.A_Expr, s *scope) (*pg.Node, error) {
	if e.GetKind() == pg.A_Expr_Kind_AEXPR_SIMILAR {
		return nil, p.at(dberr.New(dberr.Unsupported, "SIMILAR TO is not supported; use LIKE or a regular expression (~)"), e.GetLocation())
	}
	n := &pg.Node{Node: &pg.Node_AExpr{AExpr: e}}
	if err := p.operand(&e.Lexpr, s); err != nil {
		return nil, err
	}
	if err := p.operand(&e.Rexpr, s); err != nil {
		return nil, err
	}
	list := names(e.GetName())
	op := list[len(list)-1]
	if len(list) > 1 && list[0] != "pg_catalog" {
		return nil, p.noOperator(strings.Join(list, "."), e)
	}
	switch e.GetKind() {
	case pg.A_Expr_Kind_AEXPR_OP:
		if comparisons[op] {
			typed(e, s)
		}
		return p.binary(n, e, op, s)
	case pg.A_Expr_Kind_AEXPR_OP_ANY, pg.A_Expr_Kind_AEXPR_OP_ALL:
		if !comparisons[op] {
			return nil, p.noOperator(op+" ANY", e)
		}
		return n, nil
	case pg.A_Expr_Kind_AEXPR_DISTINCT, pg.A_Expr_Kind_AEXPR_NOT_DISTINCT, pg.A_Expr_Kind_AEXPR_NULLIF,
		pg.A_Expr_Kind_AEXPR_IN, pg.A_Expr_Kind_AEXPR_BETWEEN, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN:
		typed(e, s)
		return n, nil
	case pg.A_Expr_Kind_AEXPR_LIKE:
		return like(n, e, engine.Like, op == "!~~"), nil
	case pg.A_Expr_Kind_AEXPR_ILIKE:
		return like(n, e, engine.ILike, op == "!~~*"), nil
	case pg.A_Expr_Kind_AEXPR_BETWEEN_SYM, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM:
		return nil, p.at(dberr.New(dberr.Unsupported, "BETWEEN SYMMETRIC is not supported"), e.GetLocation())
	}
	return nil, p.noOperator(op, e)
}

// operand rewrites one side. Rows, (a, b), exist only here, to be compared.
func (p *planning) operand(n **pg.Node, s *scope) error {
	if r := (*n).GetRowExpr(); r != nil {
		return p.exprs(r.Args, s)
	}
	if l := (*n).GetList(); l != nil {
		for i := range l.GetItems() {
			if err := p.operand(&l.Items[i], s); err != nil {
				return err
			}
		}
		return nil
	}
	return p.replace(n, s)
}

func (p *planning) noOperator(op string, e *pg.A_Expr) error {
	return p.at(dberr.New(dberr.Unsupported, "operator %s is not supported", op), e.GetLocation())
}

func (p *planning) binary(n *pg.Node, e *pg.A_Expr, op string, s *scope) (*pg.Node, error) {
	l, r := e.GetLexpr(), e.GetRexpr()
	if l == nil {
		switch {
		case op == "@":
			return call("abs", r), nil
		case sameOperators[op+"unary"]:
			return n, nil
		}
		return nil, p.noOperator(op, e)
	}
	if comparisons[op] || sameOperators[op] {
		return n, nil
	}
	switch op {
	case "/", "%":
		e.Rexpr = guardZero(r)
		return n, nil
	case "||":
		return call(engine.Concat, p.textOrBytes(l, r, s), p.textOrBytes(r, l, s)), nil
	case "^":
		return call("pow", l, r), nil
	case "#":
		return call("xor", l, r), nil
	case "~":
		return call("regexp_matches", l, r), nil
	case "~*":
		return call("regexp_matches", l, r, text("i")), nil
	case "!~":
		return not(call("regexp_matches", l, r)), nil
	case "!~*":
		return not(call("regexp_matches", l, r, text("i"))), nil
	case "->":
		return call(engine.JSONGet, l, r), nil
	case "->>":
		return call(engine.JSONGetText, l, r), nil
	case "?":
		return call(engine.JSONHas, l, r), nil
	case "~~":
		return like(n, e, engine.Like, false), nil
	}
	return nil, p.noOperator(op, e)
}

// textOrBytes gives an operand of || a type: bytes stay bytes where both sides are known to be, anything
// else becomes text.
func (p *planning) textOrBytes(n, other *pg.Node, s *scope) *pg.Node {
	if isBytes(n, s) && isBytes(other, s) {
		return n
	}
	return cast(n, "text")
}

func isBytes(n *pg.Node, s *scope) bool {
	if c := n.GetTypeCast(); c != nil {
		return typeSpelling(c.GetTypeName()) == engineTypes[catalog.Bytes]
	}
	if f := n.GetFuncCall(); f != nil {
		name, _ := functionName(f)
		return name == engine.ToBytes || name == engine.Concat && isBytes(f.GetArgs()[0], s) && isBytes(f.GetArgs()[1], s)
	}
	ref := n.GetColumnRef()
	if ref == nil {
		return false
	}
	_, c := s.resolve(ref)
	return c != nil && c.Type.Kind == catalog.Bytes
}

func not(n *pg.Node) *pg.Node {
	return pg.MakeBoolExprNode(pg.BoolExprType_NOT_EXPR, []*pg.Node{n}, -1)
}

// like calls our own function, which takes no longer for some patterns than for others. A constant
// pattern of characters and % only stays as it is: the engine is fast with those.
func like(n *pg.Node, e *pg.A_Expr, name string, negated bool) *pg.Node {
	pattern, escape := e.GetRexpr(), text(`\`)
	t, constant := str(pattern)
	if f := pattern.GetFuncCall(); f != nil { // LIKE … ESCAPE, as the parser writes it
		if fn, ok := functionName(f); ok && fn == likeEscape {
			pattern, escape = f.GetArgs()[0], f.GetArgs()[1]
		}
	}
	if constant && name == engine.Like && !strings.ContainsAny(t, `\_`) {
		return n
	}
	matches := call(name, e.GetLexpr(), pattern, escape)
	if negated {
		return not(matches)
	}
	return matches
}

// likeEscape is what the parser makes of ESCAPE; expr lets it through to like.
const likeEscape = "like_escape"
