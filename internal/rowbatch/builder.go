package rowbatch

import (
	"math"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/decimal128"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Builder collects rows of datums into record batches. It is not safe for concurrent use.
type Builder struct {
	schema  *arrow.Schema
	columns []catalog.Column
	cols    []array.Builder
	rows    int
	bytes   int
}

// NewBuilder makes a builder for columns; schema must be SchemaOf(columns). Release it after use.
func NewBuilder(alloc memory.Allocator, schema *arrow.Schema, columns []catalog.Column) *Builder {
	b := &Builder{schema: schema, columns: columns, cols: make([]array.Builder, len(columns))}
	for i := range columns {
		b.cols[i] = array.NewBuilder(alloc, schema.Field(i).Type)
	}
	return b
}

// Reserve makes room for rows that are about to come.
func (b *Builder) Reserve(rows int) {
	for _, c := range b.cols {
		c.Reserve(rows)
	}
}

// Append adds the row's value of column i. Each column needs one value before EndRow. The value's memory
// may be reused afterwards.
func (b *Builder) Append(i int, d datum.Datum) error {
	if d.IsNull() {
		b.cols[i].AppendNull()
		return nil
	}
	t := b.columns[i].Type
	if d.Kind() != datum.KindOf(t) {
		return b.mismatch(i, d)
	}
	switch c := b.cols[i].(type) {
	case *array.BooleanBuilder:
		c.Append(d.AsBool())
	case *array.Int16Builder:
		if v := d.AsInt(); v != int64(int16(v)) {
			return b.outOfRange(i)
		}
		c.Append(int16(d.AsInt()))
	case *array.Int32Builder:
		if v := d.AsInt(); v != int64(int32(v)) {
			return b.outOfRange(i)
		}
		c.Append(int32(d.AsInt()))
	case *array.Int64Builder:
		c.Append(d.AsInt())
	case *array.Float32Builder:
		c.Append(float32(d.AsFloat()))
	case *array.Float64Builder:
		c.Append(d.AsFloat())
	case *array.Decimal128Builder:
		hi, lo, scale := d.AsDecimal()
		if scale != t.Scale {
			return b.mismatch(i, d)
		}
		c.Append(decimal128.New(hi, lo))
	case *array.TimestampBuilder:
		c.Append(arrow.Timestamp(d.AsInt()))
	case *array.Date32Builder:
		if v := d.AsInt(); v < math.MinInt32 || v > math.MaxInt32 {
			return b.outOfRange(i)
		}
		c.Append(arrow.Date32(d.AsInt()))
	case *array.Time64Builder:
		c.Append(arrow.Time64(d.AsInt()))
	default:
		return b.appendBytes(i, d)
	}
	return nil
}

// appendBytes adds values that are not of one machine word.
func (b *Builder) appendBytes(i int, d datum.Datum) error {
	s := d.AsText()
	b.bytes += len(s)
	switch c := b.cols[i].(type) {
	case *array.StringBuilder:
		c.Append(s)
	case *array.BinaryBuilder:
		c.AppendString(s)
	case *array.FixedSizeBinaryBuilder:
		c.Append([]byte(s))
	case *array.FixedSizeListBuilder:
		v := d.AsEmbedding()
		if len(v) != int(b.columns[i].Type.Dimension) {
			return b.mismatch(i, d)
		}
		c.Append(true)
		c.ValueBuilder().(*array.Float32Builder).AppendValues(v, nil)
	default:
		return b.mismatch(i, d)
	}
	return nil
}

// EndRow completes a row.
func (b *Builder) EndRow() { b.rows++ }

// Rows is the number of complete rows since the last batch.
func (b *Builder) Rows() int { return b.rows }

// cellBytes is what a cell of a fixed width counts for in Bytes.
const cellBytes = 8

// Bytes estimates the size of the batch being built.
func (b *Builder) Bytes() int { return b.bytes + b.rows*len(b.cols)*cellBytes }

// NewBatch returns the rows collected and starts over. The caller releases it. Without columns it is a
// batch of a row count alone.
func (b *Builder) NewBatch() arrow.RecordBatch {
	arrays := make([]arrow.Array, len(b.cols))
	for i, c := range b.cols {
		arrays[i] = c.NewArray()
	}
	rec := array.NewRecordBatch(b.schema, arrays, int64(b.rows))
	for _, a := range arrays {
		a.Release()
	}
	b.rows, b.bytes = 0, 0
	return rec
}

// Release frees what the builder holds.
func (b *Builder) Release() {
	for _, c := range b.cols {
		c.Release()
	}
}

func (b *Builder) mismatch(i int, d datum.Datum) error {
	c := &b.columns[i]
	return dberr.New(dberr.Corrupt, "column %s is %s, but its value is a %s that does not fit", c.Name, c.Type, d.Kind())
}

func (b *Builder) outOfRange(i int) error {
	c := &b.columns[i]
	return dberr.New(dberr.ValueOutOfRange, "column %s: the value does not fit %s", c.Name, c.Type)
}
