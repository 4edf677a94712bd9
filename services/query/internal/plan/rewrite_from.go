package plan

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// catalogName is the first part of a three-part table name (spec 1.10).
const catalogName = "kalam"

// scanFunction is the engine's table function.
const scanFunction = "kalam_scan"

// from rewrites one entry of FROM and adds what it defines to the scope.
func (p *planning) from(n *pg.Node, s *scope, nullable bool) (*pg.Node, error) {
	switch e := n.GetNode().(type) {
	case *pg.Node_RangeVar:
		return p.rangeVar(e.RangeVar, s, nullable)
	case *pg.Node_JoinExpr:
		return n, p.join(e.JoinExpr, s, nullable)
	case *pg.Node_RangeSubselect:
		sub := e.RangeSubselect.GetSubquery().GetSelectStmt()
		if sub == nil {
			return nil, dberr.New(dberr.InvalidSQL, "a subquery must be a SELECT")
		}
		inner := s.outer
		if e.RangeSubselect.GetLateral() {
			inner = s
		} else {
			inner = &scope{outer: s.outer, ctes: s.ctes}
		}
		s.items = append(s.items, &fromItem{alias: e.RangeSubselect.GetAlias().GetAliasname()})
		return n, p.query(sub, inner, false)
	case *pg.Node_RangeFunction:
		if v, ok, err := acrossUsers(e.RangeFunction); ok || err != nil {
			if err != nil {
				return nil, p.at(asError(err), sqlfront.Location(n))
			}
			return p.base(v, true, s, nullable)
		}
		return n, p.rangeFunction(e.RangeFunction, s)
	}
	return nil, dberr.New(dberr.Unsupported, "this form of FROM is not supported")
}

// rangeVar turns a base table into a scan.
func (p *planning) rangeVar(v *pg.RangeVar, s *scope, nullable bool) (*pg.Node, error) {
	alias := v.GetRelname()
	if a := v.GetAlias().GetAliasname(); a != "" {
		alias = a
	}
	if v.GetCatalogname() == "" && v.GetSchemaname() == "" && s.cte(v.GetRelname()) {
		s.items = append(s.items, &fromItem{alias: alias})
		return &pg.Node{Node: &pg.Node_RangeVar{RangeVar: v}}, nil
	}
	return p.base(v, false, s, nullable)
}

// base turns a table, of one user or of all, into a scan.
func (p *planning) base(v *pg.RangeVar, allUsers bool, s *scope, nullable bool) (*pg.Node, error) {
	scan, err := p.table(v)
	if err == nil && allUsers {
		err = p.spanUsers(scan, v)
	}
	if err != nil {
		return nil, err
	}
	alias := v.GetRelname()
	if a := v.GetAlias().GetAliasname(); a != "" {
		alias = a
	}
	if len(p.scans) == scansMax {
		return nil, dberr.New(dberr.LimitExceeded, "the statement reads more than %d tables (limit scans_max)", scansMax)
	}
	scan.alias = alias
	slot := int64(len(p.scans))
	p.scans = append(p.scans, scan)
	s.items = append(s.items, &fromItem{alias: alias, scan: scan, nullable: nullable, renamed: len(v.GetAlias().GetColnames()) > 0})
	fn := call(scanFunction, number(slot))
	rf := &pg.RangeFunction{Functions: []*pg.Node{pg.MakeListNode([]*pg.Node{fn, {}})},
		Alias: &pg.Alias{Aliasname: alias, Colnames: v.GetAlias().GetColnames()}}
	return &pg.Node{Node: &pg.Node_RangeFunction{RangeFunction: rf}}, nil
}

// table finds a base or system table.
func (p *planning) table(v *pg.RangeVar) (*Scan, error) {
	namespace, name := strings.ToLower(v.GetSchemaname()), strings.ToLower(v.GetRelname())
	if namespace == "" {
		namespace = p.namespace
	}
	missing := func() error {
		return p.at(dberr.New(dberr.TableNotFound, "relation \"%s.%s\" does not exist", namespace, name), v.GetLocation())
	}
	if c := strings.ToLower(v.GetCatalogname()); c != "" && c != catalogName {
		return nil, missing()
	}
	if systemtable.IsSystem(namespace) {
		t, ok := p.systems.Lookup(namespace, name)
		if !ok {
			return nil, missing()
		}
		return &Scan{System: t, Columns: t.Columns}, nil
	}
	t, ok := p.state.Table(namespace, name)
	if !ok {
		return nil, missing()
	}
	return &Scan{Table: t, Columns: readable(t), staged: p.staged}, nil
}

