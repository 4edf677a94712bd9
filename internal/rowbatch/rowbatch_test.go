package rowbatch_test

import (
	"io"
	"math"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch/rowbatchtest"
)

const limit = 1 << 20

// everyType has a column of every type, and two values for each.
func everyType() ([]catalog.Column, [][]datum.Datum) {
	types := []struct {
		t    catalog.Type
		a, b datum.Datum
	}{
		{catalog.Type{Kind: catalog.Boolean}, datum.Bool(true), datum.Bool(false)},
		{catalog.Type{Kind: catalog.SmallInt}, datum.Int(math.MinInt16), datum.Int(math.MaxInt16)},
		{catalog.Type{Kind: catalog.Int}, datum.Int(math.MinInt32), datum.Int(math.MaxInt32)},
		{catalog.Type{Kind: catalog.BigInt}, datum.Int(math.MinInt64), datum.Int(math.MaxInt64)},
		{catalog.Type{Kind: catalog.Float}, datum.Float(1.5), datum.Float(math.Inf(-1))},
		{catalog.Type{Kind: catalog.Double}, datum.Float(0.1), datum.Float(-1e300)},
		{catalog.Type{Kind: catalog.Decimal, Precision: 38, Scale: 10}, datum.Decimal(-1, 5, 10), datum.Decimal(1, math.MaxUint64, 10)},
		{catalog.Type{Kind: catalog.Text}, datum.Text("héllo"), datum.Text("")},
		{catalog.Type{Kind: catalog.Bytes}, datum.Bytes([]byte{0, 255}), datum.Bytes(nil)},
		{catalog.Type{Kind: catalog.JSON}, datum.Text(`{"a":1}`), datum.Text("null")},
		{catalog.Type{Kind: catalog.Timestamp}, datum.Timestamp(-1), datum.Timestamp(1 << 50)},
		{catalog.Type{Kind: catalog.DateTime}, datum.Timestamp(7), datum.Timestamp(8)},
		{catalog.Type{Kind: catalog.Date}, datum.Date(-1), datum.Date(19000)},
		{catalog.Type{Kind: catalog.Time}, datum.Time(0), datum.Time(86_399_999_999)},
		{catalog.Type{Kind: catalog.UUID}, datum.UUID([16]byte{1}), datum.UUID([16]byte{15: 2})},
		{catalog.Type{Kind: catalog.Embedding, Dimension: 2}, datum.Embedding([]float32{1, -2}), datum.Embedding([]float32{0, 3})},
		{catalog.Type{Kind: catalog.File}, datum.Text("{}"), datum.Text("x")},
	}
	columns := make([]catalog.Column, len(types))
	rows := [][]datum.Datum{nil, nil, nil}
	for i, c := range types {
		columns[i] = catalog.Column{ID: uint32(i + 1), Name: c.t.Kind.WireName(), Type: c.t,
			PrimaryKey: i == 0, NotNull: i < 2, Unique: i == 1}
		rows[0] = append(rows[0], c.a)
		rows[1] = append(rows[1], datum.Null)
		rows[2] = append(rows[2], c.b)
	}
	return columns, rows
}

func build(t testing.TB, alloc memory.Allocator, columns []catalog.Column, rows [][]datum.Datum) arrow.RecordBatch {
	t.Helper()
	schema, err := rowbatch.SchemaOf(columns)
	if err != nil {
		t.Fatal(err)
	}
	b := rowbatch.NewBuilder(alloc, schema, columns)
	defer b.Release()
	for _, row := range rows {
		for i, d := range row {
			if err := b.Append(i, d); err != nil {
				t.Fatal(err)
			}
		}
		b.EndRow()
	}
	return b.NewBatch()
}

func checkCells(t *testing.T, rec arrow.RecordBatch, rows [][]datum.Datum) {
	t.Helper()
	if rec.NumRows() != int64(len(rows)) {
		t.Fatalf("%d rows, want %d", rec.NumRows(), len(rows))
	}
	for i := range int(rec.NumCols()) {
		ty := rowbatch.TypeOf(rec.Schema().Field(i))
		for r := range rows {
			if got := rowbatch.DatumAt(rec.Column(i), r, ty); !datum.Equal(got, rows[r][i]) {
				t.Errorf("column %s row %d: got %v, want %v", rec.ColumnName(i), r, got, rows[r][i])
			}
		}
	}
}

