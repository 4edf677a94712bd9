package engine

/*
#include <stdlib.h>
#include "bridge.h"
*/
import "C"

import (
	"context"
	"io"
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/cdata"
	"github.com/apache/arrow-go/v18/arrow/memory"
	duckdb "github.com/duckdb/duckdb-go-bindings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Rows is the result of a statement, computed as it is read. It is not safe for concurrent use.
type Rows struct {
	engine      *Engine
	conn        *conn
	run         *run
	stmt        *prepared
	result      duckdb.Result
	options     duckdb.ArrowOptions
	schema      *arrow.Schema
	chunk       *resultChunk // being handed over; nil when the next must be fetched
	cancel      context.CancelFunc
	interrupted func()
	err         error // what ended the stream, io.EOF included
}

// Schema describes the result; each field's metadata holds its type.
func (r *Rows) Schema() *arrow.Schema { return r.schema }

// Next returns the next batch, which the caller releases, or io.EOF. A batch that is being computed is
// stopped by the end of the context given to Query; ctx is looked at between two batches.
func (r *Rows) Next(ctx context.Context) (arrow.RecordBatch, error) {
	for r.err == nil {
		batch, err := r.fetch(ctx)
		if err != nil {
			r.err = r.explain(err)
		} else if batch.NumRows() > 0 {
			return batch, nil
		} else {
			batch.Release()
		}
	}
	return nil, r.err
}

func (r *Rows) fetch(ctx context.Context) (arrow.RecordBatch, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx, "the statement was stopped")
	}
	if err := r.run.ctx.Err(); err != nil {
		return nil, err
	}
	if r.chunk == nil {
		chunk := duckdb.FetchChunk(r.result)
		if chunk.Ptr == nil {
			if msg := duckdb.ResultError(&r.result); msg != "" {
				return nil, classify(msg)
			}
			return nil, io.EOF
		}
		r.chunk = newResultChunk(chunk, r.schema)
	}
	from := r.chunk.at
	to, err := r.chunk.next()
	if err != nil {
		return nil, err
	}
	part, release := r.chunk.slice(from, to)
	batch, err := r.convert(part)
	release()
	if r.chunk.at = to; r.chunk.done() {
		r.dropChunk()
	}
	return batch, err
}

func (r *Rows) dropChunk() {
	if r.chunk != nil {
		r.chunk.destroy()
		r.chunk = nil
	}
}

func (r *Rows) convert(chunk duckdb.DataChunk) (arrow.RecordBatch, error) {
	arr := (*C.struct_ArrowArray)(C.calloc(1, C.size_t(unsafe.Sizeof(cdata.CArrowArray{}))))
	defer C.free(unsafe.Pointer(arr))
	if msg := C.kalam_chunk_to_arrow(r.options.Ptr, chunk.Ptr, arr); msg != nil {
		return nil, classify(takeString(msg))
	}
	batch, err := cdata.ImportCRecordBatchWithSchema((*cdata.CArrowArray)(unsafe.Pointer(arr)), exported(r.schema))
	if err != nil {
		return nil, dberr.New(dberr.Internal, "read a result of the engine: %w", err)
	}
	defer batch.Release()
	return finish(batch, r.schema), nil
}

// exported is the schema DuckDB exports for ours: booleans come as bytes.
func exported(schema *arrow.Schema) *arrow.Schema {
	fields := schema.Fields()
	for i := range fields {
		if fields[i].Type.ID() == arrow.BOOL {
			fields[i].Type = arrow.PrimitiveTypes.Int8
		}
	}
	return arrow.NewSchema(fields, nil)
}

// finish makes bits of the booleans.
func finish(batch arrow.RecordBatch, schema *arrow.Schema) arrow.RecordBatch {
	columns := make([]arrow.Array, batch.NumCols())
	for i, c := range batch.Columns() {
		if bytes, ok := c.(*array.Int8); ok {
			columns[i] = toBits(bytes)
			defer columns[i].Release()
		} else {
			columns[i] = c
		}
	}
	return array.NewRecordBatch(schema, columns, batch.NumRows())
}

func toBits(bytes *array.Int8) arrow.Array {
	b := array.NewBooleanBuilder(memory.DefaultAllocator)
	defer b.Release()
	b.Reserve(bytes.Len())
	for i := range bytes.Len() {
		if bytes.IsNull(i) {
			b.AppendNull()
		} else {
			b.UnsafeAppend(bytes.Value(i) != 0)
		}
	}
	return b.NewArray()
}

// explain turns what a statement failed with into what really happened: a reader's error, the end of
// the statement's time, or DuckDB's own message.
func (r *Rows) explain(err error) error {
	if err == io.EOF { //nolint:errorlint // set by fetch itself
		return err
	}
	if isFatal(err) {
		return err
	}
	if cause := r.run.failure(); cause != nil && r.run.ctx.Err() == nil {
		return cause
	}
	if r.run.ctx.Err() != nil {
		return ended(r.run.ctx, "the statement was stopped")
	}
	return err
}

// Release ends the statement and frees everything.
func (r *Rows) Release() {
	if r.conn == nil {
		return
	}
	r.cancel()
	c := r.conn
	r.free()
	if r.engine != nil {
		r.engine.finished(c, r.err)
	}
}

// free frees all but the connection.
func (r *Rows) free() {
	r.interrupted()
	r.dropChunk()
	duckdb.DestroyArrowOptions(&r.options)
	duckdb.DestroyResult(&r.result)
	unread := r.err != io.EOF //nolint:errorlint // set by fetch itself
	if unread {
		r.conn.abandon()
	}
	if r.stmt != nil && (unread || r.stmt.key == "") {
		r.conn.forget(r.stmt)
	}
	r.conn.run = nil
	r.conn = nil
}
