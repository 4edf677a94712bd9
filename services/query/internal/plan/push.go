package plan

import (
	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// push hands a condition to the only table it is about, if the storage role can evaluate it exactly. It
// is then evaluated there and nowhere else.
func (p *planning) push(c *pg.Node, s *scope) bool {
	it := onlyItem(c, s)
	if it == nil || it.scan == nil || it.scan.Table == nil || it.nullable {
		return false
	}
	it.scan.tree = p.tree
	if _, err := it.scan.predicate(c, p.params); err != nil {
		// Whatever is wrong or unknown there is the engine's to answer, or to complain about.
		return false
	}
	it.scan.filters = append(it.scan.filters, c)
	return true
}

// onlyItem finds the entry of FROM that all columns of a condition belong to. A condition without
// columns belongs to the only table there is.
func onlyItem(c *pg.Node, s *scope) *fromItem {
	if has(c, func(n *pg.Node) bool { return n.GetSubLink() != nil }) {
		return nil
	}
	var only *fromItem
	certain, refs := true, 0
	walkRefs(c, func(ref *pg.ColumnRef) {
		refs++
		it, _ := s.resolve(ref)
		if it == nil || only != nil && it != only {
			certain = false
			return
		}
		only = it
	})
	if refs == 0 && s.single() != nil {
		return s.items[0]
	}
	if !certain {
		return nil
	}
	return only
}

// predicate compiles a condition on the scan's table.
func (s *Scan) predicate(c *pg.Node, params []datum.Datum) (*exprv1.Expr, error) {
	e, err := sqlfront.ToPredicate(c, sqlfront.Scope{Table: s.Table, Alias: s.alias, Params: params, Tree: s.tree, AllUsers: s.AllUsers})
	if err != nil {
		return nil, err
	}
	_, err = predicate.CompileFilter(e, s.Table)
	return e, err
}

// filter joins the scan's conditions for one execution.
func (b *BoundScan) filter(params []datum.Datum) (*exprv1.Expr, error) {
	all := make([]*exprv1.Expr, len(b.filters))
	for i, c := range b.filters {
		e, err := b.predicate(c, params)
		if err != nil {
			return nil, err
		}
		all[i] = e
	}
	return predicate.And(all...), nil
}

// count reads LIMIT or OFFSET.
func count(clause string, n *pg.Node, params []datum.Datum) (uint64, bool, error) {
	if n == nil || isNull(n) {
		return 0, false, nil
	}
	v, ok := integer(n)
	if ref := n.GetParamRef(); ref != nil {
		i := int(ref.GetNumber())
		if i < 1 || i > len(params) {
			return 0, false, dberr.New(dberr.InvalidArgument, "the statement has parameter $%d, but %d were given", i, len(params))
		}
		if params[i-1].IsNull() {
			return 0, false, nil
		}
		v, ok = params[i-1].AsInt(), params[i-1].Kind() == datum.KindInt
	}
	if !ok {
		return 0, false, dberr.New(dberr.InvalidArgument, "%s needs an integer", clause)
	}
	if v < 0 {
		return 0, false, dberr.New(dberr.InvalidArgument, "%s must not be negative", clause)
	}
	return uint64(v), true, nil
}

// countable reports whether count can read a LIMIT or OFFSET.
func (p *planning) countable(n *pg.Node) bool {
	_, _, err := count("", n, p.params)
	return err == nil
}

// order translates ORDER BY to what the storage role sorts by; ok is false when it cannot. targets are
// the results, whose names and numbers ORDER BY may use.
func order(sorts, targets []*pg.Node, s *scope) (out []*exprv1.OrderBy, ok bool) {
	for _, n := range sorts {
		sb := n.GetSortBy()
		col := sortColumn(sb.GetNode(), targets, s)
		if col == nil || len(sb.GetUseOp()) > 0 || !sortable(col) {
			return nil, false
		}
		desc := sb.GetSortbyDir() == pg.SortByDir_SORTBY_DESC
		o := &exprv1.OrderBy{ColumnId: col.ID, Descending: desc, NullsFirst: desc}
		switch sb.GetSortbyNulls() {
		case pg.SortByNulls_SORTBY_NULLS_FIRST:
			o.NullsFirst = true
		case pg.SortByNulls_SORTBY_NULLS_LAST:
			o.NullsFirst = false
		}
		out = append(out, o)
	}
	return out, true
}

// sortable excludes the type whose order the engine and storage might see differently.
func sortable(c *catalog.Column) bool { return c.Type.Kind != catalog.Embedding }

// sortColumn finds the table column an ORDER BY item is: by the name of a result first, as PostgreSQL
// does, then by the name of a column.
func sortColumn(n *pg.Node, targets []*pg.Node, s *scope) *catalog.Column {
	if i, ok := integer(n); ok {
		return targetColumn(targets, int(i)-1, s)
	}
	ref := n.GetColumnRef()
	if ref == nil {
		return nil
	}
	if parts, star := path(ref); len(parts) == 1 && !star {
		for i, t := range targets {
			if t.GetResTarget().GetName() == parts[0] {
				return targetColumn(targets, i, s)
			}
		}
	}
	_, c := s.resolve(ref)
	return c
}

// targetColumn returns the column that the i-th result is; nil when it is an expression, or when a star
// before it moves the numbers.
func targetColumn(targets []*pg.Node, i int, s *scope) *catalog.Column {
	if i < 0 || i >= len(targets) {
		return nil
	}
	for _, t := range targets[:i+1] {
		if _, star := path(t.GetResTarget().GetVal().GetColumnRef()); star {
			return nil
		}
	}
	ref := targets[i].GetResTarget().GetVal().GetColumnRef()
	if ref == nil {
		return nil
	}
	_, c := s.resolve(ref)
	return c
}