func TestEveryTypeSurvives(t *testing.T) {
	columns, rows := everyType()
	rec := build(t, rowbatchtest.Allocator(t), columns, rows)
	defer rec.Release()
	checkCells(t, rec, rows)
	for i, got := range rowbatch.ColumnsOf(rec.Schema()) {
		want := columns[i]
		if got.ID != want.ID || got.Name != want.Name || got.Type != want.Type || got.PrimaryKey != want.PrimaryKey ||
			got.NotNull != want.NotNull || got.Unique != want.Unique {
			t.Errorf("column %d: got %+v, want %+v", i, got, want)
		}
	}
	f := rec.Schema().Field(6)
	if v, _ := f.Metadata.GetValue(rowbatch.TypeKey); v != `{"Decimal":{"precision":38,"scale":10}}` {
		t.Errorf("type metadata %q", v)
	}
	if v, _ := rec.Schema().Field(1).Metadata.GetValue(rowbatch.FlagsKey); v != "nn,uq" {
		t.Errorf("flags metadata %q", v)
	}
}

func TestIPCRoundTrip(t *testing.T) {
	alloc := rowbatchtest.Allocator(t)
	columns, rows := everyType()
	rec := build(t, alloc, columns, rows)
	defer rec.Release()
	data, err := rowbatch.Encode(alloc, rec.Schema(), []arrow.RecordBatch{rec, rec}, limit)
	if err != nil {
		t.Fatal(err)
	}
	schema, batches, err := rowbatch.Decode(alloc, data, limit)
	if err != nil || len(batches) != 2 || !schema.Equal(rec.Schema()) {
		t.Fatalf("%d batches, %v", len(batches), err)
	}
	for _, b := range batches {
		checkCells(t, b, rows)
		b.Release()
	}
	if _, err := rowbatch.Encode(alloc, rec.Schema(), []arrow.RecordBatch{rec}, 100); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("encode past the limit: %v", err)
	}
	if _, _, err := rowbatch.Decode(alloc, data, 100); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("decode past the limit: %v", err)
	}
	if _, _, err := rowbatch.Decode(alloc, data[:len(data)/2], limit); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("decode half: %v", err)
	}
}

func TestBuilderRefusesWhatDoesNotFit(t *testing.T) {
	for _, c := range []struct {
		t    catalog.Type
		d    datum.Datum
		code dberr.Code
	}{
		{catalog.Type{Kind: catalog.SmallInt}, datum.Int(1 << 15), dberr.ValueOutOfRange},
		{catalog.Type{Kind: catalog.Int}, datum.Int(1 << 31), dberr.ValueOutOfRange},
		{catalog.Type{Kind: catalog.Date}, datum.Date(1 << 31), dberr.ValueOutOfRange},
		{catalog.Type{Kind: catalog.Int}, datum.Text("1"), dberr.Corrupt},
		{catalog.Type{Kind: catalog.Decimal, Precision: 5, Scale: 2}, datum.Decimal(0, 1, 3), dberr.Corrupt},
		{catalog.Type{Kind: catalog.Embedding, Dimension: 3}, datum.Embedding([]float32{1}), dberr.Corrupt},
	} {
		columns := []catalog.Column{{Name: "c", Type: c.t}}
		schema, err := rowbatch.SchemaOf(columns)
		if err != nil {
			t.Fatal(err)
		}
		b := rowbatch.NewBuilder(rowbatchtest.Allocator(t), schema, columns)
		if err := b.Append(0, c.d); !dberr.Is(err, c.code) {
			t.Errorf("%s: got %v, want %s", c.t, err, c.code)
		}
		b.Release()
	}
}

func TestBatchOfRowsWithoutColumns(t *testing.T) {
	rec := build(t, rowbatchtest.Allocator(t), nil, make([][]datum.Datum, 5))
	defer rec.Release()
	if rec.NumRows() != 5 || rec.NumCols() != 0 {
		t.Fatalf("%d rows, %d columns", rec.NumRows(), rec.NumCols())
	}
}

