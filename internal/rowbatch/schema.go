// Package rowbatch is where SQL values meet Arrow: which Arrow type carries which column type, the
// metadata that says so on every field, building batches from datums and reading them back, and the
// IPC and Flight framing with limits.
//
// A schema made here describes itself: whoever receives a batch knows the column types, keys and ids
// without asking the catalog.
package rowbatch

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Keys of a field's metadata.
const (
	// TypeKey holds the column's type as JSON responses show it (catalog.Type.WireJSON).
	TypeKey = "kalam.type"
	// FlagsKey holds a comma separated list of pk, nn and uq.
	FlagsKey = "kalam.flags"
	// ColumnIDKey holds the column's permanent id.
	ColumnIDKey = "kalam.column_id"
)

const (
	flagPrimaryKey = "pk"
	flagNotNull    = "nn"
	flagUnique     = "uq"
)

// ArrowType is the Arrow type that carries values of t.
func ArrowType(t catalog.Type) (arrow.DataType, error) {
	switch t.Kind {
	case catalog.Boolean:
		return arrow.FixedWidthTypes.Boolean, nil
	case catalog.SmallInt:
		return arrow.PrimitiveTypes.Int16, nil
	case catalog.Int:
		return arrow.PrimitiveTypes.Int32, nil
	case catalog.BigInt:
		return arrow.PrimitiveTypes.Int64, nil
	case catalog.Float:
		return arrow.PrimitiveTypes.Float32, nil
	case catalog.Double:
		return arrow.PrimitiveTypes.Float64, nil
	case catalog.Decimal:
		return &arrow.Decimal128Type{Precision: int32(t.Precision), Scale: int32(t.Scale)}, nil
	case catalog.Text, catalog.JSON, catalog.File:
		return arrow.BinaryTypes.String, nil
	case catalog.Bytes:
		return arrow.BinaryTypes.Binary, nil
	case catalog.Timestamp:
		return timestampType, nil
	case catalog.DateTime:
		return arrow.FixedWidthTypes.Timestamp_us, nil // with zone UTC
	case catalog.Date:
		return arrow.FixedWidthTypes.Date32, nil
	case catalog.Time:
		return arrow.FixedWidthTypes.Time64us, nil
	case catalog.UUID:
		return uuidType, nil
	case catalog.Embedding:
		if t.Dimension == 0 {
			return nil, dberr.New(dberr.Internal, "an EMBEDDING without a dimension has no Arrow type")
		}
		return arrow.FixedSizeListOf(int32(t.Dimension), arrow.PrimitiveTypes.Float32), nil
	}
	return nil, dberr.New(dberr.Internal, "column type %d has no Arrow type", t.Kind)
}

var (
	timestampType = &arrow.TimestampType{Unit: arrow.Microsecond}
	uuidType      = &arrow.FixedSizeBinaryType{ByteWidth: 16}
)

// SchemaOf describes columns. Every field is nullable, a NOT NULL column too: a row written before the
// column was added reads as NULL. The flag says what the table promises.
func SchemaOf(columns []catalog.Column) (*arrow.Schema, error) {
	fields := make([]arrow.Field, len(columns))
	for i := range columns {
		c := &columns[i]
		dt, err := ArrowType(c.Type)
		if err != nil {
			return nil, dberr.New(dberr.Internal, "column %s: %w", c.Name, err)
		}
		fields[i] = arrow.Field{Name: c.Name, Type: dt, Nullable: true,
			Metadata: arrow.NewMetadata([]string{TypeKey, FlagsKey, ColumnIDKey},
				[]string{c.Type.WireJSON(), flagsOf(c), strconv.FormatUint(uint64(c.ID), 10)})}
	}
	return arrow.NewSchema(fields, nil), nil
}

func flagsOf(c *catalog.Column) string {
	var flags []string
	if c.PrimaryKey {
		flags = append(flags, flagPrimaryKey)
	}
	if c.NotNull {
		flags = append(flags, flagNotNull)
	}
	if c.Unique {
		flags = append(flags, flagUnique)
	}
	return strings.Join(flags, ",")
}

// ColumnsOf reads a schema back: names, types, flags and ids, as far as the fields carry them.
func ColumnsOf(schema *arrow.Schema) []catalog.Column {
	columns := make([]catalog.Column, schema.NumFields())
	for i := range columns {
		columns[i] = ColumnOf(schema.Field(i))
	}
	return columns
}

// ColumnOf reads one field back.
func ColumnOf(f arrow.Field) catalog.Column {
	c := catalog.Column{Name: f.Name, Type: TypeOf(f)}
	if id, ok := ColumnID(f); ok {
		c.ID = id
	}
	flags, _ := f.Metadata.GetValue(FlagsKey)
	for flag := range strings.SplitSeq(flags, ",") {
		switch flag {
		case flagPrimaryKey:
			c.PrimaryKey = true
		case flagNotNull:
			c.NotNull = true
		case flagUnique:
			c.Unique = true
		}
	}
	return c
}

