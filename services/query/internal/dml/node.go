package dml

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// callName is the folded name of a function called without arguments, or "".
func callName(n *sqlfront.Node) string {
	call := n.GetFuncCall()
	if call == nil || len(call.GetArgs()) > 0 || len(call.GetFuncname()) != 1 {
		return ""
	}
	return strings.ToLower(call.GetFuncname()[0].GetString_().GetSval())
}

// chooseQuery is SELECT _seq, value… FROM table AS alias WHERE … . It numbers the values.
func chooseQuery(c *change, sets []assignment) *sqlfront.Select {
	ref := &pg.RangeVar{Schemaname: c.name.Namespace, Relname: c.name.Name, Inh: true, Relpersistence: "p"}
	if c.alias != "" {
		ref.Alias = &pg.Alias{Aliasname: c.alias}
	}
	targets := []*pg.Node{resultTarget(pg.MakeColumnRefNode([]*pg.Node{pg.MakeStrNode(catalog.SeqColumn)}, -1))}
	for i := range sets {
		if sets[i].kind == cellExpr {
			sets[i].computed = len(targets) - 1
			targets = append(targets, resultTarget(sets[i].node))
		}
	}
	stmt := &pg.SelectStmt{TargetList: targets, FromClause: []*pg.Node{{Node: &pg.Node_RangeVar{RangeVar: ref}}},
		WhereClause: c.where, LimitOption: pg.LimitOption_LIMIT_OPTION_DEFAULT, Op: pg.SetOperation_SETOP_NONE}
	return &sqlfront.Select{Tree: c.tree.With(&pg.Node{Node: &pg.Node_SelectStmt{SelectStmt: stmt}})}
}

func resultTarget(value *pg.Node) *pg.Node {
	return &pg.Node{Node: &pg.Node_ResTarget{ResTarget: &pg.ResTarget{Val: value}}}
}

// valuesQuery is an INSERT's VALUES as a query of its own.
func valuesQuery(s *sqlfront.Insert) *sqlfront.Select {
	return &sqlfront.Select{Tree: s.Tree.With(s.Tree.Stmt.GetInsertStmt().GetSelectStmt())}
}
