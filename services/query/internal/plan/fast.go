package plan

import (
	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/partition"
)

// fast plans a SELECT that the storage role can answer alone: columns of one table, conditions it
// evaluates exactly, an order of columns, constant limits. It returns nil when the engine is needed; q
// is not changed.
func (p *planning) fast(q *pg.SelectStmt) (*Plan, error) {
	if q.GetWithClause() != nil || q.GetOp() != pg.SetOperation_SETOP_NONE || len(q.GetFromClause()) != 1 ||
		len(q.GetGroupClause()) > 0 || q.GetHavingClause() != nil || len(q.GetDistinctClause()) > 0 || len(q.GetWindowClause()) > 0 ||
		len(q.GetLockingClause()) > 0 || q.GetIntoClause() != nil || q.GetLimitOption() == pg.LimitOption_LIMIT_OPTION_WITH_TIES {
		return nil, nil
	}
	v := q.GetFromClause()[0].GetRangeVar()
	if v == nil || len(v.GetAlias().GetColnames()) > 0 {
		return nil, nil
	}
	scan, err := p.table(v)
	if err != nil || scan.Table == nil {
		return nil, err
	}
	scan.alias = v.GetRelname()
	if a := v.GetAlias().GetAliasname(); a != "" {
		scan.alias = a
	}
	s := &scope{items: []*fromItem{{alias: scan.alias, scan: scan}}}
	p.deleted(q.GetWhereClause(), s)
	for _, c := range conjuncts(q.GetWhereClause()) {
		if !p.push(c, s) {
			return nil, nil
		}
	}
	if plan := p.fastCount(q, scan); plan != nil {
		return plan, nil
	}
	if p.staged || scan.Table.Partitioned() && !p.inOnePartition(scan) {
		return nil, nil
	}
	return p.fastScan(q, scan, s), nil
}

// inOnePartition reports whether the conditions choose one partition of a partitioned table: several have no
// common order and no common limit.
func (p *planning) inOnePartition(scan *Scan) bool {
	b := BoundScan{Scan: scan}
	filter, err := b.filter(p.params)
	if err != nil {
		return false
	}
	chosen, all, err := partition.Matching(scan.Table, filter)
	return err == nil && !all && len(chosen) == 1
}

func (p *planning) fastScan(q *pg.SelectStmt, scan *Scan, s *scope) *Plan {
	out := p.fastOutput(q, s)
	by, ok := order(q.GetSortClause(), q.GetTargetList(), s)
	if out == nil || !ok || !p.countable(q.GetLimitCount()) || !p.countable(q.GetLimitOffset()) {
		return nil
	}
	scan.Columns = make([]catalog.Column, len(out))
	for i, o := range out {
		scan.Columns[i] = *o.Column
	}
	scan.Order, scan.limit, scan.offset = by, q.GetLimitCount(), q.GetLimitOffset()
	return &Plan{Kind: FastScan, Scans: []*Scan{scan}, Output: out}
}

// fastOutput lists the results if all are columns, each of them once.
func (p *planning) fastOutput(q *pg.SelectStmt, s *scope) []Output {
	var out []Output
	seen := map[uint32]bool{}
	scan := s.items[0].scan
	add := func(name string, c *catalog.Column) bool {
		if seen[c.ID] {
			return false
		}
		seen[c.ID] = true
		out = append(out, Output{Name: name, Column: c})
		return true
	}
	for _, n := range q.GetTargetList() {
		t := n.GetResTarget()
		ref := t.GetVal().GetColumnRef()
		if ref == nil || len(t.GetIndirection()) > 0 {
			return nil
		}
		parts, star := path(ref)
		if star {
			if len(parts) > 1 || len(parts) == 1 && parts[0] != scan.alias {
				return nil
			}
			for i := range scan.Columns {
				if c := &scan.Columns[i]; !c.Hidden && !add(c.Name, c) {
					return nil
				}
			}
			continue
		}
		_, c := s.resolve(ref)
		if c == nil {
			return nil
		}
		name := t.GetName()
		if name == "" {
			name = parts[len(parts)-1]
		}
		if !add(name, c) {
			return nil
		}
	}
	return out
}

// fastCount plans SELECT count(*) FROM t WHERE ….
func (p *planning) fastCount(q *pg.SelectStmt, scan *Scan) *Plan {
	if len(q.GetTargetList()) != 1 || len(q.GetSortClause()) > 0 || q.GetLimitCount() != nil || q.GetLimitOffset() != nil {
		return nil
	}
	t := q.GetTargetList()[0].GetResTarget()
	f := t.GetVal().GetFuncCall()
	if f == nil || !f.GetAggStar() || f.GetAggFilter() != nil || f.GetOver() != nil || len(t.GetIndirection()) > 0 {
		return nil
	}
	if name, ok := functionName(f); !ok || name != "count" {
		return nil
	}
	name := t.GetName()
	if name == "" {
		name = "count"
	}
	scan.Columns = nil
	return &Plan{Kind: FastCount, Scans: []*Scan{scan}, Output: []Output{{Name: name}}}
}