// ColumnID reads a field's column id.
func ColumnID(f arrow.Field) (uint32, bool) {
	s, ok := f.Metadata.GetValue(ColumnIDKey)
	if !ok {
		return 0, false
	}
	id, err := strconv.ParseUint(s, 10, 32)
	return uint32(id), err == nil
}

// TypeOf is the column type of a field: what its metadata says if its Arrow type agrees, else the nearest
// type for its Arrow type (computed columns carry no metadata). Every field has a type: what fits
// nothing is Text.
func TypeOf(f arrow.Field) catalog.Type {
	if s, ok := f.Metadata.GetValue(TypeKey); ok {
		if t, ok := parseType(s); ok {
			if dt, err := ArrowType(t); err == nil && arrow.TypeEqual(dt, f.Type) {
				return t
			}
		}
	}
	return nearest(f.Type)
}

// wireKinds finds a kind by its name in JSON.
var wireKinds = func() map[string]catalog.TypeKind {
	m := map[string]catalog.TypeKind{}
	for k := catalog.Boolean; k <= catalog.File; k++ {
		m[k.WireName()] = k
	}
	return m
}()

func parseType(s string) (catalog.Type, bool) {
	if name, quoted := strings.CutPrefix(s, `"`); quoted {
		k, ok := wireKinds[strings.TrimSuffix(name, `"`)]
		return catalog.Type{Kind: k}, ok && k != catalog.Decimal && k != catalog.Embedding
	}
	var p struct {
		Decimal   *struct{ Precision, Scale uint8 }
		Embedding *uint16
	}
	if err := json.Unmarshal([]byte(s), &p); err != nil {
		return catalog.Type{}, false
	}
	switch {
	case p.Decimal != nil:
		d := *p.Decimal
		return catalog.Type{Kind: catalog.Decimal, Precision: d.Precision, Scale: d.Scale},
			d.Precision >= 1 && d.Precision <= decimalPrecisionMax && d.Scale <= d.Precision
	case p.Embedding != nil:
		return catalog.Type{Kind: catalog.Embedding, Dimension: *p.Embedding}, *p.Embedding >= 1 && *p.Embedding <= maxDimension
	}
	return catalog.Type{}, false
}

// unsigned64Digits is the precision that holds every uint64.
const unsigned64Digits = 20

func nearest(dt arrow.DataType) catalog.Type {
	switch t := dt.(type) {
	case *arrow.BooleanType:
		return catalog.Type{Kind: catalog.Boolean}
	case *arrow.Int8Type, *arrow.Uint8Type, *arrow.Int16Type:
		return catalog.Type{Kind: catalog.SmallInt}
	case *arrow.Uint16Type, *arrow.Int32Type:
		return catalog.Type{Kind: catalog.Int}
	case *arrow.Uint32Type, *arrow.Int64Type:
		return catalog.Type{Kind: catalog.BigInt}
	case *arrow.Uint64Type:
		return catalog.Type{Kind: catalog.Decimal, Precision: unsigned64Digits}
	case *arrow.Float16Type, *arrow.Float32Type:
		return catalog.Type{Kind: catalog.Float}
	case *arrow.Float64Type:
		return catalog.Type{Kind: catalog.Double}
	case arrow.DecimalType:
		if t.GetPrecision() <= decimalPrecisionMax && t.GetScale() >= 0 && t.GetScale() <= t.GetPrecision() {
			return catalog.Type{Kind: catalog.Decimal, Precision: uint8(t.GetPrecision()), Scale: uint8(t.GetScale())}
		}
	case *arrow.BinaryType, *arrow.LargeBinaryType, *arrow.BinaryViewType:
		return catalog.Type{Kind: catalog.Bytes}
	case *arrow.FixedSizeBinaryType:
		return catalog.Type{Kind: catalog.Bytes}
	case *arrow.TimestampType:
		if t.TimeZone != "" {
			return catalog.Type{Kind: catalog.DateTime}
		}
		return catalog.Type{Kind: catalog.Timestamp}
	case *arrow.Date32Type, *arrow.Date64Type:
		return catalog.Type{Kind: catalog.Date}
	case *arrow.Time32Type, *arrow.Time64Type:
		return catalog.Type{Kind: catalog.Time}
	case *arrow.FixedSizeListType:
		if t.Elem().ID() == arrow.FLOAT32 && t.Len() > 0 && t.Len() <= maxDimension {
			return catalog.Type{Kind: catalog.Embedding, Dimension: uint16(t.Len())}
		}
		return catalog.Type{Kind: catalog.JSON}
	case *arrow.ListType, *arrow.LargeListType, *arrow.ListViewType, *arrow.StructType, *arrow.MapType:
		return catalog.Type{Kind: catalog.JSON}
	case *arrow.DictionaryType:
		return nearest(t.ValueType)
	case arrow.ExtensionType:
		if t.ExtensionName() == uuidExtension {
			return catalog.Type{Kind: catalog.UUID}
		}
		return nearest(t.StorageType())
	}
	return catalog.Type{Kind: catalog.Text}
}

// uuidExtension is Arrow's canonical extension type of UUIDs.
const uuidExtension = "arrow.uuid"

// Limits of type parameters (spec 1.6).
const (
	maxDimension        = 8192
	decimalPrecisionMax = 38
)
