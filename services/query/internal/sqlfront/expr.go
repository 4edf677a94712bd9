package sqlfront

import (
	"strconv"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

// Scope is what names and parameters of an expression mean.
type Scope struct {
	// Table resolves columns; nil allows none.
	Table *catalog.Table
	// Alias is the name the statement gives the table; empty means the table's own.
	Alias  string
	Params []datum.Datum
	// AllUsers: rows of several users are looked at, and _user_id names whose each is.
	AllUsers bool
	// Tree gives errors their position; it may be nil.
	Tree *Tree
}

// ToPredicate turns an expression of PostgreSQL's tree into one that internal/predicate compiles. What
// predicate does not know is Unsupported, so that callers can use the query engine instead; unknown
// columns are ColumnNotFound, missing parameters InvalidArgument. Types are checked by
// predicate.Compile.
func ToPredicate(n *Node, s Scope) (*exprv1.Expr, error) {
	return converter{s}.expr(n, 0)
}

type converter struct{ Scope }

// unsupported names what predicate does not know.
func (c converter) unsupported(location int32, format string, args ...any) error {
	return c.Tree.errorAt(dberr.Unsupported, location, format+" is not supported here", args...)
}

func (c converter) expr(n *Node, depth int) (*exprv1.Expr, error) {
	if depth >= predicate.DepthMax {
		return nil, c.unsupported(-1, "an expression nested deeper than %d", predicate.DepthMax)
	}
	depth++
	switch n := n.GetNode().(type) {
	case *pg.Node_ColumnRef:
		return c.column(n.ColumnRef)
	case *pg.Node_AConst:
		return c.constant(n.AConst)
	case *pg.Node_ParamRef:
		i := int(n.ParamRef.GetNumber())
		if i < 1 || i > len(c.Params) {
			return nil, c.Tree.errorAt(dberr.InvalidArgument, n.ParamRef.GetLocation(), "no value was given for parameter $%d", i)
		}
		return predicate.Literal(c.Params[i-1]), nil
	case *pg.Node_AExpr:
		return c.operator(n.AExpr, depth)
	case *pg.Node_BoolExpr:
		return c.logic(n.BoolExpr, depth)
	case *pg.Node_NullTest:
		name := "is null"
		if n.NullTest.GetNulltesttype() == pg.NullTestType_IS_NOT_NULL {
			name = "is not null"
		}
		return c.call(depth, name, n.NullTest.GetArg())
	case *pg.Node_BooleanTest:
		return c.call(depth, booleanTests[n.BooleanTest.GetBooltesttype()], n.BooleanTest.GetArg())
	case *pg.Node_CaseExpr:
		return c.caseOf(n.CaseExpr, depth)
	case *pg.Node_CoalesceExpr:
		return c.call(depth, "coalesce", n.CoalesceExpr.GetArgs()...)
	case *pg.Node_MinMaxExpr:
		name := "greatest"
		if n.MinMaxExpr.GetOp() == pg.MinMaxOp_IS_LEAST {
			name = "least"
		}
		return c.call(depth, name, n.MinMaxExpr.GetArgs()...)
	case *pg.Node_TypeCast:
		return c.cast(n.TypeCast, depth)
	case *pg.Node_FuncCall:
		return c.function(n.FuncCall, depth)
	case *pg.Node_SqlvalueFunction:
		return c.valueFunction(n.SqlvalueFunction)
	case *pg.Node_SubLink:
		return nil, c.unsupported(n.SubLink.GetLocation(), "a subquery")
	}
	return nil, c.unsupported(-1, "this kind of expression")
}

var booleanTests = map[pg.BoolTestType]string{pg.BoolTestType_IS_TRUE: "is true", pg.BoolTestType_IS_NOT_TRUE: "is not true",
	pg.BoolTestType_IS_FALSE: "is false", pg.BoolTestType_IS_NOT_FALSE: "is not false",
	pg.BoolTestType_IS_UNKNOWN: "is unknown", pg.BoolTestType_IS_NOT_UNKNOWN: "is not unknown"}

// call converts arguments and applies a name of predicate's list.
func (c converter) call(depth int, name string, args ...*Node) (*exprv1.Expr, error) {
	out := make([]*exprv1.Expr, len(args))
	for i, a := range args {
		var err error
		if out[i], err = c.expr(a, depth); err != nil {
			return nil, err
		}
	}
	return predicate.Call(name, out...), nil
}

func (c converter) column(ref *pg.ColumnRef) (*exprv1.Expr, error) {
	parts := make([]string, 0, 3)
	for _, f := range ref.GetFields() {
		if f.GetAStar() != nil {
			return nil, c.unsupported(ref.GetLocation(), "*")
		}
		parts = append(parts, f.GetString_().GetSval())
	}
	if c.Table == nil {
		return nil, c.Tree.errorAt(dberr.ColumnNotFound, ref.GetLocation(), "columns are not allowed here: %s", parts[len(parts)-1])
	}
	if !c.qualifies(parts[:len(parts)-1]) {
		return nil, c.unsupported(ref.GetLocation(), "a column of another table")
	}
	name := parts[len(parts)-1]
	if col, ok := c.Table.Column(name); ok {
		return predicate.Column(col.ID), nil
	}
	if c.AllUsers && name == catalog.UserIDColumn {
		return predicate.Column(catalog.UserIDColumnID), nil
	}
	if col, ok := catalog.SystemColumn(name); ok {
		return predicate.Column(col.ID), nil
	}
	return nil, c.Tree.errorAt(dberr.ColumnNotFound, ref.GetLocation(), "table %s has no column %q", c.Table.QualifiedName(), name)
}

// qualifies reports whether the names before a column's mean the scope's table.
func (c converter) qualifies(names []string) bool {
	if len(names) == 3 && names[0] == defaultCatalog {
		names = names[1:]
	}
	switch len(names) {
	case 0:
		return true
	case 1:
		return names[0] == c.Alias || c.Alias == "" && names[0] == c.Table.Name
	case 2:
		return c.Alias == "" && names[0] == c.Table.Namespace && names[1] == c.Table.Name
	}
	return false
}

func (c converter) constant(k *pg.A_Const) (*exprv1.Expr, error) {
	if k.GetIsnull() {
		return predicate.Literal(datum.Null), nil
	}
	switch v := k.GetVal().(type) {
	case *pg.A_Const_Ival:
		return predicate.Literal(datum.Int(int64(v.Ival.GetIval()))), nil
	case *pg.A_Const_Fval:
		return c.number(v.Fval.GetFval(), k.GetLocation())
	case *pg.A_Const_Boolval:
		return predicate.Literal(datum.Bool(v.Boolval.GetBoolval())), nil
	case *pg.A_Const_Sval:
		return predicate.Literal(datum.Text(v.Sval.GetSval())), nil
	}
	return nil, c.unsupported(k.GetLocation(), "a bit string")
}

// number reads what PostgreSQL calls a float constant: a whole number beyond INT, a decimal, or, beyond
// what DECIMAL holds, a DOUBLE.
func (c converter) number(text string, location int32) (*exprv1.Expr, error) {
	if v, err := strconv.ParseInt(text, 10, 64); err == nil {
		return predicate.Literal(datum.Int(v)), nil
	}
	if d, err := datum.ParseDecimal(text); err == nil {
		return predicate.Literal(d), nil
	}
	d, err := datum.ParseText(catalog.Type{Kind: catalog.Double}, text)
	if err != nil {
		return nil, c.Tree.errorAt(dberr.InvalidSQL, location, "%w", err)
	}
	return predicate.Literal(d), nil
}

func (c converter) logic(b *pg.BoolExpr, depth int) (*exprv1.Expr, error) {
	names := map[pg.BoolExprType]string{pg.BoolExprType_AND_EXPR: "and", pg.BoolExprType_OR_EXPR: "or", pg.BoolExprType_NOT_EXPR: "not"}
	return c.call(depth, names[b.GetBoolop()], b.GetArgs()...)
}

// operators are the operators predicate knows, with two operands, by PostgreSQL's name.
var operators = map[string]string{"=": "=", "<>": "<>", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">=",
	"+": "+", "-": "-", "*": "*", "/": "/", "%": "%", "||": "||", "->": "->", "->>": "->>", "?": "?",
	"~~": "like", "!~~": "not like", "~~*": "ilike", "!~~*": "not ilike"}

// operatorName is an unqualified operator's name, else "".
func operatorName(e *pg.A_Expr) string {
	if len(e.GetName()) != 1 {
		return ""
	}
	return e.GetName()[0].GetString_().GetSval()
}

func (c converter) operator(e *pg.A_Expr, depth int) (*exprv1.Expr, error) {
	name := operatorName(e)
	switch e.GetKind() {
	case pg.A_Expr_Kind_AEXPR_OP:
		if e.GetLexpr() == nil && (name == "-" || name == "+") {
			return c.sign(name, e.GetRexpr(), depth)
		}
		if known, ok := operators[name]; ok && e.GetLexpr() != nil {
			return c.call(depth, known, e.GetLexpr(), e.GetRexpr())
		}
	case pg.A_Expr_Kind_AEXPR_LIKE, pg.A_Expr_Kind_AEXPR_ILIKE:
		args := []*Node{e.GetLexpr(), e.GetRexpr()}
		if f := e.GetRexpr().GetFuncCall(); f != nil && functionName(f) == "like_escape" {
			args = append(args[:1], f.GetArgs()...)
		}
		return c.call(depth, operators[name], args...)
	case pg.A_Expr_Kind_AEXPR_DISTINCT:
		return c.call(depth, "is distinct from", e.GetLexpr(), e.GetRexpr())
	case pg.A_Expr_Kind_AEXPR_NOT_DISTINCT:
		return c.call(depth, "is not distinct from", e.GetLexpr(), e.GetRexpr())
	case pg.A_Expr_Kind_AEXPR_NULLIF:
		return c.call(depth, "nullif", e.GetLexpr(), e.GetRexpr())
	case pg.A_Expr_Kind_AEXPR_IN:
		known := "in"
		if name == "<>" {
			known = "not in"
		}
		return c.call(depth, known, append([]*Node{e.GetLexpr()}, e.GetRexpr().GetList().GetItems()...)...)
	case pg.A_Expr_Kind_AEXPR_OP_ANY:
		if array := e.GetRexpr().GetAArrayExpr(); array != nil && name == "=" && len(array.GetElements()) > 0 {
			return c.call(depth, "in", append([]*Node{e.GetLexpr()}, array.GetElements()...)...)
		}
	case pg.A_Expr_Kind_AEXPR_BETWEEN, pg.A_Expr_Kind_AEXPR_NOT_BETWEEN:
		known := "between"
		if e.GetKind() == pg.A_Expr_Kind_AEXPR_NOT_BETWEEN {
			known = "not between"
		}
		return c.call(depth, known, append([]*Node{e.GetLexpr()}, e.GetRexpr().GetList().GetItems()...)...)
	}
	return nil, c.unsupported(e.GetLocation(), "the operator %s", name)
}

// sign folds the sign of a number into it: -9223372036854775808 is a number, its digits alone are not.
func (c converter) sign(name string, operand *Node, depth int) (*exprv1.Expr, error) {
	if v, ok := operand.GetAConst().GetVal().(*pg.A_Const_Fval); ok && name == "-" {
		return c.number("-"+v.Fval.GetFval(), operand.GetAConst().GetLocation())
	}
	if v, ok := operand.GetAConst().GetVal().(*pg.A_Const_Ival); ok && name == "-" {
		return predicate.Literal(datum.Int(-int64(v.Ival.GetIval()))), nil
	}
	return c.call(depth, name, operand)
}

func (c converter) caseOf(e *pg.CaseExpr, depth int) (*exprv1.Expr, error) {
	var args []*exprv1.Expr
	for _, w := range e.GetArgs() {
		when, err := c.expr(w.GetCaseWhen().GetExpr(), depth+1)
		if err != nil {
			return nil, err
		}
		if e.GetArg() != nil {
			arg, err := c.expr(e.GetArg(), depth+1)
			if err != nil {
				return nil, err
			}
			when = predicate.Call("=", arg, when)
		}
		result, err := c.expr(w.GetCaseWhen().GetResult(), depth)
		if err != nil {
			return nil, err
		}
		args = append(args, when, result)
	}
	if e.GetDefresult() != nil {
		last, err := c.expr(e.GetDefresult(), depth)
		if err != nil {
			return nil, err
		}
		args = append(args, last)
	}
	return predicate.Call("case", args...), nil
}

var valueFunctions = map[pg.SQLValueFunctionOp]string{
	pg.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP: "now", pg.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP: "now",
	pg.SQLValueFunctionOp_SVFOP_CURRENT_DATE: "current_date", pg.SQLValueFunctionOp_SVFOP_CURRENT_USER: "current_user",
	pg.SQLValueFunctionOp_SVFOP_USER: "current_user", pg.SQLValueFunctionOp_SVFOP_CURRENT_ROLE: "current_role",
}

func (c converter) valueFunction(f *pg.SQLValueFunction) (*exprv1.Expr, error) {
	if name, ok := valueFunctions[f.GetOp()]; ok {
		return predicate.Call(name), nil
	}
	return nil, c.unsupported(f.GetLocation(), "this function")
}
