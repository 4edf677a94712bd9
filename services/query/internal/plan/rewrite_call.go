package plan

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/engine"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// functionName is a call's name, without PostgreSQL's schema; ok is false for another schema's.
func functionName(f *pg.FuncCall) (string, bool) {
	list := names(f.GetFuncname())
	if len(list) == 2 && list[0] == "pg_catalog" {
		list = list[1:]
	}
	if len(list) != 1 {
		return "", false
	}
	return strings.ToLower(list[0]), true
}

// special rewrites a call whose arguments are rewritten already.
type special func(p *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error)

// specials are allowed functions that need more than another name.
var specials = map[string]special{
	"now":                   func(p *planning, f *pg.FuncCall, _ []*pg.Node) (*pg.Node, error) { return p.now(), nil },
	"transaction_timestamp": func(p *planning, f *pg.FuncCall, _ []*pg.Node) (*pg.Node, error) { return p.now(), nil },
	"statement_timestamp":   func(p *planning, f *pg.FuncCall, _ []*pg.Node) (*pg.Node, error) { return p.now(), nil },
	"current_user":          ownText(paramUser), "current_user_id": ownText(paramUser), "current_role": ownText(paramRole),
	"snowflake_id": renamed(engine.SnowflakeID), "uuid_v7": renamed(engine.UUIDv7), "uuidv7": renamed(engine.UUIDv7),
	"ulid": renamed(engine.ULID),
	// What makes more text than it is given has functions of our own, which are bounded.
	"concat": concat, "concat_ws": concatWS,
	"repeat":         replaced(engine.Repeat, 2, 2, "text", "int8"),
	"replace":        replaced(engine.Replace, 3, 3, "text", "text", "text"),
	"lpad":           replaced(engine.PadLeft, 2, 3, "text", "int8", "text"),
	"rpad":           replaced(engine.PadRight, 2, 3, "text", "int8", "text"),
	"regexp_replace": replaced(engine.RegexpReplace, 3, 4, "text", "text", "text", "text"),
	"to_json":        boundedJSON("to_json", 1), "to_jsonb": boundedJSON("to_json", 1),
	"json_object": boundedJSON("json_object", jsonPartsMax), "json_array": boundedJSON("json_array", jsonPartsMax),
	"json_build_object": boundedJSON("json_object", jsonPartsMax), "jsonb_build_object": boundedJSON("json_object", jsonPartsMax),
	"json_build_array": boundedJSON("json_array", jsonPartsMax), "jsonb_build_array": boundedJSON("json_array", jsonPartsMax),
	"levenshtein": replaced(engine.Levenshtein, 2, 2, "text", "text"),
	"strftime":    strftime,
	"mod":         divides, "div": divides, "fdiv": divides, "fmod": divides,
	"extract": datePart, "date_part": datePart,
	"date_trunc": dateTrunc,
	"substring":  substring, "substr": substring,
	"cosine_distance": cosineDistance,
	"json_get":        jsonGet(engine.JSONGet, ""), "json_get_json": jsonGet(engine.JSONGet, ""),
	"json_get_str": jsonGet(engine.JSONGetText, ""), "json_as_text": jsonGet(engine.JSONGetText, ""),
	"json_get_int": jsonGet(engine.JSONGetText, "int8"), "json_get_float": jsonGet(engine.JSONGetText, "float8"),
	"json_get_bool": jsonGet(engine.JSONGetText, "bool"), "json_contains": jsonGet(engine.JSONHas, ""),
	"json_extract_path": jsonGet(engine.JSONGet, ""), "json_extract_path_text": jsonGet(engine.JSONGetText, ""),
	likeEscape: func(_ *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
		f.Args = args // only as the pattern of LIKE, which unwraps it
		return &pg.Node{Node: &pg.Node_FuncCall{FuncCall: f}}, argumentCount(f, args, 2, 2)
	},
}

func ownText(which int) special {
	return func(p *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
		return cast(p.own(which), "text"), argumentCount(f, args, 0, 0)
	}
}

func renamed(name string) special {
	return func(_ *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
		return call(name), argumentCount(f, args, 0, 0)
	}
}

func argumentCount(f *pg.FuncCall, args []*pg.Node, least, most int) error {
	if len(args) >= least && len(args) <= most {
		return nil
	}
	name, _ := functionName(f)
	if least == most {
		return dberr.New(dberr.InvalidSQL, "function %s takes %d arguments, not %d", name, least, len(args))
	}
	return dberr.New(dberr.InvalidSQL, "function %s takes %d to %d arguments, not %d", name, least, most, len(args))
}

