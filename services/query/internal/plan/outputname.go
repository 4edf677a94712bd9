package plan

import (
	pg "github.com/pganalyze/pg_query_go/v6"
)

// noName is PostgreSQL's name for a result that nothing else names.
const noName = "?column?"

// outputName is the name PostgreSQL gives an expression in the list of results.
func outputName(n *pg.Node) string {
	if name, _ := figure(n); name != "" {
		return name
	}
	return noName
}

// figure returns a name and whether it is better than a cast's type.
func figure(n *pg.Node) (name string, strong bool) {
	switch e := n.GetNode().(type) {
	case *pg.Node_ColumnRef:
		if parts, _ := path(e.ColumnRef); len(parts) > 0 {
			return parts[len(parts)-1], true
		}
	case *pg.Node_AIndirection:
		return figure(e.AIndirection.GetArg())
	case *pg.Node_FuncCall:
		list := names(e.FuncCall.GetFuncname())
		return list[len(list)-1], true
	case *pg.Node_AExpr:
		if e.AExpr.GetKind() == pg.A_Expr_Kind_AEXPR_NULLIF {
			return "nullif", true
		}
	case *pg.Node_TypeCast:
		if name, strong := figure(e.TypeCast.GetArg()); strong {
			return name, true
		}
		return typeSpelling(e.TypeCast.GetTypeName()), false
	case *pg.Node_CollateClause:
		return figure(e.CollateClause.GetArg())
	case *pg.Node_CaseExpr:
		if name, strong := figure(e.CaseExpr.GetDefresult()); strong {
			return name, true
		}
		return "case", false
	case *pg.Node_SubLink:
		return figureSubLink(e.SubLink)
	}
	return figureKeyword(n)
}

func figureSubLink(l *pg.SubLink) (string, bool) {
	switch l.GetSubLinkType() {
	case pg.SubLinkType_EXISTS_SUBLINK:
		return "exists", true
	case pg.SubLinkType_ARRAY_SUBLINK:
		return "array", true
	case pg.SubLinkType_EXPR_SUBLINK:
		if list := l.GetSubselect().GetSelectStmt().GetTargetList(); len(list) > 0 {
			t := list[0].GetResTarget()
			if t.GetName() != "" {
				return t.GetName(), true
			}
			return figure(t.GetVal())
		}
	}
	return "", false
}

func figureKeyword(n *pg.Node) (string, bool) {
	switch e := n.GetNode().(type) {
	case *pg.Node_CoalesceExpr:
		return "coalesce", true
	case *pg.Node_MinMaxExpr:
		if e.MinMaxExpr.GetOp() == pg.MinMaxOp_IS_LEAST {
			return "least", true
		}
		return "greatest", true
	case *pg.Node_AArrayExpr:
		return "array", true
	case *pg.Node_RowExpr:
		return "row", true
	case *pg.Node_GroupingFunc:
		return "grouping", true
	case *pg.Node_SqlvalueFunction:
		return valueFunctionNames[e.SqlvalueFunction.GetOp()], true
	}
	return "", false
}

var valueFunctionNames = map[pg.SQLValueFunctionOp]string{
	pg.SQLValueFunctionOp_SVFOP_CURRENT_DATE: "current_date", pg.SQLValueFunctionOp_SVFOP_CURRENT_TIME: "current_time",
	pg.SQLValueFunctionOp_SVFOP_CURRENT_TIME_N: "current_time", pg.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP: "current_timestamp",
	pg.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP_N: "current_timestamp", pg.SQLValueFunctionOp_SVFOP_LOCALTIME: "localtime",
	pg.SQLValueFunctionOp_SVFOP_LOCALTIME_N: "localtime", pg.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP: "localtimestamp",
	pg.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP_N: "localtimestamp", pg.SQLValueFunctionOp_SVFOP_CURRENT_ROLE: "current_role",
	pg.SQLValueFunctionOp_SVFOP_CURRENT_USER: "current_user", pg.SQLValueFunctionOp_SVFOP_USER: "user",
	pg.SQLValueFunctionOp_SVFOP_SESSION_USER: "session_user", pg.SQLValueFunctionOp_SVFOP_CURRENT_CATALOG: "current_catalog",
	pg.SQLValueFunctionOp_SVFOP_CURRENT_SCHEMA: "current_schema",
}
