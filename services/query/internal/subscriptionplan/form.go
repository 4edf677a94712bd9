package subscriptionplan

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// checkForm refuses every part of a SELECT that has no meaning for one change at a time.
func checkForm(s *pg.SelectStmt) error {
	for _, part := range []struct {
		present bool
		name    string
	}{
		{s.GetWithClause() != nil, "WITH"},
		{s.GetOp() > pg.SetOperation_SETOP_NONE, "UNION, INTERSECT or EXCEPT"},
		{len(s.GetValuesLists()) > 0, "VALUES"},
		{len(s.GetDistinctClause()) > 0, "DISTINCT"},
		{s.GetIntoClause() != nil, "INTO"},
		{len(s.GetGroupClause()) > 0, "GROUP BY"},
		{s.GetHavingClause() != nil, "HAVING"},
		{len(s.GetWindowClause()) > 0, "WINDOW"},
		{len(s.GetSortClause()) > 0, "ORDER BY"},
		{s.GetLimitCount() != nil || s.GetLimitOffset() != nil, "LIMIT"},
		{len(s.GetLockingClause()) > 0, "FOR UPDATE"},
		{len(s.GetFromClause()) > 1, "JOIN"},
	} {
		if part.present {
			return refused(part.name)
		}
	}
	if len(s.GetFromClause()) == 0 {
		return dberr.New(dberr.InvalidSQL, "a subscription needs a table: SELECT … FROM namespace.table")
	}
	from := s.GetFromClause()[0]
	switch {
	case from.GetJoinExpr() != nil:
		return refused("JOIN")
	case from.GetRangeVar() == nil:
		return refused("a subquery or function in FROM")
	case len(from.GetRangeVar().GetAlias().GetColnames()) > 0:
		return refused("a list of column aliases")
	}
	return nil
}

func refused(part string) error {
	return dberr.New(dberr.Unsupported, "a subscription reads one table and cannot hold %s", part)
}

func alias(ref *pg.RangeVar) string { return ref.GetAlias().GetAliasname() }

// projection lists the columns to deliver, in order. _seq is delivered with every row anyway.
func projection(t *catalog.Table, targets []*pg.Node, alias string) ([]uint32, error) {
	var ids []uint32
	seen := map[uint32]bool{}
	add := func(id uint32) {
		if id != catalog.SeqColumnID && !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	for _, n := range targets {
		target := n.GetResTarget()
		name, star, err := columnName(target, t, alias)
		if err != nil {
			return nil, err
		}
		if star {
			for _, c := range t.VisibleColumns() {
				add(c.ID)
			}
			continue
		}
		c, ok := t.Column(name)
		if !ok {
			c, ok = catalog.SystemColumn(name)
		}
		if !ok {
			return nil, dberr.New(dberr.ColumnNotFound, "column \"%s\" does not exist", name)
		}
		if target.GetName() != "" && target.GetName() != c.Name {
			return nil, refused("an alias (" + target.GetName() + ") of a column")
		}
		add(c.ID)
	}
	return ids, nil
}

// columnName reads a target: a column, table.column, * or table.*.
func columnName(target *pg.ResTarget, t *catalog.Table, alias string) (name string, star bool, err error) {
	fields := target.GetVal().GetColumnRef().GetFields()
	if len(fields) == 0 {
		return "", false, refused("an expression in place of a column")
	}
	var qualifier []string
	for _, f := range fields[:len(fields)-1] {
		qualifier = append(qualifier, f.GetString_().GetSval())
	}
	if !names(t, alias, qualifier) {
		return "", false, dberr.New(dberr.InvalidSQL, "missing FROM-clause entry for table \"%s\"", strings.Join(qualifier, "."))
	}
	last := fields[len(fields)-1]
	return last.GetString_().GetSval(), last.GetAStar() != nil, nil
}

// names reports whether what stands before a column names the table.
func names(t *catalog.Table, alias string, qualifier []string) bool {
	switch {
	case len(qualifier) == 0:
		return true
	case len(qualifier) == 1 && alias != "":
		return qualifier[0] == alias
	case len(qualifier) == 1:
		return qualifier[0] == t.Name
	case len(qualifier) == 2 && alias == "":
		return qualifier[0] == t.Namespace && qualifier[1] == t.Name
	}
	return false
}
