package celljson

import (
	"math"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// cell appends the value of one row, which is not NULL.
type cell func(dst []byte, row int) ([]byte, error)

// ColumnEncoder appends cells of one Arrow column. The kind of array is looked at once, not per cell.
// It is valid as long as the array is.
type ColumnEncoder struct {
	arr     arrow.Array
	nulls   bool
	dialect Dialect
	cell    cell
}

// NewColumnEncoder makes an encoder for arr, whose cells have type t. Besides the array types that hold
// columns it takes those an engine's expressions produce; one that has no form in the dialects is
// answered with Unsupported.
func NewColumnEncoder(arr arrow.Array, t catalog.Type, d Dialect) (ColumnEncoder, error) {
	c := ColumnEncoder{arr: arr, nulls: arr.NullN() > 0, dialect: d}
	for _, find := range []func(arrow.Array, catalog.Type, Dialect) cell{numberCell, instantCell, bytesCell, otherCell} {
		if c.cell = find(arr, t, d); c.cell != nil {
			return c, nil
		}
	}
	return c, dberr.New(dberr.Unsupported, "values of type %s cannot be returned", arr.DataType())
}

// Append appends the cell of one row.
func (c *ColumnEncoder) Append(dst []byte, row int) ([]byte, error) {
	if c.nulls && c.arr.IsNull(row) {
		return AppendNull(dst, c.dialect), nil
	}
	return c.cell(dst, row)
}

func numberCell(arr arrow.Array, t catalog.Type, d Dialect) cell {
	big := t.Kind == catalog.BigInt
	switch a := arr.(type) {
	case *array.Int8:
		return intCell(a, big, d)
	case *array.Int16:
		return intCell(a, big, d)
	case *array.Int32:
		return intCell(a, big, d)
	case *array.Int64:
		// An engine's 64-bit result is as unsafe in a double as a BIGINT column.
		return intCell(a, big || t.Kind != catalog.Int && t.Kind != catalog.SmallInt, d)
	case *array.Uint8:
		return intCell(a, big, d)
	case *array.Uint16:
		return intCell(a, big, d)
	case *array.Uint32:
		return intCell(a, true, d)
	case *array.Uint64:
		return func(dst []byte, row int) ([]byte, error) { return appendUint(dst, a.Value(row), d), nil }
	case *array.Float32:
		return func(dst []byte, row int) ([]byte, error) { return appendFloat(dst, float64(a.Value(row)), 32, d) }
	case *array.Float64:
		return func(dst []byte, row int) ([]byte, error) { return appendFloat(dst, a.Value(row), 64, d) }
	case *array.Decimal128:
		scale := a.DataType().(*arrow.Decimal128Type).Scale
		return func(dst []byte, row int) ([]byte, error) {
			v := a.Value(row)
			return appendDecimal(dst, v.HighBits(), v.LowBits(), scale, d), nil
		}
	}
	return nil
}

func intCell[T int8 | int16 | int32 | int64 | uint8 | uint16 | uint32](a interface{ Value(int) T }, big bool, d Dialect) cell {
	return func(dst []byte, row int) ([]byte, error) { return appendInt(dst, int64(a.Value(row)), big, d), nil }
}

func instantCell(arr arrow.Array, _ catalog.Type, d Dialect) cell {
	switch a := arr.(type) {
	case *array.Timestamp:
		toMicros := microsFrom(a.DataType().(*arrow.TimestampType).Unit)
		return func(dst []byte, row int) ([]byte, error) {
			us, err := toMicros(int64(a.Value(row)))
			return appendTimestamp(dst, us, d), err
		}
	case *array.Date32:
		return func(dst []byte, row int) ([]byte, error) { return appendDate(dst, int64(a.Value(row)), d), nil }
	case *array.Date64: // milliseconds
		return func(dst []byte, row int) ([]byte, error) {
			days, _ := floorDiv(int64(a.Value(row)), secondsPerDay*1000)
			return appendDate(dst, days, d), nil
		}
	case *array.Time32:
		toMicros := microsFrom(a.DataType().(*arrow.Time32Type).Unit)
		return func(dst []byte, row int) ([]byte, error) {
			us, err := toMicros(int64(a.Value(row)))
			return appendTime(dst, us, d), err
		}
	case *array.Time64:
		toMicros := microsFrom(a.DataType().(*arrow.Time64Type).Unit)
		return func(dst []byte, row int) ([]byte, error) {
			us, err := toMicros(int64(a.Value(row)))
			return appendTime(dst, us, d), err
		}
	}
	return nil
}

// microsFrom converts a count of units to microseconds, exactly or, from nanoseconds, rounded down.
func microsFrom(unit arrow.TimeUnit) func(int64) (int64, error) {
	scale := int64(1)
	switch unit {
	case arrow.Nanosecond:
		return func(v int64) (int64, error) { us, _ := floorDiv(v, 1000); return us, nil }
	case arrow.Microsecond:
		return func(v int64) (int64, error) { return v, nil }
	case arrow.Millisecond:
		scale = 1000
	case arrow.Second:
		scale = microsPerSecond
	}
	return func(v int64) (int64, error) {
		if v > math.MaxInt64/scale || v < math.MinInt64/scale {
			return 0, dberr.New(dberr.ValueOutOfRange, "the time %d %s does not fit 64-bit microseconds", v, unit)
		}
		return v * scale, nil
	}
}

func bytesCell(arr arrow.Array, t catalog.Type, d Dialect) cell {
	switch a := arr.(type) {
	case *array.String:
		return textCell(a, d)
	case *array.LargeString:
		return textCell(a, d)
	case *array.StringView:
		return textCell(a, d)
	case *array.Binary:
		return binaryCell(a, d)
	case *array.LargeBinary:
		return binaryCell(a, d)
	case *array.BinaryView:
		return binaryCell(a, d)
	case *array.FixedSizeBinary:
		if t.Kind == catalog.UUID && a.DataType().(*arrow.FixedSizeBinaryType).ByteWidth == 16 {
			return func(dst []byte, row int) ([]byte, error) { return appendUUID(dst, text(a.Value(row)), d), nil }
		}
		return binaryCell(a, d)
	}
	return nil
}

func textCell(a interface{ Value(int) string }, d Dialect) cell {
	return func(dst []byte, row int) ([]byte, error) { return AppendText(dst, a.Value(row), d), nil }
}

func binaryCell(a interface{ Value(int) []byte }, d Dialect) cell {
	return func(dst []byte, row int) ([]byte, error) { return appendBytes(dst, text(a.Value(row)), d), nil }
}

func otherCell(arr arrow.Array, _ catalog.Type, d Dialect) cell {
	switch a := arr.(type) {
	case *array.Null:
		return func(dst []byte, _ int) ([]byte, error) { return AppendNull(dst, d), nil }
	case *array.Boolean:
		return func(dst []byte, row int) ([]byte, error) { return appendBool(dst, a.Value(row), d), nil }
	case array.ListLike:
		return listCell(a, d)
	case array.ExtensionArray:
		storage := a.Storage()
		inner, err := NewColumnEncoder(storage, extensionType(a), d)
		if err != nil {
			return nil
		}
		return inner.cell
	}
	return nil
}

func extensionType(a array.ExtensionArray) catalog.Type {
	if a.ExtensionType().ExtensionName() == "arrow.uuid" {
		return catalog.Type{Kind: catalog.UUID}
	}
	return catalog.Type{}
}

// listCell serves EMBEDDING columns, and lists an engine's function returned.
func listCell(a array.ListLike, d Dialect) cell {
	inner, err := NewColumnEncoder(a.ListValues(), catalog.Type{}, d)
	if err != nil {
		return nil
	}
	return func(dst []byte, row int) ([]byte, error) {
		start, end := a.ValueOffsets(row)
		dst = AppendArrayStart(dst, int(end-start), d)
		var err error
		for i := start; i < end; i++ {
			if i > start {
				dst = AppendArraySeparator(dst, d)
			}
			if dst, err = inner.Append(dst, int(i)); err != nil {
				return dst, err
			}
		}
		return AppendArrayEnd(dst, d), nil
	}
}

// BatchEncoder writes the rows of one record batch, as arrays or as objects.
type BatchEncoder struct {
	dialect Dialect
	keys    keys
	columns []ColumnEncoder
}

// NewBatchEncoder makes an encoder for rec; types are the columns' types in order. It is valid as long
// as rec is.
func NewBatchEncoder(rec arrow.RecordBatch, types []catalog.Type, d Dialect) (*BatchEncoder, error) {
	if len(types) != int(rec.NumCols()) {
		return nil, dberr.New(dberr.Internal, "encode batch: %d types for %d columns", len(types), rec.NumCols())
	}
	e := &BatchEncoder{dialect: d, columns: make([]ColumnEncoder, len(types))}
	names := make([]string, len(types))
	for i := range types {
		var err error
		names[i] = rec.ColumnName(i)
		if e.columns[i], err = NewColumnEncoder(rec.Column(i), types[i], d); err != nil {
			return nil, dberr.New(dberr.CodeOf(err), "column %s: %w", strconv.Quote(names[i]), err)
		}
	}
	e.keys = newKeys(names, d)
	return e, nil
}

// AppendObject appends a row as an object.
func (e *BatchEncoder) AppendObject(dst []byte, row int) ([]byte, error) {
	dst = e.keys.start(dst, len(e.columns))
	var err error
	for i := range e.columns {
		dst = e.keys.appendKey(dst, i, i == 0)
		if dst, err = e.columns[i].Append(dst, row); err != nil {
			return dst, err
		}
	}
	return e.keys.end(dst), nil
}

// AppendArray appends a row as an array.
func (e *BatchEncoder) AppendArray(dst []byte, row int) ([]byte, error) {
	dst = AppendArrayStart(dst, len(e.columns), e.dialect)
	var err error
	for i := range e.columns {
		if i > 0 {
			dst = AppendArraySeparator(dst, e.dialect)
		}
		if dst, err = e.columns[i].Append(dst, row); err != nil {
			return dst, err
		}
	}
	return AppendArrayEnd(dst, e.dialect), nil
}