// funcCall allows the functions of specials and functions; others do not exist.
func (p *planning) funcCall(f *pg.FuncCall, s *scope) (*pg.Node, error) {
	name, ok := functionName(f)
	to, plain := functions[name]
	if !plain {
		to, plain = aggregates[name]
	}
	sp := specials[name]
	if !ok || !plain && sp == nil {
		return nil, p.at(dberr.New(dberr.InvalidSQL, "function %s does not exist", strings.Join(names(f.GetFuncname()), ".")), f.GetLocation())
	}
	if f.GetFuncVariadic() {
		return nil, p.at(dberr.New(dberr.Unsupported, "VARIADIC is not supported"), f.GetLocation())
	}
	if err := p.callParts(f, s); err != nil {
		return nil, err
	}
	if sp != nil {
		if f.GetOver() != nil || f.GetAggFilter() != nil || f.GetAggDistinct() || len(f.GetAggOrder()) > 0 {
			return nil, p.at(dberr.New(dberr.InvalidSQL, "%s is not an aggregate or window function", name), f.GetLocation())
		}
		n, err := sp(p, f, f.GetArgs())
		if err != nil {
			return nil, p.at(asError(err), f.GetLocation())
		}
		return n, nil
	}
	if to == "=" {
		to = name
	}
	f.Funcname = []*pg.Node{pg.MakeStrNode(to)}
	f.Funcformat = pg.CoercionForm_COERCE_EXPLICIT_CALL
	return &pg.Node{Node: &pg.Node_FuncCall{FuncCall: f}}, nil
}

func (p *planning) callParts(f *pg.FuncCall, s *scope) error {
	if err := p.exprs(f.Args, s); err != nil {
		return err
	}
	if err := p.exprs(f.AggOrder, s); err != nil {
		return err
	}
	if err := p.replace(&f.AggFilter, s); err != nil {
		return err
	}
	return p.window(f.GetOver(), s)
}

// Limits of calls that repeat their arguments.
const (
	jsonPartsMax   = 64
	concatPartsMax = 100
	formatMax      = 256
)

// defaults of the last argument, where it may be left out.
var defaults = map[string]string{engine.PadLeft: " ", engine.PadRight: " ", engine.RegexpReplace: ""}

// replaced calls a function of ours with arguments of exactly these types.
func replaced(to string, least, most int, types ...string) special {
	return func(_ *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
		if err := argumentCount(f, args, least, most); err != nil {
			return nil, err
		}
		if len(args) < len(types) {
			args = append(args, text(defaults[to]))
		}
		for i := range args {
			args[i] = cast(args[i], types[i])
		}
		return call(to, args...), nil
	}
}

// concat joins texts and takes NULL for nothing.
func concat(_ *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
	if err := argumentCount(f, args, 1, concatPartsMax); err != nil {
		return nil, err
	}
	joined := orEmpty(args[0])
	for _, a := range args[1:] {
		joined = call(engine.Concat, joined, orEmpty(a))
	}
	return joined, nil
}

// concatWS puts the separator before each text that is not NULL and cuts the first one off.
func concatWS(_ *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
	if err := argumentCount(f, args, 2, concatPartsMax); err != nil {
		return nil, err
	}
	separator, ok := str(args[0])
	if !ok {
		return nil, dberr.New(dberr.Unsupported, "the separator of concat_ws must be a literal")
	}
	var joined *pg.Node
	for _, a := range args[1:] {
		part := orEmpty(call(engine.Concat, text(separator), cast(a, "text")))
		if joined != nil {
			part = call(engine.Concat, joined, part)
		}
		joined = part
	}
	return call("substr", joined, number(int64(utf8.RuneCountInString(separator))+1)), nil
}

func orEmpty(n *pg.Node) *pg.Node {
	return &pg.Node{Node: &pg.Node_CoalesceExpr{CoalesceExpr: &pg.CoalesceExpr{Args: []*pg.Node{cast(n, "text"), text("")}}}}
}

// boundedJSON calls a JSON constructor and bounds what it made.
func boundedJSON(to string, most int) special {
	return func(_ *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
		if err := argumentCount(f, args, min(1, most), most); err != nil {
			return nil, err
		}
		return call(engine.BoundedJSON, call(to, args...)), nil
	}
}

func strftime(_ *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
	if err := argumentCount(f, args, 2, 2); err != nil {
		return nil, err
	}
	if format, ok := str(args[1]); !ok || len(format) > formatMax {
		return nil, dberr.New(dberr.Unsupported, "the format of strftime must be a literal of at most %d bytes", formatMax)
	}
	return call("strftime", args...), nil
}

func divides(_ *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
	if err := argumentCount(f, args, 2, 2); err != nil {
		return nil, err
	}
	name, _ := functionName(f)
	args[1] = guardZero(args[1])
	if name == "div" { // the whole part, towards zero
		return call("trunc", operator("/", args[0], args[1])), nil
	}
	return call(name, args...), nil
}

