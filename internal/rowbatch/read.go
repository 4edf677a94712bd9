package rowbatch

import (
	"encoding/json"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
)

// DatumAt reads cell i of a column whose type is t (see TypeOf). The value shares no memory with the
// column and is of t's kind or NULL; what no other type holds is given as text.
func DatumAt(col arrow.Array, i int, t catalog.Type) datum.Datum {
	if col.IsNull(i) || col.DataType().ID() == arrow.NULL {
		return datum.Null
	}
	d := cellAt(col, i, t)
	if d.IsNull() || d.Kind() == datum.KindOf(t) {
		return d
	}
	return textAt(col, i, t)
}

func cellAt(col arrow.Array, i int, t catalog.Type) datum.Datum {
	switch c := col.(type) {
	case *array.Boolean:
		return datum.Bool(c.Value(i))
	case *array.Int64:
		return datum.Int(c.Value(i))
	case *array.Int32:
		return datum.Int(int64(c.Value(i)))
	case *array.Int16:
		return datum.Int(int64(c.Value(i)))
	case *array.Float64:
		return datum.Float(c.Value(i))
	case *array.Float32:
		return datum.Float(float64(c.Value(i)))
	case *array.Decimal128:
		return decimalAt(c.Value(i), c.DataType().(*arrow.Decimal128Type).Scale, t)
	case *array.Timestamp:
		return datum.Timestamp(toMicros(int64(c.Value(i)), c.DataType().(*arrow.TimestampType).Unit))
	case *array.Date32:
		return datum.Date(int64(c.Value(i)))
	case *array.Time64:
		return datum.Time(toMicros(int64(c.Value(i)), c.DataType().(*arrow.Time64Type).Unit))
	case *array.FixedSizeList:
		if t.Kind == catalog.Embedding {
			return embeddingAt(c, i)
		}
	}
	return otherAt(col, i, t)
}

// otherAt reads the Arrow types that no column of ours has, but a computed one may.
func otherAt(col arrow.Array, i int, t catalog.Type) datum.Datum {
	switch c := col.(type) {
	case *array.String:
		return datum.Text(strings.Clone(c.Value(i)))
	case *array.LargeString:
		return datum.Text(strings.Clone(c.Value(i)))
	case *array.StringView:
		return datum.Text(strings.Clone(c.Value(i)))
	case *array.Binary:
		return datum.Bytes(c.Value(i))
	case *array.LargeBinary:
		return datum.Bytes(c.Value(i))
	case *array.BinaryView:
		return datum.Bytes(c.Value(i))
	case *array.FixedSizeBinary:
		if v := c.Value(i); t.Kind == catalog.UUID && len(v) == 16 {
			return datum.UUID([16]byte(v))
		}
		return datum.Bytes(c.Value(i))
	case *array.Int8:
		return datum.Int(int64(c.Value(i)))
	case *array.Uint8:
		return datum.Int(int64(c.Value(i)))
	case *array.Uint16:
		return datum.Int(int64(c.Value(i)))
	case *array.Uint32:
		return datum.Int(int64(c.Value(i)))
	case *array.Uint64:
		return datum.Decimal(0, c.Value(i), 0)
	case *array.Float16:
		return datum.Float(float64(c.Value(i).Float32()))
	case *array.Date64:
		return datum.Date(floorDiv(int64(c.Value(i)), millisPerDay))
	case *array.Time32:
		return datum.Time(toMicros(int64(c.Value(i)), c.DataType().(*arrow.Time32Type).Unit))
	case *array.Dictionary:
		return DatumAt(c.Dictionary(), c.GetValueIndex(i), t)
	case array.ExtensionArray:
		return DatumAt(c.Storage(), i, t)
	}
	return textAt(col, i, t)
}

// textAt writes lists, structs and maps as JSON, anything else as Arrow writes it.
func textAt(col arrow.Array, i int, t catalog.Type) datum.Datum {
	if t.Kind == catalog.JSON {
		if b, err := json.Marshal(col.GetOneForMarshal(i)); err == nil {
			return datum.Text(string(b))
		}
	}
	if datum.KindOf(t) == datum.KindText {
		return datum.Text(strings.Clone(col.ValueStr(i)))
	}
	return datum.Null
}

// decimalAt gives back integers that an engine widened (sums, counts), and decimals.
func decimalAt(v decimal128.Num, scale int32, t catalog.Type) datum.Datum {
	if t.Kind == catalog.BigInt && scale == 0 {
		if b := v.BigInt(); b.IsInt64() {
			return datum.Int(b.Int64())
		}
		return datum.Null
	}
	return datum.Decimal(v.HighBits(), v.LowBits(), uint8(scale))
}

func embeddingAt(c *array.FixedSizeList, i int) datum.Datum {
	values, ok := c.ListValues().(*array.Float32)
	if !ok {
		return datum.Null
	}
	start, end := c.ValueOffsets(i)
	return datum.Embedding(values.Float32Values()[start:end])
}

const millisPerDay = 86_400_000

func toMicros(v int64, unit arrow.TimeUnit) int64 {
	switch unit {
	case arrow.Second:
		return v * 1_000_000
	case arrow.Millisecond:
		return v * 1_000
	case arrow.Nanosecond:
		return floorDiv(v, 1_000)
	}
	return v
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
