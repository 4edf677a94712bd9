package catalog

import (
	"fmt"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Limits of type parameters (spec 1.6).
const (
	decimalPrecisionMax   = 38
	embeddingDimensionMax = 8192
)

var typeInfo = map[TypeKind]struct{ wire, sql string }{
	Boolean: {"Boolean", "BOOLEAN"}, SmallInt: {"SmallInt", "SMALLINT"}, Int: {"Int", "INT"},
	BigInt: {"BigInt", "BIGINT"}, Float: {"Float", "FLOAT"}, Double: {"Double", "DOUBLE"},
	Decimal: {"Decimal", "DECIMAL"}, Text: {"Text", "TEXT"}, Bytes: {"Bytes", "BYTES"}, JSON: {"Json", "JSON"},
	Timestamp: {"Timestamp", "TIMESTAMP"}, DateTime: {"DateTime", "DATETIME"}, Date: {"Date", "DATE"},
	Time: {"Time", "TIME"}, UUID: {"Uuid", "UUID"}, Embedding: {"Embedding", "EMBEDDING"}, File: {"File", "FILE"},
}

// WireName is the type's name in JSON responses without parameters, e.g. "BigInt".
func (k TypeKind) WireName() string { return typeInfo[k].wire }

// WireJSON is the type as JSON responses show it: "BigInt", {"Decimal":{"precision":10,"scale":2}},
// {"Embedding":384}.
func (t Type) WireJSON() string {
	switch t.Kind {
	case Decimal:
		return fmt.Sprintf(`{"Decimal":{"precision":%d,"scale":%d}}`, t.Precision, t.Scale)
	case Embedding:
		return fmt.Sprintf(`{"Embedding":%d}`, t.Dimension)
	}
	return `"` + t.Kind.WireName() + `"`
}

// String is the type in SQL, e.g. DECIMAL(10,2).
func (t Type) String() string {
	switch t.Kind {
	case Decimal:
		return fmt.Sprintf("DECIMAL(%d,%d)", t.Precision, t.Scale)
	case Embedding:
		return fmt.Sprintf("EMBEDDING(%d)", t.Dimension)
	}
	return typeInfo[t.Kind].sql
}

// spellings maps every SQL spelling of spec 1.6 (lower case, single spaces, without parameters).
// pg_query's internal names (int4, bpchar, …) are spellings like any other.
var spellings = map[string]TypeKind{
	"boolean": Boolean, "bool": Boolean,
	"smallint": SmallInt, "int2": SmallInt, "tinyint": SmallInt, "smallserial": SmallInt, "serial2": SmallInt,
	"int": Int, "integer": Int, "int4": Int, "mediumint": Int, "serial": Int, "serial4": Int,
	"bigint": BigInt, "int8": BigInt, "bigserial": BigInt, "serial8": BigInt,
	"int unsigned": BigInt, "integer unsigned": BigInt, "unsigned int": BigInt, "unsigned integer": BigInt,
	"bigint unsigned": BigInt, "unsigned bigint": BigInt,
	"smallint unsigned": Int, "tinyint unsigned": SmallInt, "mediumint unsigned": Int,
	"float": Float, "float4": Float, "real": Float,
	"double": Double, "double precision": Double, "float8": Double,
	"decimal": Decimal, "numeric": Decimal,
	"text": Text, "varchar": Text, "char": Text, "character": Text, "character varying": Text, "bpchar": Text,
	"string": Text, "name": Text,
	"bytes": Bytes, "bytea": Bytes, "binary": Bytes, "varbinary": Bytes, "blob": Bytes,
	"json": JSON, "jsonb": JSON,
	"timestamp": Timestamp, "timestamptz": Timestamp, "timestamp with time zone": Timestamp,
	"timestamp without time zone": Timestamp,
	"datetime":                    DateTime, "date": Date,
	"time": Time, "time without time zone": Time,
	"uuid": UUID, "embedding": Embedding, "vector": Embedding, "file": File,
}

// ParseType finds the type for an SQL spelling and its parameters.
func ParseType(name string, params []int) (Type, error) {
	folded := strings.Join(strings.Fields(strings.ToLower(name)), " ")
	kind, ok := spellings[folded]
	if !ok {
		return Type{}, dberr.New(dberr.InvalidSQL, "unknown column type %q", name)
	}
	t := Type{Kind: kind}
	switch kind {
	case Decimal:
		return decimalType(params)
	case Embedding:
		if len(params) != 1 || params[0] < 1 || params[0] > embeddingDimensionMax {
			return Type{}, dberr.New(dberr.InvalidSQL, "%s needs a dimension from 1 to %d, as in EMBEDDING(384)",
				strings.ToUpper(folded), embeddingDimensionMax)
		}
		t.Dimension = uint16(params[0])
	case Text, Timestamp, DateTime, Time, Bytes, Int, BigInt, SmallInt, Float:
		if len(params) > 1 { // a length or precision is accepted and not enforced, as in the original
			return Type{}, dberr.New(dberr.InvalidSQL, "%s takes at most one parameter", strings.ToUpper(folded))
		}
	default:
		if len(params) > 0 {
			return Type{}, dberr.New(dberr.InvalidSQL, "%s takes no parameters", strings.ToUpper(folded))
		}
	}
	return t, nil
}

func decimalType(params []int) (Type, error) {
	p, s := 38, 10
	switch len(params) {
	case 0:
	case 1:
		p, s = params[0], 0
	case 2:
		p, s = params[0], params[1]
	default:
		return Type{}, dberr.New(dberr.InvalidSQL, "DECIMAL takes at most a precision and a scale")
	}
	if p < 1 || p > decimalPrecisionMax || s < 0 || s > p {
		return Type{}, dberr.New(dberr.InvalidSQL, "DECIMAL(%d,%d): the precision must be 1 to %d, the scale 0 to the precision",
			p, s, decimalPrecisionMax)
	}
	return Type{Kind: Decimal, Precision: uint8(p), Scale: uint8(s)}, nil
}
