package plan

import (
	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// cutScan gives the statement its implicit order (spec 1.1: by primary key when nothing else is said)
// and, where the storage role can sort and cut for the engine, lets it. It runs on the statement itself
// after the conditions have been pushed down and before anything else is rewritten.
func (p *planning) cutScan(q *pg.SelectStmt, s *scope) {
	scan := s.single()
	if scan == nil || scan.Table == nil || grouped(q) {
		return
	}
	simple := !someTarget(q, isSubLinkOrWindow) && !has(q.GetWhereClause(), isSubLinkOrWindow)
	// Rows of several shards arrive as they come: across users only ORDER BY orders.
	if len(q.GetSortClause()) == 0 && !scan.AllUsers {
		if simple && !scan.Spreads() {
			scan.Ordered = true // a filter and a projection keep the scan's order
		} else {
			p.sortByKey(q, scan)
		}
	}
	if q.GetLimitCount() == nil || q.GetWhereClause() != nil || !simple || someTarget(q, isSetReturning) {
		return
	}
	by, ok := order(q.GetSortClause(), q.GetTargetList(), s)
	if !ok || !p.countable(q.GetLimitCount()) || !p.countable(q.GetLimitOffset()) {
		return
	}
	scan.Order, scan.limit, scan.offset, scan.cut, scan.Ordered = by, q.GetLimitCount(), q.GetLimitOffset(), true, !scan.Spreads()
	scan.limit, scan.offset = sqlfront.Clone(scan.limit), cloned(scan.offset)
}

func cloned(n *pg.Node) *pg.Node {
	if n == nil {
		return nil
	}
	return sqlfront.Clone(n)
}

// sortByKey appends ORDER BY the primary key.
func (p *planning) sortByKey(q *pg.SelectStmt, scan *Scan) {
	for i := range scan.Table.Key() {
		key := scan.Table.KeyColumn(i)
		if key.Hidden {
			scan.keyed = true
		}
		q.SortClause = append(q.SortClause, pg.MakeSortByNode(column(scan.alias, key.Name),
			pg.SortByDir_SORTBY_ASC, pg.SortByNulls_SORTBY_NULLS_DEFAULT, -1))
	}
}

// grouped reports whether a row of the result is not a row of the table.
func grouped(q *pg.SelectStmt) bool {
	return len(q.GetGroupClause()) > 0 || q.GetHavingClause() != nil || len(q.GetDistinctClause()) > 0 ||
		someTarget(q, isAggregate)
}

func someTarget(q *pg.SelectStmt, f func(*pg.Node) bool) bool {
	for _, list := range [][]*pg.Node{q.GetTargetList(), q.GetSortClause()} {
		for _, t := range list {
			if has(t, f) {
				return true
			}
		}
	}
	return false
}

func isAggregate(n *pg.Node) bool {
	f := n.GetFuncCall()
	if f == nil || f.GetOver() != nil {
		return false
	}
	name, _ := functionName(f)
	return aggregates[name] != ""
}

func isSubLinkOrWindow(n *pg.Node) bool {
	return n.GetSubLink() != nil || n.GetFuncCall().GetOver() != nil
}

func isSetReturning(n *pg.Node) bool {
	f := n.GetFuncCall()
	if f == nil {
		return false
	}
	name, _ := functionName(f)
	return tableFunctions[name]
}
