package sqlfront

import (
	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// query reads a statement by PostgreSQL's parser.
func (r *reader) query() (Statement, error) {
	tree, err := parseTree(r.request, "", r.tokens[r.pos:])
	if err != nil {
		return nil, err
	}
	return r.fromTree(tree)
}

func (r *reader) fromTree(tree *Tree) (Statement, error) {
	switch n := tree.Stmt.GetNode().(type) {
	case *pg.Node_SelectStmt:
		if err := checkSelect(tree); err != nil {
			return nil, err
		}
		return &Select{Source: r.source(), Tree: tree}, nil
	case *pg.Node_InsertStmt:
		return r.insert(tree, n.InsertStmt)
	case *pg.Node_UpdateStmt:
		return r.update(tree, n.UpdateStmt)
	case *pg.Node_DeleteStmt:
		return r.delete(tree, n.DeleteStmt)
	}
	return nil, r.fail(dberr.InvalidSQL, 0, "this kind of statement is not allowed")
}

// checkSelect refuses what is inside a query but is more than one.
func checkSelect(tree *Tree) error {
	var err error
	Walk(tree.Stmt, func(m proto.Message) bool {
		switch n := m.(type) {
		case *pg.IntoClause:
			err = tree.errorAt(dberr.InvalidSQL, n.GetRel().GetLocation(), "SELECT INTO is not allowed")
		case *pg.LockingClause:
			err = tree.errorAt(dberr.Unsupported, -1, "FOR UPDATE and FOR SHARE are not supported")
		case *pg.InsertStmt, *pg.UpdateStmt, *pg.DeleteStmt, *pg.MergeStmt:
			err = tree.errorAt(dberr.Unsupported, -1, "statements that write are not supported inside a query")
		}
		return err == nil
	})
	return err
}

// tableName reads a table reference.
func tableName(tree *Tree, r *pg.RangeVar) (Name, error) {
	if c := r.GetCatalogname(); c != "" && c != defaultCatalog {
		return Name{}, tree.errorAt(dberr.InvalidSQL, r.GetLocation(), "unknown catalog %q", c)
	}
	return Name{Namespace: r.GetSchemaname(), Name: r.GetRelname()}, nil
}

func (r *reader) insert(tree *Tree, n *pg.InsertStmt) (Statement, error) {
	s := &Insert{Source: r.source(), Returning: n.GetReturningList(), Tree: tree}
	var err error
	if s.Table, err = tableName(tree, n.GetRelation()); err != nil {
		return nil, err
	}
	if n.GetWithClause() != nil {
		return nil, tree.errorAt(dberr.Unsupported, n.GetWithClause().GetLocation(), "WITH before INSERT is not supported: put it before SELECT")
	}
	if n.GetRelation().GetAlias() != nil {
		return nil, tree.errorAt(dberr.Unsupported, n.GetRelation().GetLocation(), "INSERT INTO … AS is not supported")
	}
	if n.GetOverride() > pg.OverridingKind_OVERRIDING_NOT_SET {
		return nil, tree.errorAt(dberr.Unsupported, -1, "OVERRIDING is not supported")
	}
	if s.Columns, err = targetNames(tree, n.GetCols()); err != nil {
		return nil, err
	}
	if err := s.conflict(tree, n.GetOnConflictClause()); err != nil {
		return nil, err
	}
	return s, s.values(tree, n.GetSelectStmt())
}

// targetNames reads a column list and refuses repetitions.
func targetNames(tree *Tree, cols []*Node) ([]string, error) {
	seen := map[string]bool{}
	var out []string
	for _, c := range cols {
		t := c.GetResTarget()
		if len(t.GetIndirection()) > 0 {
			return nil, tree.errorAt(dberr.Unsupported, t.GetLocation(), "writing a part of a column is not supported")
		}
		if seen[t.GetName()] {
			return nil, tree.errorAt(dberr.InvalidSQL, t.GetLocation(), "column %q is given more than once", t.GetName())
		}
		seen[t.GetName()] = true
		out = append(out, t.GetName())
	}
	return out, nil
}

func (s *Insert) conflict(tree *Tree, c *pg.OnConflictClause) error {
	if c == nil {
		return nil
	}
	if c.GetAction() != pg.OnConflictAction_ONCONFLICT_NOTHING {
		return tree.errorAt(dberr.Unsupported, c.GetLocation(), "ON CONFLICT DO UPDATE is not supported")
	}
	s.DoNothing = true
	infer := c.GetInfer()
	if infer.GetWhereClause() != nil || infer.GetConname() != "" {
		return tree.errorAt(dberr.Unsupported, infer.GetLocation(), "ON CONFLICT takes a list of columns only")
	}
	for _, e := range infer.GetIndexElems() {
		if e.GetIndexElem().GetName() == "" {
			return tree.errorAt(dberr.Unsupported, infer.GetLocation(), "ON CONFLICT takes a list of columns only")
		}
		s.ConflictColumns = append(s.ConflictColumns, e.GetIndexElem().GetName())
	}
	return nil
}

// values sets Rows or Select.
func (s *Insert) values(tree *Tree, source *Node) error {
	if source == nil {
		s.Rows = [][]*Node{{}} // DEFAULT VALUES
		return nil
	}
	sel := source.GetSelectStmt()
	if len(sel.GetValuesLists()) == 0 || sel.GetWithClause() != nil || len(sel.GetSortClause()) > 0 ||
		sel.GetLimitCount() != nil || sel.GetLimitOffset() != nil {
		inner := tree.With(source)
		s.Select = &Select{Source: s.Source, Tree: inner}
		return checkSelect(inner)
	}
	width := len(sel.GetValuesLists()[0].GetList().GetItems())
	for i, list := range sel.GetValuesLists() {
		items := list.GetList().GetItems()
		if len(items) != width {
			return tree.errorAt(dberr.InvalidSQL, valuesLocation(items), "VALUES lists must all have the same length: row 1 has %d values, row %d has %d",
				width, i+1, len(items))
		}
		if s.Columns != nil && len(items) != len(s.Columns) {
			return tree.errorAt(dberr.InvalidSQL, valuesLocation(items), "INSERT names %d columns, row %d has %d values", len(s.Columns), i+1, len(items))
		}
		s.Rows = append(s.Rows, items)
	}
	return nil
}

// valuesLocation finds a place in a row of VALUES.
func valuesLocation(items []*Node) int32 {
	for _, n := range items {
		if at := Location(n); at >= 0 {
			return at
		}
	}
	return -1
}

func (r *reader) update(tree *Tree, n *pg.UpdateStmt) (Statement, error) {
	s := &Update{Source: r.source(), Alias: n.GetRelation().GetAlias().GetAliasname(), Where: n.GetWhereClause(),
		Returning: n.GetReturningList(), Tree: tree}
	var err error
	if s.Table, err = tableName(tree, n.GetRelation()); err != nil {
		return nil, err
	}
	switch {
	case n.GetWithClause() != nil:
		return nil, tree.errorAt(dberr.Unsupported, n.GetWithClause().GetLocation(), "WITH before UPDATE is not supported")
	case len(n.GetFromClause()) > 0:
		return nil, tree.errorAt(dberr.Unsupported, -1, "UPDATE … FROM is not supported")
	case s.Where == nil:
		return nil, tree.errorAt(dberr.InvalidSQL, n.GetRelation().GetLocation(), "UPDATE without WHERE is not allowed")
	}
	if _, err := targetNames(tree, n.GetTargetList()); err != nil {
		return nil, err
	}
	for _, t := range n.GetTargetList() {
		target := t.GetResTarget()
		if target.GetVal().GetMultiAssignRef() != nil {
			return nil, tree.errorAt(dberr.Unsupported, target.GetLocation(), "SET (a, b) = … is not supported")
		}
		s.Sets = append(s.Sets, Assignment{Column: target.GetName(), Value: target.GetVal()})
	}
	if restore, err := r.restoreUser(s); restore != nil || err != nil {
		return restore, err
	}
	return s, nil
}

// restoreUser recognizes UPDATE system.users SET deleted_at = NULL WHERE user_id|username = 'name'.
func (r *reader) restoreUser(s *Update) (Statement, error) {
	if s.Table != (Name{Namespace: "system", Name: "users"}) || len(s.Sets) != 1 || s.Sets[0].Column != "deleted_at" ||
		!s.Sets[0].Value.GetAConst().GetIsnull() || s.Returning != nil {
		return nil, nil
	}
	e := s.Where.GetAExpr()
	column := e.GetLexpr().GetColumnRef().GetFields()
	if e.GetKind() != pg.A_Expr_Kind_AEXPR_OP || operatorName(e) != "=" || len(column) != 1 {
		return nil, nil
	}
	name, ok := e.GetRexpr().GetAConst().GetVal().(*pg.A_Const_Sval)
	if c := column[0].GetString_().GetSval(); !ok || c != "user_id" && c != "username" {
		return nil, nil
	}
	id := name.Sval.GetSval()
	if err := catalog.CheckUserID(id); err != nil {
		return nil, s.Tree.errorAt(dberr.InvalidSQL, e.GetLocation(), "%w", err)
	}
	return &RestoreUser{Source: s.Source, User: id}, nil
}

func (r *reader) delete(tree *Tree, n *pg.DeleteStmt) (Statement, error) {
	s := &Delete{Source: r.source(), Alias: n.GetRelation().GetAlias().GetAliasname(), Where: n.GetWhereClause(),
		Returning: n.GetReturningList(), Tree: tree}
	var err error
	if s.Table, err = tableName(tree, n.GetRelation()); err != nil {
		return nil, err
	}
	switch {
	case n.GetWithClause() != nil:
		return nil, tree.errorAt(dberr.Unsupported, n.GetWithClause().GetLocation(), "WITH before DELETE is not supported")
	case len(n.GetUsingClause()) > 0:
		return nil, tree.errorAt(dberr.Unsupported, -1, "DELETE … USING is not supported")
	case s.Where == nil:
		return nil, tree.errorAt(dberr.InvalidSQL, n.GetRelation().GetLocation(), "DELETE without WHERE is not allowed")
	}
	return s, nil
}
