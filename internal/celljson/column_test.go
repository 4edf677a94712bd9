package celljson

import (
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// column builds an array of three rows: one that a slice will hide, a value and a NULL.
func column(t *testing.T, mem memory.Allocator, dt arrow.DataType, fill func(array.Builder)) arrow.Array {
	t.Helper()
	b := array.NewBuilder(mem, dt)
	defer b.Release()
	fill(b)
	fill(b)
	b.AppendNull()
	whole := b.NewArray()
	defer whole.Release()
	return array.NewSlice(whole, 1, 3)
}

type columnCase struct {
	name       string
	typ        catalog.Type
	dt         arrow.DataType
	fill       func(array.Builder)
	json, seed string
}

func columnCases() []columnCase {
	return []columnCase{
		{"bool", typed(catalog.Boolean), arrow.FixedWidthTypes.Boolean, func(b array.Builder) { b.(*array.BooleanBuilder).Append(true) }, `true`, `true`},
		{"smallint", typed(catalog.SmallInt), arrow.PrimitiveTypes.Int16, func(b array.Builder) { b.(*array.Int16Builder).Append(-3) }, `-3`, `-3`},
		{"int", typed(catalog.Int), arrow.PrimitiveTypes.Int32, func(b array.Builder) { b.(*array.Int32Builder).Append(5) }, `5`, `5`},
		{"bigint", typed(catalog.BigInt), arrow.PrimitiveTypes.Int64, func(b array.Builder) { b.(*array.Int64Builder).Append(123) }, `"123"`, `123`},
		{"count", catalog.Type{}, arrow.PrimitiveTypes.Int64, func(b array.Builder) { b.(*array.Int64Builder).Append(2) }, `"2"`, `2`},
		{"uint64", catalog.Type{}, arrow.PrimitiveTypes.Uint64, func(b array.Builder) { b.(*array.Uint64Builder).Append(1 << 63) }, `"9223372036854775808"`, `9223372036854775808`},
		{"uint8", typed(catalog.SmallInt), arrow.PrimitiveTypes.Uint8, func(b array.Builder) { b.(*array.Uint8Builder).Append(200) }, `200`, `200`},
		{"float", typed(catalog.Float), arrow.PrimitiveTypes.Float32, func(b array.Builder) { b.(*array.Float32Builder).Append(0.1) }, `0.1`, `0.1`},
		{"double", typed(catalog.Double), arrow.PrimitiveTypes.Float64, func(b array.Builder) { b.(*array.Float64Builder).Append(0.1) }, `0.1`, `0.1`},
		{"decimal", typed(catalog.Decimal), &arrow.Decimal128Type{Precision: 10, Scale: 2}, func(b array.Builder) {
			b.(*array.Decimal128Builder).Append(decimal128.FromI64(-1250))
		}, `"-12.50"`, `-12.50`},
		{"text", typed(catalog.Text), arrow.BinaryTypes.String, func(b array.Builder) { b.(*array.StringBuilder).Append("a\n") }, `"a\n"`, `"a\n"`},
		{"large text", typed(catalog.Text), arrow.BinaryTypes.LargeString, func(b array.Builder) { b.(*array.LargeStringBuilder).Append("b") }, `"b"`, `"b"`},
		{"text view", typed(catalog.Text), arrow.BinaryTypes.StringView, func(b array.Builder) { b.(*array.StringViewBuilder).Append("c") }, `"c"`, `"c"`},
		{"bytes", typed(catalog.Bytes), arrow.BinaryTypes.Binary, func(b array.Builder) { b.(*array.BinaryBuilder).Append([]byte{222, 173}) }, `[222,173]`, `"3q0="`},
		{"uuid", typed(catalog.UUID), &arrow.FixedSizeBinaryType{ByteWidth: 16}, func(b array.Builder) {
			b.(*array.FixedSizeBinaryBuilder).Append([]byte(uuidSample.AsText()))
		}, `"018f2c00-0000-7000-8000-0000000000ff"`, `"018f2c00-0000-7000-8000-0000000000ff"`},
		{"timestamp", typed(catalog.Timestamp), &arrow.TimestampType{Unit: arrow.Microsecond}, func(b array.Builder) {
			b.(*array.TimestampBuilder).Append(seedInstantUS)
		}, `1761645600000000`, `"2025-10-28T10:00:00Z"`},
		{"timestamp s", typed(catalog.Timestamp), &arrow.TimestampType{Unit: arrow.Second}, func(b array.Builder) {
			b.(*array.TimestampBuilder).Append(seedInstantUS / 1_000_000)
		}, `1761645600000000`, `"2025-10-28T10:00:00Z"`},
		{"timestamp ns", typed(catalog.DateTime), &arrow.TimestampType{Unit: arrow.Nanosecond, TimeZone: "UTC"}, func(b array.Builder) {
			b.(*array.TimestampBuilder).Append(-1)
		}, `-1`, `"1969-12-31T23:59:59.999999Z"`},
		{"date", typed(catalog.Date), arrow.FixedWidthTypes.Date32, func(b array.Builder) { b.(*array.Date32Builder).Append(20389) }, `20389`, `"2025-10-28"`},
		{"date64", typed(catalog.Date), arrow.FixedWidthTypes.Date64, func(b array.Builder) { b.(*array.Date64Builder).Append(20389 * 86_400_000) }, `20389`, `"2025-10-28"`},
		{"time", typed(catalog.Time), arrow.FixedWidthTypes.Time64us, func(b array.Builder) { b.(*array.Time64Builder).Append(36000_000000) }, `36000000000`, `"10:00:00"`},
		{"time32", typed(catalog.Time), arrow.FixedWidthTypes.Time32ms, func(b array.Builder) { b.(*array.Time32Builder).Append(36000_000) }, `36000000000`, `"10:00:00"`},
		{"embedding", catalog.Type{Kind: catalog.Embedding, Dimension: 2}, arrow.FixedSizeListOf(2, arrow.PrimitiveTypes.Float32), func(b array.Builder) {
			list := b.(*array.FixedSizeListBuilder)
			list.Append(true)
			list.ValueBuilder().(*array.Float32Builder).AppendValues([]float32{0.1, -2}, nil)
		}, `[0.1,-2]`, `[0.1,-2]`},
		{"list", catalog.Type{}, arrow.ListOf(arrow.BinaryTypes.String), func(b array.Builder) {
			list := b.(*array.ListBuilder)
			list.Append(true)
			list.ValueBuilder().(*array.StringBuilder).AppendValues([]string{"a", "b"}, nil)
		}, `["a","b"]`, `["a","b"]`},
		{"null", catalog.Type{}, arrow.Null, func(b array.Builder) { b.AppendNull() }, `null`, `null`},
	}
}

func TestColumns(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	for _, c := range columnCases() {
		arr := column(t, mem, c.dt, c.fill)
		for _, d := range []struct {
			dialect Dialect
			want    string
		}{{JSON, c.json + "null"}, {Seed, c.seed + "null"}} {
			e, err := NewColumnEncoder(arr, c.typ, d.dialect)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			got, err := e.Append(nil, 0)
			if err == nil {
				got, err = e.Append(got, 1)
			}
			if err != nil || string(got) != d.want {
				t.Errorf("%s: got %s, %v; want %s", c.name, got, err, d.want)
			}
		}
		arr.Release()
	}
}

func TestColumnWithoutAForm(t *testing.T) {
	for _, dt := range []arrow.DataType{arrow.FixedWidthTypes.MonthDayNanoInterval, arrow.StructOf(), arrow.ListOf(arrow.StructOf())} {
		b := array.NewBuilder(memory.NewGoAllocator(), dt)
		b.AppendNull()
		arr := b.NewArray()
		if _, err := NewColumnEncoder(arr, catalog.Type{}, JSON); !dberr.Is(err, dberr.Unsupported) {
			t.Errorf("%s: %v", dt, err)
		}
	}
	b := array.NewTimestampBuilder(memory.NewGoAllocator(), &arrow.TimestampType{Unit: arrow.Second})
	b.Append(1 << 62)
	e, err := NewColumnEncoder(b.NewArray(), typed(catalog.Timestamp), JSON)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Append(nil, 0); !dberr.Is(err, dberr.ValueOutOfRange) {
		t.Errorf("a time beyond 64-bit microseconds: %v", err)
	}
}

func TestBatch(t *testing.T) {
	schema := arrow.NewSchema([]arrow.Field{{Name: "id", Type: arrow.PrimitiveTypes.Int64}, {Name: "body", Type: arrow.BinaryTypes.String}}, nil)
	b := array.NewRecordBuilder(memory.NewGoAllocator(), schema)
	b.Field(0).(*array.Int64Builder).AppendValues([]int64{1, 2}, nil)
	b.Field(1).(*array.StringBuilder).AppendValues([]string{"x", "y"}, []bool{true, false})
	rec := b.NewRecordBatch()
	types := []catalog.Type{typed(catalog.BigInt), typed(catalog.Text)}
	e, err := NewBatchEncoder(rec, types, JSON)
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.AppendObject(nil, 0)
	if err == nil {
		out, err = e.AppendArray(out, 1)
	}
	if want := `{"id":"1","body":"x"}["2",null]`; err != nil || string(out) != want {
		t.Errorf("got %s, %v; want %s", out, err, want)
	}
	if _, err := NewBatchEncoder(rec, types[:1], JSON); !dberr.Is(err, dberr.Internal) {
		t.Errorf("too few types: %v", err)
	}
}
