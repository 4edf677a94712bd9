package dml

import (
	"strconv"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// cellKind says where a value of VALUES comes from.
type cellKind uint8

const (
	cellDefault   cellKind = iota + 1 // the column's DEFAULT, filled in by the storage role
	cellConstant                      // known, and of the column's type
	cellParam                         // a bind parameter
	cellProgram                       // an expression without parameters
	cellExpr                          // an expression with parameters, compiled at each call
	cellSnowflake                     // SNOWFLAKE_ID()
	cellUUID                          // UUID_V7()
	cellULID                          // ULID()
)

// cell is one value of VALUES, prepared as far as it can be without parameters.
type cell struct {
	kind    cellKind
	value   datum.Datum
	param   int
	program *predicate.Program
	node    *sqlfront.Node
	tree    *sqlfront.Tree
}

// generators are the functions whose value is new for every row.
var generators = map[string]cellKind{"snowflake_id": cellSnowflake, "uuid_v7": cellUUID, "ulid": cellULID}

// newCell prepares a value for a column. Unsupported means that the query engine must compute it.
func newCell(node *sqlfront.Node, c *catalog.Column, tree *sqlfront.Tree, env *plan.Env) (cell, error) {
	if sqlfront.IsDefault(node) {
		return cell{kind: cellDefault}, nil
	}
	if v, ok := literal(node); ok {
		converted, err := datum.Convert(v, c.Type)
		return cell{kind: cellConstant, value: converted}, err
	}
	if p := node.GetParamRef(); p != nil {
		return cell{kind: cellParam, param: int(p.GetNumber())}, nil
	}
	if kind, ok := generators[callName(node)]; ok {
		return cell{kind: kind}, nil
	}
	program, err := compile(node, tree, nil, "", env)
	if err != nil {
		return cell{}, err
	}
	if sqlfront.HasParams(node) {
		return cell{kind: cellExpr, node: node, tree: tree}, nil
	}
	return cell{kind: cellProgram, program: program}, nil
}

// literal reads the constants that INSERTs are made of. Numbers with a fraction or an exponent are
// left to the expression compiler, which knows their exact type.
func literal(node *sqlfront.Node) (datum.Datum, bool) {
	if minus := node.GetAExpr(); minus != nil && minus.GetKind() == pg.A_Expr_Kind_AEXPR_OP && minus.GetLexpr() == nil &&
		len(minus.GetName()) == 1 && minus.GetName()[0].GetString_().GetSval() == "-" {
		return integer(minus.GetRexpr().GetAConst(), "-")
	}
	c := node.GetAConst()
	if c == nil {
		return datum.Null, false
	}
	if c.GetIsnull() {
		return datum.Null, true
	}
	switch v := c.GetVal().(type) {
	case *pg.A_Const_Sval:
		return datum.Text(v.Sval.GetSval()), true
	case *pg.A_Const_Boolval:
		return datum.Bool(v.Boolval.GetBoolval()), true
	}
	return integer(c, "")
}

func integer(c *pg.A_Const, sign string) (datum.Datum, bool) {
	switch v := c.GetVal().(type) {
	case *pg.A_Const_Ival:
		n := int64(v.Ival.GetIval())
		if sign == "-" {
			n = -n
		}
		return datum.Int(n), true
	case *pg.A_Const_Fval: // also integers above 32 bits
		n, err := strconv.ParseInt(sign+v.Fval.GetFval(), 10, 64)
		return datum.Int(n), err == nil
	}
	return datum.Null, false
}

// eval computes a value.
func (c *cell) eval(env *plan.Env, w *Writer) (datum.Datum, error) {
	switch c.kind {
	case cellConstant:
		return c.value, nil
	case cellParam:
		return param(env, c.param)
	case cellProgram:
		return c.program.Eval(predicateEnv(env), predicate.NoRow{})
	case cellExpr:
		program, err := compile(c.node, c.tree, nil, "", env)
		if err != nil {
			return datum.Null, err
		}
		return program.Eval(predicateEnv(env), predicate.NoRow{})
	case cellSnowflake:
		return datum.Int(w.NextID()), nil
	case cellUUID:
		return newUUID()
	case cellULID:
		return newULID(w)
	}
	return datum.Null, dberr.New(dberr.Internal, "a value of kind %d cannot be computed", c.kind)
}

func param(env *plan.Env, number int) (datum.Datum, error) {
	if number < 1 || number > len(env.Params) {
		return datum.Null, dberr.New(dberr.InvalidArgument, "parameter $%d is used, but %d are given", number, len(env.Params))
	}
	return env.Params[number-1], nil
}

func newUUID() (datum.Datum, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return datum.Null, dberr.New(dberr.Internal, "make a UUID: %w", err)
	}
	return datum.Text(id.String()), nil
}

func newULID(w *Writer) (datum.Datum, error) {
	id, err := ulid.New(ulid.Timestamp(w.Now()), ulid.DefaultEntropy())
	if err != nil {
		return datum.Null, dberr.New(dberr.Internal, "make a ULID: %w", err)
	}
	return datum.Text(id.String()), nil
}

// generated computes a column's DEFAULT, for SET c = DEFAULT; INSERT leaves it to the storage role.
func (w *Writer) generated(env *plan.Env, c *catalog.Column) (datum.Datum, error) {
	switch c.Default.Kind {
	case catalog.NoDefault:
		return datum.Null, nil
	case catalog.DefaultLiteral:
		d, _, err := datum.Decode(c.Default.Literal)
		return d, err
	case catalog.DefaultNow:
		return datum.Timestamp(env.NowUS), nil
	case catalog.DefaultSnowflakeID:
		return datum.Int(w.NextID()), nil
	case catalog.DefaultUUIDV7:
		return newUUID()
	case catalog.DefaultULID:
		return newULID(w)
	case catalog.DefaultCurrentUser:
		return datum.Text(env.Identity.UserID), nil
	}
	return datum.Null, dberr.New(dberr.Unsupported, "column '%s' has a DEFAULT of a kind this version does not know", c.Name)
}