// datePart gives seconds and milliseconds their fraction, which the engine drops.
func datePart(_ *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
	if err := argumentCount(f, args, 2, 2); err != nil {
		return nil, err
	}
	field, ok := str(args[0])
	if !ok {
		return nil, dberr.New(dberr.Unsupported, "the field of date_part must be a literal")
	}
	per := map[string]float64{"second": 1e6, "seconds": 1e6, "milliseconds": 1e3}[strings.ToLower(field)]
	if per == 0 {
		return call("date_part", args...), nil
	}
	us := call("date_part", text("microseconds"), args[1])
	return operator("/", cast(us, "float8"), cast(number(int64(per)), "float8")), nil
}

// dateTrunc hides the call from a rewrite of the engine's (DuckDB 1.5) that compares date_trunc(…, t)
// with a constant as if t were never NULL. greatest() of one value is the value.
func dateTrunc(_ *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
	if err := argumentCount(f, args, 2, 2); err != nil {
		return nil, err
	}
	return &pg.Node{Node: &pg.Node_MinMaxExpr{MinMaxExpr: &pg.MinMaxExpr{Op: pg.MinMaxOp_IS_GREATEST,
		Args: []*pg.Node{call("date_trunc", args...)}}}}, nil
}

// substring counts from the start of the text, where the engine takes a position before it from the
// end. A computed position is taken as 1 at least; a constant one shortens the length too.
func substring(_ *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
	if err := argumentCount(f, args, 2, 3); err != nil {
		return nil, err
	}
	from, constant := integer(args[1])
	switch {
	case constant && from >= 1:
	case constant && len(args) == 3:
		// Positions before the first count, so they use up some of the length.
		args[2] = &pg.Node{Node: &pg.Node_MinMaxExpr{MinMaxExpr: &pg.MinMaxExpr{Op: pg.MinMaxOp_IS_GREATEST,
			Args: []*pg.Node{number(0), operator("-", args[2], number(min(1-from, math.MaxInt32)))}}}}
		args[1] = number(1)
	case constant:
		args[1] = number(1)
	default:
		args[1] = &pg.Node{Node: &pg.Node_MinMaxExpr{MinMaxExpr: &pg.MinMaxExpr{Op: pg.MinMaxOp_IS_GREATEST,
			Args: []*pg.Node{number(1), args[1]}}}}
	}
	return call("substr", args...), nil
}

// cosineDistance compares an EMBEDDING with another or with a text that lists numbers; a zero vector is
// at distance 1 from everything.
func cosineDistance(_ *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
	if err := argumentCount(f, args, 2, 2); err != nil {
		return nil, err
	}
	var zero []*pg.Node
	for i, a := range args {
		v, err := vector(a)
		if err != nil {
			return nil, err
		}
		args[i] = v
		length := call("array_inner_product", sqlfront.Clone(v), sqlfront.Clone(v))
		zero = append(zero, operator("=", length, number(0)))
	}
	either := pg.MakeBoolExprNode(pg.BoolExprType_OR_EXPR, zero, -1)
	c := pg.MakeCaseExprNode(nil, []*pg.Node{pg.MakeCaseWhenNode(either, cast(number(1), "float4"), -1)}, -1)
	c.GetCaseExpr().Defresult = call("array_cosine_distance", args...)
	return c, nil
}

// vector checks an argument of cosine_distance, which is written several times: it must be small.
func vector(n *pg.Node) (*pg.Node, error) {
	inner := n
	for inner.GetTypeCast() != nil {
		inner = inner.GetTypeCast().GetArg()
	}
	if inner.GetColumnRef() == nil && inner.GetAConst() == nil && inner.GetParamRef() == nil {
		return nil, dberr.New(dberr.Unsupported, "the arguments of cosine_distance must be columns, literals or parameters")
	}
	t, ok := str(n)
	if !ok {
		return n, nil
	}
	dimension := strings.Count(t, ",") + 1
	if dimension > vectorMax {
		return nil, dberr.New(dberr.InvalidSQL, "cosine_distance: the vector has more than %d elements", vectorMax)
	}
	return &pg.Node{Node: &pg.Node_TypeCast{TypeCast: &pg.TypeCast{Arg: n, Location: -1,
		TypeName: named("float4", nil, []*pg.Node{pg.MakeIntNode(int64(dimension))})}}}, nil
}

// vectorMax is the largest dimension of an EMBEDDING.
const vectorMax = 8192

// jsonGet walks the keys one after another and reads the last with fn, as typeName if there is one.
func jsonGet(fn, typeName string) special {
	return func(_ *planning, f *pg.FuncCall, args []*pg.Node) (*pg.Node, error) {
		if err := argumentCount(f, args, 2, jsonKeysMax+1); err != nil {
			return nil, err
		}
		v := args[0]
		for _, key := range args[1 : len(args)-1] {
			v = call(engine.JSONGet, v, key)
		}
		v = call(fn, v, args[len(args)-1])
		if typeName != "" {
			v = cast(v, typeName)
		}
		return v, nil
	}
}

// jsonKeysMax bounds the keys of one json_get call.
const jsonKeysMax = 32

func nodeName(n *pg.Node) string { return fmt.Sprintf("%T", n.GetNode()) }
