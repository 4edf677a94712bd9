package plan

import (
	"strconv"

	pg "github.com/pganalyze/pg_query_go/v6"
)

// Short constructors and readers for parse trees.

func call(name string, args ...*pg.Node) *pg.Node {
	return pg.MakeFuncCallNode([]*pg.Node{pg.MakeStrNode(name)}, args, -1)
}

func text(s string) *pg.Node { return pg.MakeAConstStrNode(s, -1) }

func number(v int64) *pg.Node { return pg.MakeAConstIntNode(v, -1) }

func boolean(v bool) *pg.Node {
	return &pg.Node{Node: &pg.Node_AConst{AConst: &pg.A_Const{
		Val: &pg.A_Const_Boolval{Boolval: &pg.Boolean{Boolval: v}}, Location: -1}}}
}

func null() *pg.Node {
	return &pg.Node{Node: &pg.Node_AConst{AConst: &pg.A_Const{Isnull: true, Location: -1}}}
}

// cast is arg::typeName, a name of engineTypes or interval.
func cast(arg *pg.Node, typeName string) *pg.Node {
	return &pg.Node{Node: &pg.Node_TypeCast{TypeCast: &pg.TypeCast{Arg: arg, TypeName: named(typeName, nil, nil), Location: -1}}}
}

func operator(op string, l, r *pg.Node) *pg.Node {
	return pg.MakeAExprNode(pg.A_Expr_Kind_AEXPR_OP, []*pg.Node{pg.MakeStrNode(op)}, l, r, -1)
}

func column(names ...string) *pg.Node {
	fields := make([]*pg.Node, len(names))
	for i, n := range names {
		fields[i] = pg.MakeStrNode(n)
	}
	return pg.MakeColumnRefNode(fields, -1)
}

// names reads a list of names.
func names(list []*pg.Node) []string {
	out := make([]string, 0, len(list))
	for _, n := range list {
		out = append(out, n.GetString_().GetSval())
	}
	return out
}

// path reads a column reference: its names, and whether it ends in a star.
func path(ref *pg.ColumnRef) (parts []string, star bool) {
	fields := ref.GetFields()
	if n := len(fields); n > 0 && fields[n-1].GetAStar() != nil {
		return names(fields[:n-1]), true
	}
	return names(fields), false
}

func parseInt(digits string) (int64, bool) {
	v, err := strconv.ParseInt(digits, 10, 64)
	return v, err == nil
}

// str reads a text constant.
func str(n *pg.Node) (string, bool) {
	c := n.GetAConst()
	if c == nil || c.GetIsnull() {
		return "", false
	}
	v, ok := c.GetVal().(*pg.A_Const_Sval)
	if !ok {
		return "", false
	}
	return v.Sval.GetSval(), true
}

func isNull(n *pg.Node) bool { return n.GetAConst().GetIsnull() }

// conjuncts splits a condition at its top-level ANDs.
func conjuncts(n *pg.Node) []*pg.Node {
	if n == nil {
		return nil
	}
	b := n.GetBoolExpr()
	if b == nil || b.GetBoolop() != pg.BoolExprType_AND_EXPR {
		return []*pg.Node{n}
	}
	var out []*pg.Node
	for _, a := range b.GetArgs() {
		out = append(out, conjuncts(a)...)
	}
	return out
}

// joined is the opposite of conjuncts; nothing gives nil.
func joined(list []*pg.Node) *pg.Node {
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	}
	return pg.MakeBoolExprNode(pg.BoolExprType_AND_EXPR, list, -1)
}
