package systemtable

import (
	"context"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
)

// Stream gives computed rows as Arrow batches, one page at a time.
type Stream struct {
	schema  *arrow.Schema
	builder *rowbatch.Builder
	next    pager
	columns int
}

// NewStream makes a stream of rows of the given columns; next returns none at the end.
func NewStream(columns []catalog.Column, next func(ctx context.Context) ([][]datum.Datum, error)) (*Stream, error) {
	schema, err := rowbatch.SchemaOf(columns)
	if err != nil {
		return nil, err
	}
	return &Stream{schema: schema, next: next, columns: len(columns),
		builder: rowbatch.NewBuilder(memory.DefaultAllocator, schema, columns)}, nil
}

// OneShot makes a stream of rows that are at hand.
func OneShot(columns []catalog.Column, rows [][]datum.Datum) (*Stream, error) {
	return NewStream(columns, paged(func(context.Context) ([][]datum.Datum, error) { return rows, nil }))
}

// Schema describes the batches.
func (s *Stream) Schema() *arrow.Schema { return s.schema }

// Next returns the next batch, which the caller releases, or io.EOF.
func (s *Stream) Next(ctx context.Context) (arrow.RecordBatch, error) {
	rows, err := s.next(ctx)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, io.EOF
	}
	for _, row := range rows {
		for i := range s.columns {
			if err := s.builder.Append(i, row[i]); err != nil {
				return nil, err
			}
		}
		s.builder.EndRow()
	}
	return s.builder.NewBatch(), nil
}

// Release frees the stream.
func (s *Stream) Release() { s.builder.Release() }

// Read starts reading a table as Arrow batches; see Open.
func (t *Tables) Read(id catalog.Identity, table *Table) (*Stream, error) {
	r, err := t.Open(id, table)
	if err != nil {
		return nil, err
	}
	return NewStream(table.Columns, r.Next)
}
