package plan

import (
	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
)

// scope is what names mean inside one SELECT.
type scope struct {
	outer *scope
	// ctes are the names WITH defines here.
	ctes map[string]bool
	// items are the entries of FROM, in order.
	items []*fromItem
	// merged says that a join merges columns (USING), so a star shows them once.
	merged bool
}

// fromItem is one entry of FROM.
type fromItem struct {
	alias string
	// scan is the base table; nil for subqueries, CTEs and functions, whose columns are not known here.
	scan *Scan
	// renamed: the alias lists new column names.
	renamed bool
	// nullable: an outer join may fill the columns with NULL, so conditions must stay above it.
	nullable bool
}

// cte reports whether an unqualified table name is a CTE's.
func (s *scope) cte(name string) bool {
	for ; s != nil; s = s.outer {
		if s.ctes[name] {
			return true
		}
	}
	return false
}

// base reports whether all of FROM is base tables under their own column names.
func (s *scope) base() bool {
	for _, it := range s.items {
		if it.scan == nil || it.renamed {
			return false
		}
	}
	return len(s.items) > 0
}

// single returns the only table of FROM, or nil.
func (s *scope) single() *Scan {
	if len(s.items) != 1 || !s.base() {
		return nil
	}
	return s.items[0].scan
}

// resolve finds the table whose column a reference certainly is; nil when that is not certain: it may
// be an outer query's, a subquery's, ambiguous, or wrong.
func (s *scope) resolve(ref *pg.ColumnRef) (*fromItem, *catalog.Column) {
	parts, star := path(ref)
	if star || len(parts) == 0 {
		return nil, nil
	}
	name := parts[len(parts)-1]
	var found *fromItem
	var col *catalog.Column
	for _, it := range s.items {
		if len(parts) > 1 && it.alias != parts[len(parts)-2] {
			continue
		}
		if it.scan == nil || it.renamed {
			return nil, nil
		}
		if c := it.scan.column(name); c != nil {
			if found != nil {
				return nil, nil
			}
			found, col = it, c
		}
	}
	return found, col
}

// wholeRow reports whether a name may mean a whole row: it is a table's, and no table here is known to
// have a column of that name.
func (s *scope) wholeRow(name string) bool {
	for ; s != nil; s = s.outer {
		for _, it := range s.items {
			if it.alias == name && (it.scan == nil || it.renamed || it.scan.column(name) == nil) {
				return true
			}
		}
	}
	return false
}

// column finds a column that the text may name; nil when there is none.
func (s *Scan) column(name string) *catalog.Column {
	if name == catalog.VersionColumn {
		name = catalog.SeqColumn
	}
	for i := range s.Columns {
		if c := &s.Columns[i]; c.Name == name && !c.Hidden {
			return c
		}
	}
	return nil
}

// walkRefs calls f for the column references of an expression, without those of subqueries.
func walkRefs(n *pg.Node, f func(*pg.ColumnRef)) {
	switch e := n.GetNode().(type) {
	case *pg.Node_ColumnRef:
		f(e.ColumnRef)
	case *pg.Node_SubLink:
		walkRefs(e.SubLink.GetTestexpr(), f)
	default:
		for _, c := range children(n) {
			walkRefs(c, f)
		}
	}
}

// has reports whether f is true for a node of the expression; it does not look into subqueries.
func has(n *pg.Node, f func(*pg.Node) bool) bool {
	if n == nil {
		return false
	}
	if f(n) {
		return true
	}
	for _, c := range children(n) {
		if has(c, f) {
			return true
		}
	}
	return false
}

// children lists the expressions directly below an expression.
func children(n *pg.Node) []*pg.Node {
	switch e := n.GetNode().(type) {
	case *pg.Node_AExpr:
		return []*pg.Node{e.AExpr.GetLexpr(), e.AExpr.GetRexpr()}
	case *pg.Node_BoolExpr:
		return e.BoolExpr.GetArgs()
	case *pg.Node_NullTest:
		return []*pg.Node{e.NullTest.GetArg()}
	case *pg.Node_BooleanTest:
		return []*pg.Node{e.BooleanTest.GetArg()}
	case *pg.Node_TypeCast:
		return []*pg.Node{e.TypeCast.GetArg()}
	case *pg.Node_CollateClause:
		return []*pg.Node{e.CollateClause.GetArg()}
	case *pg.Node_FuncCall:
		list := append(append([]*pg.Node{}, e.FuncCall.GetArgs()...), e.FuncCall.GetAggOrder()...)
		return append(append(list, e.FuncCall.GetAggFilter()), windowParts(e.FuncCall.GetOver())...)
	case *pg.Node_SortBy:
		return []*pg.Node{e.SortBy.GetNode()}
	case *pg.Node_CaseExpr:
		return append(append([]*pg.Node{e.CaseExpr.GetArg()}, e.CaseExpr.GetArgs()...), e.CaseExpr.GetDefresult())
	case *pg.Node_CaseWhen:
		return []*pg.Node{e.CaseWhen.GetExpr(), e.CaseWhen.GetResult()}
	case *pg.Node_CoalesceExpr:
		return e.CoalesceExpr.GetArgs()
	case *pg.Node_MinMaxExpr:
		return e.MinMaxExpr.GetArgs()
	case *pg.Node_List:
		return e.List.GetItems()
	case *pg.Node_RowExpr:
		return e.RowExpr.GetArgs()
	case *pg.Node_AArrayExpr:
		return e.AArrayExpr.GetElements()
	case *pg.Node_AIndirection:
		return append([]*pg.Node{e.AIndirection.GetArg()}, e.AIndirection.GetIndirection()...)
	case *pg.Node_AIndices:
		return []*pg.Node{e.AIndices.GetLidx(), e.AIndices.GetUidx()}
	case *pg.Node_ResTarget:
		return []*pg.Node{e.ResTarget.GetVal()}
	case *pg.Node_SubLink:
		return []*pg.Node{e.SubLink.GetTestexpr()}
	case *pg.Node_GroupingFunc:
		return e.GroupingFunc.GetArgs()
	case *pg.Node_NamedArgExpr:
		return []*pg.Node{e.NamedArgExpr.GetArg()}
	}
	return nil
}

func windowParts(w *pg.WindowDef) []*pg.Node {
	if w == nil {
		return nil
	}
	list := append(append([]*pg.Node{}, w.GetPartitionClause()...), w.GetOrderClause()...)
	return append(list, w.GetStartOffset(), w.GetEndOffset())
}
