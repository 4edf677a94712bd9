package dml

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// toExpr translates an expression over t's columns; a nil t allows none. Unsupported means that the
// query engine may know it.
func toExpr(node *sqlfront.Node, tree *sqlfront.Tree, t *catalog.Table, alias string, env *plan.Env) (*exprv1.Expr, error) {
	return sqlfront.ToPredicate(node, sqlfront.Scope{Table: t, Alias: alias, Params: env.Params, Tree: tree})
}

// compile makes an expression ready to run.
func compile(node *sqlfront.Node, tree *sqlfront.Tree, t *catalog.Table, alias string, env *plan.Env) (*predicate.Program, error) {
	e, err := toExpr(node, tree, t, alias, env)
	if err != nil {
		return nil, err
	}
	return predicate.Compile(e, t)
}
