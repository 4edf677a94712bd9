package predicate

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

// Column refers to a column by id.
func Column(id uint32) *exprv1.Expr {
	return &exprv1.Expr{Node: &exprv1.Expr_ColumnId{ColumnId: id}}
}

// Literal is a constant. Text is of unknown type, like a quoted literal in SQL: it becomes what the
// other operand is. Use Cast for a text that must be TEXT.
func Literal(d datum.Datum) *exprv1.Expr {
	return &exprv1.Expr{Node: &exprv1.Expr_Literal{Literal: datum.Append(nil, d)}}
}

// Call applies an operator or function by its canonical name.
func Call(name string, args ...*exprv1.Expr) *exprv1.Expr {
	return &exprv1.Expr{Node: &exprv1.Expr_Call{Call: &exprv1.Call{Name: name, Args: args}}}
}

// Cast is CAST(e AS t).
func Cast(e *exprv1.Expr, t catalog.Type) *exprv1.Expr {
	return Call("cast", e, Literal(datum.Text(t.String())))
}

// And joins conditions; nil ones are left out, and nothing at all gives nil.
func And(conditions ...*exprv1.Expr) *exprv1.Expr {
	var kept []*exprv1.Expr
	for _, e := range conditions {
		kept = append(kept, Conjuncts(e)...)
	}
	switch len(kept) {
	case 0:
		return nil
	case 1:
		return kept[0]
	}
	return Call("and", kept...)
}

// Conjuncts splits a condition at its top-level ANDs; nil gives none.
func Conjuncts(e *exprv1.Expr) []*exprv1.Expr {
	return appendConjuncts(nil, e, 0)
}

func appendConjuncts(dst []*exprv1.Expr, e *exprv1.Expr, depth int) []*exprv1.Expr {
	switch {
	case e == nil:
		return dst
	case e.GetCall().GetName() != "and" || depth >= DepthMax:
		return append(dst, e)
	}
	for _, a := range e.GetCall().GetArgs() {
		dst = appendConjuncts(dst, a, depth+1)
	}
	return dst
}
