package engine

import (
	"github.com/apache/arrow-go/v18/arrow"
	duckdb "github.com/duckdb/duckdb-go-bindings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
)

// Types that share a representation in DuckDB with another are told apart by an alias, which DuckDB
// carries through expressions, subqueries and set operations.
const (
	aliasJSON     = "JSON"
	aliasFile     = "FILE"
	aliasDateTime = "DATETIME"
)

// Decimals without a declared width, as results of arithmetic can have.
const decimalPrecisionMax = 38

var duckTypes = map[catalog.TypeKind]duckdb.Type{
	catalog.Boolean: duckdb.TypeBoolean, catalog.SmallInt: duckdb.TypeSmallInt, catalog.Int: duckdb.TypeInteger,
	catalog.BigInt: duckdb.TypeBigInt, catalog.Float: duckdb.TypeFloat, catalog.Double: duckdb.TypeDouble,
	catalog.Text: duckdb.TypeVarchar, catalog.Bytes: duckdb.TypeBlob, catalog.JSON: duckdb.TypeVarchar,
	catalog.Timestamp: duckdb.TypeTimestamp, catalog.DateTime: duckdb.TypeTimestamp, catalog.Date: duckdb.TypeDate,
	catalog.Time: duckdb.TypeTime, catalog.UUID: duckdb.TypeUUID, catalog.File: duckdb.TypeVarchar,
}

var aliases = map[catalog.TypeKind]string{
	catalog.JSON: aliasJSON, catalog.File: aliasFile, catalog.DateTime: aliasDateTime,
}

// newLogicalType makes DuckDB's type for a column type; the caller destroys it.
func newLogicalType(t catalog.Type) duckdb.LogicalType {
	var lt duckdb.LogicalType
	switch t.Kind {
	case catalog.Decimal:
		lt = duckdb.CreateDecimalType(t.Precision, t.Scale)
	case catalog.Embedding:
		child := duckdb.CreateLogicalType(duckdb.TypeFloat)
		lt = duckdb.CreateArrayType(child, duckdb.IdxT(t.Dimension))
		duckdb.DestroyLogicalType(&child)
	default:
		lt = duckdb.CreateLogicalType(duckTypes[t.Kind])
	}
	if alias := aliases[t.Kind]; alias != "" {
		duckdb.LogicalTypeSetAlias(lt, alias)
	}
	return lt
}

// arrowType is the Arrow type of a column type between the roles (spec 1.6).
func arrowType(t catalog.Type) arrow.DataType {
	switch t.Kind {
	case catalog.Boolean:
		return arrow.FixedWidthTypes.Boolean
	case catalog.SmallInt:
		return arrow.PrimitiveTypes.Int16
	case catalog.Int:
		return arrow.PrimitiveTypes.Int32
	case catalog.BigInt:
		return arrow.PrimitiveTypes.Int64
	case catalog.Float:
		return arrow.PrimitiveTypes.Float32
	case catalog.Double:
		return arrow.PrimitiveTypes.Float64
	case catalog.Decimal:
		return &arrow.Decimal128Type{Precision: int32(t.Precision), Scale: int32(t.Scale)}
	case catalog.Bytes:
		return arrow.BinaryTypes.Binary
	case catalog.Timestamp:
		return &arrow.TimestampType{Unit: arrow.Microsecond}
	case catalog.DateTime:
		return &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}
	case catalog.Date:
		return arrow.FixedWidthTypes.Date32
	case catalog.Time:
		return arrow.FixedWidthTypes.Time64us
	case catalog.UUID:
		return &arrow.FixedSizeBinaryType{ByteWidth: 16}
	case catalog.Embedding:
		return arrow.FixedSizeListOf(int32(t.Dimension), arrow.PrimitiveTypes.Float32)
	}
	return arrow.BinaryTypes.String
}

// sameLayout compares types by their memory, without names and nullability of children.
func sameLayout(a, b arrow.DataType) bool {
	la, ok := a.(*arrow.FixedSizeListType)
	if !ok {
		return arrow.TypeEqual(a, b)
	}
	lb, ok := b.(*arrow.FixedSizeListType)
	return ok && la.Len() == lb.Len() && arrow.TypeEqual(la.Elem(), lb.Elem())
}

