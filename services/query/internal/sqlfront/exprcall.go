package sqlfront

import (
	"strconv"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

// functions are the functions predicate knows, by SQL name.
var functions = map[string]string{
	"now": "now", "current_user_id": "current_user", "lower": "lower", "upper": "upper", "length": "length",
	"char_length": "length", "character_length": "length", "abs": "abs", "round": "round", "floor": "floor",
	"ceil": "ceil", "ceiling": "ceil", "substring": "substring", "substr": "substring", "btrim": "trim",
	"trim": "trim", "ltrim": "ltrim", "rtrim": "rtrim", "replace": "replace", "starts_with": "starts_with",
	"strpos": "strpos", "position": "strpos", "left": "left", "right": "right", "concat": "concat",
	"date_trunc": "date_trunc", "extract": "extract", "date_part": "extract",
}

// functionName is the name of an unqualified function or one of pg_catalog, else "".
func functionName(f *pg.FuncCall) string {
	names := f.GetFuncname()
	if len(names) == 2 && names[0].GetString_().GetSval() == "pg_catalog" {
		names = names[1:]
	}
	if len(names) != 1 {
		return ""
	}
	return names[0].GetString_().GetSval()
}

func (c converter) function(f *pg.FuncCall, depth int) (*exprv1.Expr, error) {
	name := functionName(f)
	known, ok := functions[name]
	if !ok || f.GetAggStar() || f.GetAggDistinct() || f.GetOver() != nil || f.GetAggFilter() != nil || len(f.GetAggOrder()) > 0 ||
		f.GetFuncVariadic() || !predicate.Accepts(known, len(f.GetArgs())) {
		if name == "" {
			return nil, c.unsupported(f.GetLocation(), "a function of a namespace")
		}
		return nil, c.unsupported(f.GetLocation(), "this form of the function %s", strings.ToUpper(name))
	}
	if _, pattern := textConstant(f.GetArgs(), 1); known == "substring" && pattern { // a regular expression
		return nil, c.unsupported(f.GetLocation(), "SUBSTRING with a pattern")
	}
	return c.call(depth, known, f.GetArgs()...)
}

// textConstant reads the i-th argument if it is a string literal.
func textConstant(args []*Node, i int) (string, bool) {
	if i >= len(args) {
		return "", false
	}
	if v, ok := args[i].GetAConst().GetVal().(*pg.A_Const_Sval); ok {
		return v.Sval.GetSval(), true
	}
	return "", false
}

func (c converter) cast(n *pg.TypeCast, depth int) (*exprv1.Expr, error) {
	t := n.GetTypeName()
	names := t.GetNames()
	if len(t.GetArrayBounds()) > 0 || t.GetSetof() || t.GetPctType() || len(names) == 0 {
		return nil, c.unsupported(n.GetLocation(), "this type")
	}
	name := names[len(names)-1].GetString_().GetSval()
	if name == "interval" {
		return c.interval(n, depth)
	}
	params, ok := integers(t.GetTypmods())
	if !ok {
		return nil, c.unsupported(n.GetLocation(), "this type")
	}
	typ, err := catalog.ParseType(name, params)
	if err != nil {
		return nil, c.Tree.errorAt(dberr.Unsupported, t.GetLocation(), "%w", err)
	}
	if len(params) > 0 && typ.Kind != catalog.Decimal && typ.Kind != catalog.Embedding { // they cut or round
		return nil, c.unsupported(t.GetLocation(), "CAST to %s with a length or precision", typ)
	}
	arg, err := c.expr(n.GetArg(), depth)
	if err != nil {
		return nil, err
	}
	return predicate.Cast(arg, typ), nil
}

// integers reads the parameters of a type.
func integers(nodes []*Node) ([]int, bool) {
	var out []int
	for _, m := range nodes {
		v, ok := m.GetAConst().GetVal().(*pg.A_Const_Ival)
		if !ok {
			return nil, false
		}
		out = append(out, int(v.Ival.GetIval()))
	}
	return out, true
}

// intervalFields are the units of INTERVAL '5' DAY, by PostgreSQL's bit for each.
var intervalFields = map[int]string{1 << 1: "month", 1 << 2: "year", 1 << 3: "day", 1 << 10: "hour", 1 << 11: "minute", 1 << 12: "second"}

// interval reads INTERVAL '1 day' and INTERVAL '1' DAY.
func (c converter) interval(n *pg.TypeCast, depth int) (*exprv1.Expr, error) {
	fields, ok := integers(n.GetTypeName().GetTypmods())
	unit := ""
	if len(fields) > 0 {
		unit = intervalFields[fields[0]]
	}
	if !ok || len(fields) > 1 || len(fields) == 1 && unit == "" {
		return nil, c.unsupported(n.GetLocation(), "this form of INTERVAL")
	}
	text, literal := textConstant([]*Node{n.GetArg()}, 0)
	if !literal {
		if unit != "" {
			return nil, c.unsupported(n.GetLocation(), "this form of INTERVAL")
		}
		arg, err := c.expr(n.GetArg(), depth)
		if err != nil {
			return nil, err
		}
		return predicate.Call("cast", arg, predicate.Literal(datum.Text("INTERVAL"))), nil
	}
	if unit != "" {
		if _, err := strconv.ParseFloat(strings.TrimSpace(text), 64); err != nil {
			return nil, c.unsupported(n.GetLocation(), "this form of INTERVAL")
		}
		text += " " + unit
	}
	d, err := datum.ParseInterval(text)
	if err != nil {
		return nil, c.Tree.errorAt(dberr.CodeOf(err), n.GetLocation(), "%w", err)
	}
	return predicate.Literal(d), nil
}
