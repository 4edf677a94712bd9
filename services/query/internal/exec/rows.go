package exec

import (
	"context"
	"errors"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
)

// begun is a result whose first batch has been computed, so that what fails at the start can be tried
// again.
type begun struct {
	Rows
	first arrow.RecordBatch
	err   error // io.EOF of a result without rows
}

// begin computes the first batch; on failure it releases the rows.
func begin(ctx context.Context, rows Rows) (Rows, error) {
	first, err := rows.Next(ctx)
	if err != nil && !errors.Is(err, io.EOF) {
		rows.Release()
		return nil, err
	}
	return &begun{Rows: rows, first: first, err: err}, nil
}

func (b *begun) Next(ctx context.Context) (arrow.RecordBatch, error) {
	if b.err != nil {
		return nil, b.err
	}
	if first := b.first; first != nil {
		b.first = nil
		return first, nil
	}
	return b.Rows.Next(ctx)
}

func (b *begun) Release() {
	if b.first != nil {
		b.first.Release()
		b.first = nil
	}
	b.Rows.Release()
}

// fixed is a result of at most one batch.
type fixed struct {
	schema *arrow.Schema
	batch  arrow.RecordBatch
}

func (f *fixed) Schema() *arrow.Schema { return f.schema }

func (f *fixed) Next(context.Context) (arrow.RecordBatch, error) {
	if f.batch == nil {
		return nil, io.EOF
	}
	b := f.batch
	f.batch = nil
	return b, nil
}

func (f *fixed) Release() {
	if f.batch != nil {
		f.batch.Release()
		f.batch = nil
	}
}

// labeled gives batches another schema of the same types: other names, other metadata.
type labeled struct {
	Rows
	schema *arrow.Schema
}

func relabeled(rows Rows, schema *arrow.Schema) Rows {
	if rows.Schema().Equal(schema) && rows.Schema().Metadata().Equal(schema.Metadata()) {
		return rows
	}
	return &labeled{Rows: rows, schema: schema}
}

func (l *labeled) Schema() *arrow.Schema { return l.schema }

func (l *labeled) Next(ctx context.Context) (arrow.RecordBatch, error) {
	batch, err := l.Rows.Next(ctx)
	if err != nil {
		return nil, err
	}
	defer batch.Release()
	return array.NewRecordBatch(l.schema, batch.Columns(), batch.NumRows()), nil
}

func sameTypes(a, b *arrow.Schema) bool {
	if a.NumFields() != b.NumFields() {
		return false
	}
	for i := range a.NumFields() {
		if !arrow.TypeEqual(a.Field(i).Type, b.Field(i).Type) {
			return false
		}
	}
	return true
}

// described adds to an engine's schema what planning knows of columns that are shown unchanged: flags and
// ids. The types are the engine's: it was told them.
func described(schema *arrow.Schema, output []plan.Output) *arrow.Schema {
	if len(output) != schema.NumFields() {
		return schema
	}
	columns := make([]catalog.Column, len(output))
	for i, o := range output {
		f := schema.Field(i)
		t := rowbatch.TypeOf(f)
		if o.Column != nil && o.Column.Type == t {
			columns[i] = *o.Column
		}
		columns[i].Name, columns[i].Type = f.Name, t
		if o.Name != "" {
			columns[i].Name = o.Name
		}
	}
	out, err := rowbatch.SchemaOf(columns)
	if err != nil || !sameTypes(out, schema) {
		return schema
	}
	fields := out.Fields()
	for i := range fields {
		if output[i].Column == nil { // an expression has no id
			fields[i].Metadata = schema.Field(i).Metadata
		}
	}
	return arrow.NewSchema(fields, nil)
}

// limited bounds a result.
type limited struct {
	Rows
	rowsLeft  int64
	bytesLeft int64
}

// Limit bounds a result's rows and bytes: past them it fails with LimitExceeded. Zero means no limit.
func Limit(rows Rows, rowsMax, bytesMax int64) Rows {
	l := &limited{Rows: rows, rowsLeft: rowsMax, bytesLeft: bytesMax}
	if rowsMax == 0 {
		l.rowsLeft = 1<<63 - 1
	}
	if bytesMax == 0 {
		l.bytesLeft = 1<<63 - 1
	}
	return l
}

func (l *limited) Next(ctx context.Context) (arrow.RecordBatch, error) {
	batch, err := l.Rows.Next(ctx)
	if err != nil {
		return nil, err
	}
	l.rowsLeft -= batch.NumRows()
	l.bytesLeft -= bytesOf(batch)
	if l.rowsLeft >= 0 && l.bytesLeft >= 0 {
		return batch, nil
	}
	batch.Release()
	if l.rowsLeft < 0 {
		return nil, dberr.New(dberr.LimitExceeded, "the result has more rows than allowed here (limit rows_max)")
	}
	return nil, dberr.New(dberr.LimitExceeded, "the result has more bytes than allowed here (limit bytes_max)")
}

func bytesOf(batch arrow.RecordBatch) int64 {
	var n int64
	for _, c := range batch.Columns() {
		n += int64(c.Data().SizeInBytes())
	}
	return n
}