// inputField describes a column to DuckDB. A DATETIME is handed over as TIMESTAMP: same memory, and
// none of the time zone arithmetic that DuckDB's zoned type brings.
func inputField(t catalog.Type) arrow.Field {
	f := arrow.Field{Name: "c", Nullable: true}
	switch t.Kind {
	case catalog.DateTime:
		f.Type = arrowType(catalog.Type{Kind: catalog.Timestamp})
	case catalog.UUID:
		f.Type = arrowType(t)
		f.Metadata = arrow.MetadataFrom(map[string]string{"ARROW:extension:name": "arrow.uuid", "ARROW:extension:metadata": ""})
	default:
		f.Type = arrowType(t)
	}
	return f
}

// resultType finds the column type of a result column. When DuckDB's type is not one of ours, cast is
// the SQL that turns the column into one: HUGEINT sums into BIGINT (a value that does not fit is an
// error), lists and structs into JSON, everything else into text.
func resultType(lt duckdb.LogicalType) (t catalog.Type, cast string) {
	id := duckdb.GetTypeId(lt)
	switch id {
	case duckdb.TypeVarchar:
		return catalog.Type{Kind: aliased(lt, catalog.Text, catalog.JSON, catalog.File)}, ""
	case duckdb.TypeTimestamp:
		return catalog.Type{Kind: aliased(lt, catalog.Timestamp, catalog.DateTime)}, ""
	case duckdb.TypeDecimal:
		return catalog.Type{Kind: catalog.Decimal, Precision: duckdb.DecimalWidth(lt), Scale: duckdb.DecimalScale(lt)}, ""
	case duckdb.TypeArray:
		return arrayType(lt)
	case duckdb.TypeList, duckdb.TypeStruct, duckdb.TypeMap, duckdb.TypeUnion:
		return catalog.Type{Kind: catalog.JSON}, "to_json(%s)"
	}
	if kind, ok := plainResults[id]; ok {
		return catalog.Type{Kind: kind}, ""
	}
	if c, ok := castResults[id]; ok {
		return catalog.Type{Kind: c.kind}, "CAST(%s AS " + c.sql + ")"
	}
	return catalog.Type{Kind: catalog.Text}, "CAST(%s AS VARCHAR)"
}

var plainResults = map[duckdb.Type]catalog.TypeKind{
	duckdb.TypeBoolean: catalog.Boolean, duckdb.TypeSmallInt: catalog.SmallInt, duckdb.TypeInteger: catalog.Int,
	duckdb.TypeBigInt: catalog.BigInt, duckdb.TypeFloat: catalog.Float, duckdb.TypeDouble: catalog.Double,
	duckdb.TypeBlob: catalog.Bytes, duckdb.TypeDate: catalog.Date, duckdb.TypeTime: catalog.Time,
	duckdb.TypeUUID: catalog.UUID,
}

var castResults = map[duckdb.Type]struct {
	kind catalog.TypeKind
	sql  string
}{
	duckdb.TypeTinyInt: {catalog.SmallInt, "SMALLINT"}, duckdb.TypeUTinyInt: {catalog.SmallInt, "SMALLINT"},
	duckdb.TypeUSmallInt: {catalog.Int, "INTEGER"}, duckdb.TypeUInteger: {catalog.BigInt, "BIGINT"},
	duckdb.TypeUBigInt: {catalog.BigInt, "BIGINT"}, duckdb.TypeHugeInt: {catalog.BigInt, "BIGINT"},
	duckdb.TypeUHugeInt: {catalog.BigInt, "BIGINT"}, duckdb.TypeTimestampS: {catalog.Timestamp, "TIMESTAMP"},
	duckdb.TypeTimestampMS: {catalog.Timestamp, "TIMESTAMP"}, duckdb.TypeTimestampNS: {catalog.Timestamp, "TIMESTAMP"},
	duckdb.TypeTimestampTZ: {catalog.Timestamp, "TIMESTAMP"},
}

// aliased returns plain, or the kind among others whose alias the type carries.
func aliased(lt duckdb.LogicalType, plain catalog.TypeKind, others ...catalog.TypeKind) catalog.TypeKind {
	name := duckdb.LogicalTypeGetAlias(lt)
	for _, k := range others {
		if name == aliases[k] {
			return k
		}
	}
	return plain
}

// arrayType maps FLOAT[n] to EMBEDDING(n) and other arrays to JSON.
func arrayType(lt duckdb.LogicalType) (catalog.Type, string) {
	child := duckdb.ArrayTypeChildType(lt)
	defer duckdb.DestroyLogicalType(&child)
	n := duckdb.ArrayTypeArraySize(lt)
	if duckdb.GetTypeId(child) == duckdb.TypeFloat && n <= 1<<16-1 {
		return catalog.Type{Kind: catalog.Embedding, Dimension: uint16(n)}, ""
	}
	return catalog.Type{Kind: catalog.JSON}, "to_json(%s)"
}
