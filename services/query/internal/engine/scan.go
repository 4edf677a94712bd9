package engine

/*
#include <stdlib.h>
#include "bridge.h"
*/
import "C"

import (
	"context"
	"errors"
	"io"
	"runtime/cgo"
	"sync"
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/cdata"
	duckdb "github.com/duckdb/duckdb-go-bindings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// vectorRows is DuckDB's chunk size: what one call of the scan may hand over.
const vectorRows = 2048

// Column is one column of a Table.
type Column struct {
	Name string
	Type catalog.Type
}

// Table is a base table of one statement: the statement's text reads it as kalam_scan(i), where i is
// its place in Statement.Tables.
type Table struct {
	Columns []Column
	// Open starts reading the columns at these positions, in this order; with none, batches carry row
	// counts only. It is called once for each time the statement reads the table.
	Open func(ctx context.Context, columns []int) (Reader, error)
	// Ordered keeps the reader's order of rows, at the price of reading with one thread.
	Ordered bool
	// Signature names the table and its schema version, so that a prepared statement is used again only
	// for the same columns. Empty: the statement is prepared each time.
	Signature string
}

// Reader hands over a table's batches.
type Reader interface {
	// Next returns the next batch, which the caller releases, or io.EOF.
	Next(ctx context.Context) (arrow.RecordBatch, error)
	// Release ends reading; it is called exactly once.
	Release()
}

// boundScan is what a prepared statement remembers of one kalam_scan(i).
type boundScan struct {
	conn *conn
	slot int
}

// openScan is one table being read by one execution.
type openScan struct {
	conn    *conn
	run     *run
	columns []catalog.Type // projected
	// schema is the projected columns as DuckDB converted them; nil when none is projected.
	schema unsafe.Pointer

	mu     sync.Mutex // guards what follows: several of DuckDB's threads pull
	reader Reader
	batch  arrow.RecordBatch // owned
	at     int64             // first row of batch not handed over yet
	done   bool
}

//export kalamScanBind
func kalamScanBind(info unsafe.Pointer) {
	bind := duckdb.BindInfo{Ptr: info}
	in, ok := cgo.Handle(C.kalam_bind_engine(info)).Value().(*instance)
	if !ok {
		duckdb.BindSetError(bind, "kalam_scan: not an engine")
		return
	}
	c := in.connection(uint64(C.kalam_bind_connection(info)))
	slot := int(C.kalam_bind_slot(info))
	if c == nil || c.run == nil || slot < 0 || slot >= len(c.run.tables) {
		duckdb.BindSetError(bind, "kalam_scan: no such table")
		return
	}
	for _, col := range c.run.tables[slot].Columns {
		t := newLogicalType(col.Type)
		duckdb.BindAddResultColumn(bind, col.Name, t)
		duckdb.DestroyLogicalType(&t)
	}
	C.kalam_bind_set(info, C.uintptr_t(cgo.NewHandle(&boundScan{conn: c, slot: slot})))
}

//export kalamScanUnbind
func kalamScanUnbind(h C.uintptr_t) { cgo.Handle(h).Delete() }

//export kalamScanInit
func kalamScanInit(info unsafe.Pointer) {
	init := duckdb.InitInfo{Ptr: info}
	b, ok := cgo.Handle(C.kalam_init_bind_data(info)).Value().(*boundScan)
	if !ok || b.conn.run == nil || b.slot >= len(b.conn.run.tables) {
		duckdb.InitSetError(init, "kalam_scan: no statement is running")
		return
	}
	r := b.conn.run
	t := &r.tables[b.slot]
	s := &openScan{conn: b.conn, run: r}
	var positions []int
	for i := range duckdb.InitGetColumnCount(init) {
		p := duckdb.InitGetColumnIndex(init, i)
		if p >= duckdb.IdxT(len(t.Columns)) {
			continue // the row number that count(*) asks for: only the count matters
		}
		positions = append(positions, int(p))
		s.columns = append(s.columns, t.Columns[p].Type)
	}
	if err := s.open(t, positions); err != nil {
		duckdb.InitSetError(init, r.fail(err))
		return
	}
	if t.Ordered {
		duckdb.InitSetMaxThreads(init, 1)
	} else {
		duckdb.InitSetMaxThreads(init, duckdb.IdxT(b.conn.in.threads))
	}
	C.kalam_init_set(info, C.uintptr_t(cgo.NewHandle(s)))
}

func (s *openScan) open(t *Table, positions []int) error {
	if len(positions) > 0 {
		schema, err := convertSchema(s.conn.h, s.columns)
		if err != nil {
			return err
		}
		s.schema = schema
	}
	reader, err := t.Open(s.run.ctx, positions)
	if err != nil {
		s.close()
		return err
	}
	s.reader = reader
	return nil
}

// close frees everything; DuckDB has no vector left that refers to a batch.
func (s *openScan) close() {
	if s.batch != nil {
		s.batch.Release()
		s.batch = nil
	}
	if s.reader != nil {
		s.reader.Release()
		s.reader = nil
	}
	if s.schema != nil {
		C.kalam_schema_destroy(s.schema)
		s.schema = nil
	}
}

//export kalamScanClose
func kalamScanClose(h C.uintptr_t) {
	s, ok := cgo.Handle(h).Value().(*openScan)
	cgo.Handle(h).Delete()
	if ok {
		s.close()
	}
}

//export kalamScanNext
func kalamScanNext(info, output unsafe.Pointer) {
	fn := duckdb.FunctionInfo{Ptr: info}
	s, ok := cgo.Handle(C.kalam_function_init_data(info)).Value().(*openScan)
	if !ok {
		duckdb.FunctionSetError(fn, "kalam_scan: not a scan")
		return
	}
	slice, err := s.next()
	if err != nil {
		duckdb.FunctionSetError(fn, s.run.fail(err))
		return
	}
	if slice == nil {
		duckdb.DataChunkSetSize(duckdb.DataChunk{Ptr: output}, 0)
		return
	}
	defer slice.Release()
	if err := s.fill(slice, output); err != nil {
		duckdb.FunctionSetError(fn, s.run.fail(err))
	}
}

// next returns the next rows, at most vectorRows, or nil at the end.
func (s *openScan) next() (arrow.RecordBatch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.batch == nil || s.at >= s.batch.NumRows() {
		if s.done {
			return nil, nil
		}
		if s.batch != nil {
			s.batch.Release()
			s.batch = nil
		}
		batch, err := s.reader.Next(s.run.ctx)
		if errors.Is(err, io.EOF) {
			s.done = true
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		s.batch, s.at = batch, 0
		if err := s.check(batch); err != nil {
			return nil, err
		}
	}
	from := s.at
	s.at = min(from+vectorRows, s.batch.NumRows())
	return s.batch.NewSlice(from, s.at), nil
}

// check refuses a batch of other types than announced: DuckDB would read its memory as something else.
func (s *openScan) check(batch arrow.RecordBatch) error {
	if int(batch.NumCols()) != len(s.columns) {
		return dberr.New(dberr.Internal, "scan returned %d columns, %d were asked for", batch.NumCols(), len(s.columns))
	}
	for i, t := range s.columns {
		if got := batch.Column(i).DataType(); !sameLayout(got, arrowType(t)) {
			return dberr.New(dberr.Internal, "scan returned column %d as %s, not as %s", i, got, arrowType(t))
		}
	}
	return nil
}

// fill lets the output chunk refer to the batch's memory.
func (s *openScan) fill(batch arrow.RecordBatch, output unsafe.Pointer) error {
	if len(s.columns) == 0 {
		duckdb.DataChunkSetSize(duckdb.DataChunk{Ptr: output}, duckdb.IdxT(batch.NumRows()))
		return nil
	}
	arr := (*C.struct_ArrowArray)(C.calloc(1, C.size_t(unsafe.Sizeof(cdata.CArrowArray{}))))
	defer C.free(unsafe.Pointer(arr))
	cArr := (*cdata.CArrowArray)(unsafe.Pointer(arr))
	cdata.ExportArrowRecordBatch(batch, cArr, nil)
	msg := C.kalam_fill(s.conn.h.Ptr, s.schema, arr, output, C.uint64_t(len(s.columns)), C.uint64_t(batch.NumRows()))
	if msg != nil {
		cdata.ReleaseCArrowArray(cArr)
		return dberr.New(dberr.Internal, "hand rows to the engine: %s", takeString(msg))
	}
	return nil
}

// convertSchema prepares columns of these types for kalam_fill.
func convertSchema(c duckdb.Connection, types []catalog.Type) (unsafe.Pointer, error) {
	fields := make([]arrow.Field, len(types))
	for i, t := range types {
		fields[i] = inputField(t)
	}
	schema := (*C.struct_ArrowSchema)(C.calloc(1, C.size_t(unsafe.Sizeof(cdata.CArrowSchema{}))))
	defer C.free(unsafe.Pointer(schema))
	cSchema := (*cdata.CArrowSchema)(unsafe.Pointer(schema))
	cdata.ExportArrowSchema(arrow.NewSchema(fields, nil), cSchema)
	defer cdata.ReleaseCArrowSchema(cSchema)
	var out unsafe.Pointer
	if msg := C.kalam_schema_from_arrow(c.Ptr, schema, &out); msg != nil {
		return nil, dberr.New(dberr.Internal, "describe rows to the engine: %s", takeString(msg))
	}
	return out, nil
}

func takeString(s *C.char) string {
	defer C.free(unsafe.Pointer(s))
	return C.GoString(s)
}