// readable lists what a statement may name of a table, in the order a star shows it, and the hidden key
// last, which only planning itself uses.
func readable(t *catalog.Table) []catalog.Column {
	columns := t.VisibleColumns()
	if t.Kind == catalog.StreamTable {
		columns = append(columns, catalog.SystemColumns[0])
	} else {
		columns = append(columns, catalog.SystemColumns...)
	}
	for _, i := range t.Key() {
		if t.Columns[i].Hidden {
			columns = append(columns, t.Columns[i])
		}
	}
	return columns
}

// join rewrites both sides and the condition.
func (p *planning) join(j *pg.JoinExpr, s *scope, nullable bool) error {
	left := nullable || j.GetJointype() == pg.JoinType_JOIN_RIGHT || j.GetJointype() == pg.JoinType_JOIN_FULL
	right := nullable || j.GetJointype() == pg.JoinType_JOIN_LEFT || j.GetJointype() == pg.JoinType_JOIN_FULL
	if j.GetAlias() != nil || j.GetJoinUsingAlias() != nil {
		return dberr.New(dberr.Unsupported, "an alias for a join is not supported")
	}
	before := len(s.items)
	var err error
	if j.Larg, err = p.from(j.GetLarg(), s, left); err != nil {
		return err
	}
	middle := len(s.items)
	if j.Rarg, err = p.from(j.GetRarg(), s, right); err != nil {
		return err
	}
	if j.GetIsNatural() {
		if err := naturalJoin(j, s.items[before:middle], s.items[middle:]); err != nil {
			return err
		}
	}
	if len(j.GetUsingClause()) > 0 {
		s.merged = true
	}
	return p.replace(&j.Quals, s)
}

// naturalJoin names the common columns: system columns, which all tables have, are not meant.
func naturalJoin(j *pg.JoinExpr, left, right []*fromItem) error {
	if len(left) != 1 || len(right) != 1 || left[0].scan == nil || right[0].scan == nil || left[0].renamed || right[0].renamed {
		return dberr.New(dberr.Unsupported, "NATURAL JOIN is supported between two tables only; name the columns with USING")
	}
	for _, c := range left[0].scan.Columns {
		if _, system := catalog.SystemColumn(c.Name); !system && !c.Hidden && right[0].scan.column(c.Name) != nil {
			j.UsingClause = append(j.UsingClause, pg.MakeStrNode(c.Name))
		}
	}
	if len(j.UsingClause) == 0 {
		return dberr.New(dberr.InvalidSQL, "NATURAL JOIN: the tables have no column in common")
	}
	j.IsNatural = false
	return nil
}

// rangeFunction lets FROM call the functions of tableFunctions, nothing else.
func (p *planning) rangeFunction(f *pg.RangeFunction, s *scope) error {
	if len(f.GetFunctions()) != 1 || f.GetIsRowsfrom() || len(f.GetColdeflist()) > 0 || f.GetOrdinality() {
		return dberr.New(dberr.Unsupported, "ROWS FROM, WITH ORDINALITY and column definitions are not supported")
	}
	fn := f.GetFunctions()[0].GetList().GetItems()[0].GetFuncCall()
	name, ok := functionName(fn)
	if fn == nil || !ok || !tableFunctions[name] {
		return p.at(dberr.New(dberr.InvalidSQL, "table function %s does not exist", strings.Join(names(fn.GetFuncname()), ".")), fn.GetLocation())
	}
	alias := name
	if a := f.GetAlias().GetAliasname(); a != "" {
		alias = a
	}
	fn.Funcname = []*pg.Node{pg.MakeStrNode(name)}
	if err := p.exprs(fn.GetArgs(), s); err != nil {
		return err
	}
	// PostgreSQL names the only column like the alias.
	if f.GetAlias() != nil && len(f.GetAlias().GetColnames()) == 0 {
		f.Alias.Colnames = []*pg.Node{pg.MakeStrNode(alias)}
	}
	if f.GetAlias() == nil {
		f.Alias = &pg.Alias{Aliasname: alias, Colnames: []*pg.Node{pg.MakeStrNode(alias)}}
	}
	s.items = append(s.items, &fromItem{alias: alias})
	return nil
}
