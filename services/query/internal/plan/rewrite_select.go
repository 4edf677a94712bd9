package plan

import (
	"fmt"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// scansMax bounds the tables of one statement: each is an open stream.
const scansMax = 64

// planning is the work on one statement.
type planning struct {
	state     *catalogview.State
	systems   Systems
	namespace string
	tree      *sqlfront.Tree
	params    []datum.Datum // their kinds shape the plan, their values do not
	staged    bool          // see Scan.staged

	scans  []*Scan
	refs   []columnRef
	output []Output
	used   []int // see Plan.params
	copies int   // see multiply
	stars  int   // see expand
}

// columnRef is a name the text uses and where.
type columnRef struct {
	table, column string
	location      int32
}

// at adds a place in the user's text to an error.
func (p *planning) at(err *dberr.Error, location int32) error {
	if location < 0 {
		return err
	}
	return err.At(p.tree.Locate(location))
}

// query rewrites a SELECT in place. top marks the statement itself.
func (p *planning) query(q *pg.SelectStmt, outer *scope, top bool) error {
	if err := p.refuseClauses(q); err != nil {
		return err
	}
	s := &scope{outer: outer, ctes: map[string]bool{}}
	if err := p.with(q.GetWithClause(), s); err != nil {
		return err
	}
	switch {
	case q.GetOp() != pg.SetOperation_SETOP_NONE:
		if err := p.query(q.GetLarg(), s, false); err != nil {
			return err
		}
		if err := p.query(q.GetRarg(), s, false); err != nil {
			return err
		}
	case len(q.GetValuesLists()) > 0:
		if err := p.exprs(q.GetValuesLists(), s); err != nil {
			return err
		}
		if top {
			for i := range q.GetValuesLists()[0].GetList().GetItems() {
				p.output = append(p.output, Output{Name: fmt.Sprintf("column%d", i+1)})
			}
		}
	default:
		if err := p.body(q, s, top); err != nil {
			return err
		}
	}
	return p.tail(q, s)
}

func (p *planning) refuseClauses(q *pg.SelectStmt) error {
	switch {
	case q.GetIntoClause() != nil:
		return dberr.New(dberr.Unsupported, "SELECT INTO is not supported")
	case len(q.GetLockingClause()) > 0:
		return dberr.New(dberr.Unsupported, "FOR UPDATE and FOR SHARE are not supported: there are no row locks")
	case q.GetLimitOption() == pg.LimitOption_LIMIT_OPTION_WITH_TIES:
		return dberr.New(dberr.Unsupported, "WITH TIES is not supported")
	}
	return nil
}

// with rewrites the queries of WITH. Each sees those before it, a recursive one itself too.
func (p *planning) with(w *pg.WithClause, s *scope) error {
	for _, n := range w.GetCtes() {
		c := n.GetCommonTableExpr()
		if c.GetSearchClause() != nil || c.GetCycleClause() != nil {
			return p.at(dberr.New(dberr.Unsupported, "SEARCH and CYCLE are not supported"), c.GetLocation())
		}
		sub := c.GetCtequery().GetSelectStmt()
		if sub == nil {
			return p.at(dberr.New(dberr.Unsupported, "WITH may hold SELECT only"), c.GetLocation())
		}
		rewrite := p.query
		if w.GetRecursive() && sub.GetOp() == pg.SetOperation_SETOP_UNION {
			rewrite = func(q *pg.SelectStmt, s *scope, _ bool) error { return p.recursive(q, s, c.GetCtename()) }
		}
		if err := rewrite(sub, s, false); err != nil {
			return err
		}
		s.ctes[c.GetCtename()] = true
	}
	return nil
}

// recursive rewrites the UNION of a recursive query. Its second half alone sees the query's name, since
// that is where the engine sees it: anywhere else the engine would take the name for a table of its own.
func (p *planning) recursive(q *pg.SelectStmt, outer *scope, name string) error {
	if err := p.refuseClauses(q); err != nil {
		return err
	}
	s := &scope{outer: outer, ctes: map[string]bool{}}
	if err := p.with(q.GetWithClause(), s); err != nil {
		return err
	}
	if err := p.query(q.GetLarg(), s, false); err != nil {
		return err
	}
	outer.ctes[name] = true
	err := p.query(q.GetRarg(), s, false)
	delete(outer.ctes, name)
	if err != nil {
		return err
	}
	return p.tail(q, s)
}

// body rewrites SELECT … FROM … WHERE … GROUP BY … HAVING … WINDOW.
func (p *planning) body(q *pg.SelectStmt, s *scope, top bool) error {
	for i, n := range q.GetFromClause() {
		item, err := p.from(n, s, false)
		if err != nil {
			return err
		}
		q.FromClause[i] = item
	}
	p.deleted(q.GetWhereClause(), s)
	if err := p.where(q, s); err != nil {
		return err
	}
	if top {
		p.cutScan(q, s)
	}
	if err := p.targets(q, s); err != nil {
		return err
	}
	if top {
		p.describe(q, s)
	}
	for _, list := range [][]*pg.Node{q.GetGroupClause(), q.GetWindowClause()} {
		if err := p.exprs(list, s); err != nil {
			return err
		}
	}
	if len(q.GetDistinctClause()) > 0 && q.GetDistinctClause()[0].GetNode() != nil {
		if err := p.exprs(q.GetDistinctClause(), s); err != nil {
			return err
		}
	}
	return p.replace(&q.HavingClause, s)
}

// tail rewrites ORDER BY, LIMIT and OFFSET.
func (p *planning) tail(q *pg.SelectStmt, s *scope) error {
	if err := p.exprs(q.GetSortClause(), s); err != nil {
		return err
	}
	if err := p.replace(&q.LimitCount, s); err != nil {
		return err
	}
	return p.replace(&q.LimitOffset, s)
}

// where pushes conditions down to the tables and rewrites what is left.
func (p *planning) where(q *pg.SelectStmt, s *scope) error {
	var kept []*pg.Node
	for _, c := range conjuncts(q.GetWhereClause()) {
		if p.push(c, s) {
			continue
		}
		r, err := p.expr(c, s)
		if err != nil {
			return err
		}
		kept = append(kept, r)
	}
	q.WhereClause = joined(kept)
	return nil
}

// deleted shows the tombstones of the tables whose _deleted the WHERE mentions (spec 1.7).
func (p *planning) deleted(where *pg.Node, s *scope) {
	walkRefs(where, func(ref *pg.ColumnRef) {
		parts, _ := path(ref)
		if len(parts) == 0 || parts[len(parts)-1] != catalog.DeletedColumn {
			return
		}
		for _, it := range s.items {
			if it.scan != nil && (len(parts) == 1 || parts[len(parts)-2] == it.alias) {
				it.scan.IncludeDeleted = true
			}
		}
	})
}

// targets rewrites the list of results: stars are expanded where the columns are known, and every
// expression gets the name PostgreSQL would give it.
func (p *planning) targets(q *pg.SelectStmt, s *scope) error {
	var out []*pg.Node
	for _, n := range q.GetTargetList() {
		t := n.GetResTarget()
		if ref := t.GetVal().GetColumnRef(); ref != nil {
			if _, star := path(ref); star {
				expanded, err := p.star(ref, s)
				if err != nil {
					return err
				}
				out = append(out, expanded...)
				continue
			}
		}
		name := t.GetName()
		if name == "" {
			name = outputName(t.GetVal())
		}
		v, err := p.expr(t.GetVal(), s)
		if err != nil {
			return err
		}
		if parts, _ := path(v.GetColumnRef()); len(parts) > 0 && parts[len(parts)-1] == name {
			name = "" // the column's own name, which must not become an alias that others can refer to
		}
		out = append(out, pg.MakeResTargetNodeWithNameAndVal(name, v, -1))
	}
	q.TargetList = out
	return nil
}

// star expands * and t.*. Where a subquery, a CTE or USING is part of FROM the engine expands it:
// scans offer it no column that a star must not show.
func (p *planning) star(ref *pg.ColumnRef, s *scope) ([]*pg.Node, error) {
	parts, _ := path(ref)
	if len(parts) > 1 {
		parts = parts[len(parts)-1:] // a namespace: the engine knows tables by their alias
	}
	whole := pg.MakeResTargetNodeWithVal(pg.MakeColumnRefNode(append(column(parts...).GetColumnRef().GetFields(), pg.MakeAStarNode()), -1), -1)
	if len(parts) == 1 {
		p.refs = append(p.refs, columnRef{table: parts[0], location: ref.GetLocation()})
	}
	if !s.base() || s.merged {
		if err := p.expand(); err != nil {
			return nil, err
		}
		return []*pg.Node{whole}, nil
	}
	var out []*pg.Node
	for _, it := range s.items {
		if len(parts) == 1 && parts[0] != it.alias {
			continue
		}
		for _, c := range it.scan.Columns {
			if !c.Hidden {
				out = append(out, pg.MakeResTargetNodeWithNameAndVal(c.Name, column(it.alias, c.Name), -1))
			}
		}
	}
	if len(out) == 0 {
		return []*pg.Node{whole}, nil // an alias that is not there, or an outer one: the engine says which
	}
	return out, nil
}

// describe finds the results that are columns of tables, for their types and flags.
func (p *planning) describe(q *pg.SelectStmt, s *scope) {
	for _, n := range q.GetTargetList() {
		t := n.GetResTarget()
		ref := t.GetVal().GetColumnRef()
		if _, star := path(ref); star {
			return // how many columns it stands for is not known here
		}
		out := Output{Name: t.GetName()}
		if ref != nil && out.Name == "" {
			parts, _ := path(ref)
			out.Name = parts[len(parts)-1]
		}
		if ref != nil {
			if it, c := s.resolve(ref); c != nil {
				shown := *c
				if it.nullable {
					shown.NotNull, shown.PrimaryKey = false, false
				}
				out.Column = &shown
			}
		}
		p.output = append(p.output, out)
	}
}
