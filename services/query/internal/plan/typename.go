package plan

import (
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// engineTypes are the engine's names of column types, as a parse tree writes them.
var engineTypes = map[catalog.TypeKind]string{
	catalog.Boolean: "bool", catalog.SmallInt: "int2", catalog.Int: "int4", catalog.BigInt: "int8",
	catalog.Float: "float4", catalog.Double: "float8", catalog.Decimal: "numeric", catalog.Text: "text",
	catalog.Bytes: "blob", catalog.JSON: "json", catalog.Timestamp: "timestamp", catalog.DateTime: "timestamp",
	catalog.Date: "date", catalog.Time: "time", catalog.UUID: "uuid", catalog.Embedding: "float4",
	catalog.File: "text",
}

// rewriteType replaces the type of a cast by the engine's; types we do not have are refused.
func rewriteType(tn *pg.TypeName) (*pg.TypeName, error) {
	if tn.GetSetof() || tn.GetPctType() {
		return nil, dberr.New(dberr.InvalidSQL, "a type is expected")
	}
	name := typeSpelling(tn)
	if name == "interval" {
		if len(tn.GetTypmods()) > 0 {
			return nil, dberr.New(dberr.Unsupported, "INTERVAL with fields or precision is not supported")
		}
		return named("interval", nil, tn.GetArrayBounds()), nil
	}
	params, err := typeParams(tn)
	if err != nil {
		return nil, err
	}
	t, err := catalog.ParseType(name, params)
	if err != nil {
		return nil, err
	}
	bounds := tn.GetArrayBounds()
	var mods []*pg.Node
	switch t.Kind {
	case catalog.Decimal:
		mods = []*pg.Node{pg.MakeAConstIntNode(int64(t.Precision), -1), pg.MakeAConstIntNode(int64(t.Scale), -1)}
	case catalog.Embedding:
		if len(bounds) > 0 {
			return nil, dberr.New(dberr.Unsupported, "arrays of EMBEDDING are not supported")
		}
		bounds = []*pg.Node{pg.MakeIntNode(int64(t.Dimension))}
	}
	return named(engineTypes[t.Kind], mods, bounds), nil
}

func named(name string, mods, bounds []*pg.Node) *pg.TypeName {
	return &pg.TypeName{Names: []*pg.Node{pg.MakeStrNode(name)}, Typmods: mods, ArrayBounds: bounds, Typemod: -1, Location: -1}
}

// typeSpelling is the type's name as written, without PostgreSQL's schema.
func typeSpelling(tn *pg.TypeName) string {
	parts := make([]string, 0, 2)
	for _, n := range tn.GetNames() {
		parts = append(parts, n.GetString_().GetSval())
	}
	if len(parts) == 2 && parts[0] == "pg_catalog" {
		parts = parts[1:]
	}
	return strings.ToLower(strings.Join(parts, "."))
}

func typeParams(tn *pg.TypeName) ([]int, error) {
	var params []int
	for _, m := range tn.GetTypmods() {
		v, ok := integer(m)
		if !ok || v < 0 || v > 1<<20 {
			return nil, dberr.New(dberr.InvalidSQL, "a type's parameter must be a small integer")
		}
		params = append(params, int(v))
	}
	return params, nil
}

// integer reads an integer constant.
func integer(n *pg.Node) (int64, bool) {
	c := n.GetAConst()
	if c == nil || c.GetIsnull() {
		return 0, false
	}
	if v, ok := c.GetVal().(*pg.A_Const_Ival); ok {
		return int64(v.Ival.GetIval()), true
	}
	if v, ok := c.GetVal().(*pg.A_Const_Fval); ok { // beyond 32 bits the parser keeps the digits
		return parseInt(v.Fval.GetFval())
	}
	return 0, false
}