// Engines give types that no column has.
func TestForeignTypes(t *testing.T) {
	alloc := rowbatchtest.Allocator(t)
	for _, c := range []struct {
		dt   arrow.DataType
		fill func(array.Builder)
		t    catalog.Type
		want datum.Datum
	}{
		{arrow.PrimitiveTypes.Uint64, func(b array.Builder) { b.(*array.Uint64Builder).Append(math.MaxUint64) },
			catalog.Type{Kind: catalog.Decimal, Precision: 20}, datum.Decimal(0, math.MaxUint64, 0)},
		{arrow.PrimitiveTypes.Int8, func(b array.Builder) { b.(*array.Int8Builder).Append(-3) },
			catalog.Type{Kind: catalog.SmallInt}, datum.Int(-3)},
		{arrow.FixedWidthTypes.Timestamp_ns, func(b array.Builder) { b.(*array.TimestampBuilder).Append(-1) },
			catalog.Type{Kind: catalog.DateTime}, datum.Timestamp(-1)},
		{&arrow.TimestampType{Unit: arrow.Second}, func(b array.Builder) { b.(*array.TimestampBuilder).Append(2) },
			catalog.Type{Kind: catalog.Timestamp}, datum.Timestamp(2_000_000)},
		{arrow.FixedWidthTypes.Date64, func(b array.Builder) { b.(*array.Date64Builder).Append(-1) },
			catalog.Type{Kind: catalog.Date}, datum.Date(-1)},
		{arrow.BinaryTypes.LargeString, func(b array.Builder) { b.(*array.LargeStringBuilder).Append("x") },
			catalog.Type{Kind: catalog.Text}, datum.Text("x")},
		{&arrow.Decimal128Type{Precision: 38}, func(b array.Builder) { b.(*array.Decimal128Builder).Append(decimal128.FromI64(7)) },
			catalog.Type{Kind: catalog.Decimal, Precision: 38}, datum.Decimal(0, 7, 0)},
		{&arrow.Decimal128Type{Precision: 5, Scale: -2}, func(b array.Builder) { b.(*array.Decimal128Builder).Append(decimal128.FromI64(7)) },
			catalog.Type{Kind: catalog.Text}, datum.Text("700")},
		{arrow.ListOf(arrow.PrimitiveTypes.Int64), func(b array.Builder) {
			l := b.(*array.ListBuilder)
			l.Append(true)
			l.ValueBuilder().(*array.Int64Builder).AppendValues([]int64{1, 2}, nil)
		}, catalog.Type{Kind: catalog.JSON}, datum.Text("[1,2]")},
		{arrow.Null, func(b array.Builder) { b.AppendNull() }, catalog.Type{Kind: catalog.Text}, datum.Null},
	} {
		b := array.NewBuilder(alloc, c.dt)
		c.fill(b)
		col := b.NewArray()
		if got := rowbatch.TypeOf(arrow.Field{Name: "c", Type: c.dt}); got != c.t {
			t.Errorf("%s: type %s, want %s", c.dt, got, c.t)
		}
		if got := rowbatch.DatumAt(col, 0, c.t); !datum.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.dt, got, c.want)
		}
		col.Release()
		b.Release()
	}
}

// pipe is both ends of a Flight stream.
type pipe struct{ sent []*flight.FlightData }

func (p *pipe) Send(d *flight.FlightData) error {
	p.sent = append(p.sent, d)
	return nil
}

func (p *pipe) Recv() (*flight.FlightData, error) {
	if len(p.sent) == 0 {
		return nil, io.EOF
	}
	d := p.sent[0]
	p.sent = p.sent[1:]
	return d, nil
}

// Messages stay as they were sent while later ones are made: all are sent before one is read.
func TestFlightMessagesShareNoMemory(t *testing.T) {
	alloc := rowbatchtest.Allocator(t)
	columns, rows := everyType()
	var p pipe
	w := rowbatch.NewFlightWriter(&p, alloc)
	schema, err := rowbatch.SchemaOf(columns)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Start(rowbatch.SchemaHeader(schema, alloc), []byte("meta")); err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		rec := build(t, alloc, columns, rows[i:i+1])
		if err := w.Write(rec); err != nil {
			t.Fatal(err)
		}
		rec.Release()
	}
	r, err := flight.NewRecordReader(&p)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	if string(r.LatestAppMetadata()) != "meta" {
		t.Errorf("metadata of the first message: %q", r.LatestAppMetadata())
	}
	n := 0
	for ; r.Next(); n++ {
		checkCells(t, r.RecordBatch(), rows[n:n+1])
	}
	if n != len(rows) || r.Err() != nil {
		t.Fatalf("%d batches, %v", n, r.Err())
	}
}

func FuzzDecode(f *testing.F) {
	columns, rows := everyType()
	rec := build(f, memory.NewGoAllocator(), columns, rows)
	data, err := rowbatch.Encode(memory.NewGoAllocator(), rec.Schema(), []arrow.RecordBatch{rec}, limit)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		_, batches, err := rowbatch.Decode(memory.NewGoAllocator(), b, limit)
		if err != nil {
			if !dberr.Is(err, dberr.InvalidArgument) && !dberr.Is(err, dberr.LimitExceeded) {
				t.Fatalf("error of another code: %v", err)
			}
			return
		}
		for _, rec := range batches {
			for i := range int(rec.NumCols()) {
				ty := rowbatch.TypeOf(rec.Schema().Field(i))
				for r := range min(int(rec.NumRows()), 1000) {
					rowbatch.DatumAt(rec.Column(i), r, ty)
				}
			}
			rec.Release()
		}
	})
}
