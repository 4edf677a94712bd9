package snapshot

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/arrow/util"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/celljson"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/services/live/internal/match"
)

// writer collects rows of scanned records into one encoded batch at a time.
type writer interface {
	add(rec arrow.RecordBatch, row int) error
	rows() int
	// bytes of the batch so far; an estimate for Arrow.
	bytes() int
	// finish returns the batch and starts over.
	finish() ([]byte, error)
	release()
}

func newWriter(s *match.Shape) writer {
	if d := s.Dialect(); d.Valid() {
		w := &objectWriter{dialect: d, columns: len(s.Columns())}
		for _, c := range s.Columns() {
			w.types = append(w.types, c.Type)
		}
		return w
	}
	return &arrowWriter{schema: s.Schema(), columns: s.Columns()}
}

// objectWriter writes arrays of objects.
type objectWriter struct {
	dialect celljson.Dialect
	types   []catalog.Type
	columns int

	rec   arrow.RecordBatch // the one enc was made for
	enc   *celljson.BatchEncoder
	body  []byte
	count int
}

func (w *objectWriter) add(rec arrow.RecordBatch, row int) (err error) {
	if w.rec != rec {
		if w.enc, err = w.encoder(rec); err != nil {
			return err
		}
		w.rec = rec
	}
	if w.count > 0 {
		w.body = celljson.AppendArraySeparator(w.body, w.dialect)
	}
	w.count++
	w.body, err = w.enc.AppendObject(w.body, row)
	return err
}

// encoder leaves out _seq, the last scanned column, where it is not delivered.
func (w *objectWriter) encoder(rec arrow.RecordBatch) (*celljson.BatchEncoder, error) {
	if int(rec.NumCols()) > w.columns {
		fields := rec.Schema().Fields()[:w.columns]
		cut := array.NewRecordBatch(arrow.NewSchema(fields, nil), rec.Columns()[:w.columns], rec.NumRows())
		defer cut.Release() // its columns belong to rec, which outlives the encoder
		rec = cut
	}
	return celljson.NewBatchEncoder(rec, w.types, w.dialect)
}

func (w *objectWriter) rows() int  { return w.count }
func (w *objectWriter) bytes() int { return len(w.body) }

func (w *objectWriter) finish() ([]byte, error) {
	const frame = 16 // brackets, or the head of a MessagePack array
	out := celljson.AppendArrayStart(make([]byte, 0, len(w.body)+frame), w.count, w.dialect)
	out = celljson.AppendArrayEnd(append(out, w.body...), w.dialect)
	w.body, w.count = w.body[:0], 0
	return out, nil
}

func (w *objectWriter) release() {}

// arrowWriter writes IPC streams. It copies the rows: slices would keep whole scanned records alive,
// and a descending scan has to be turned round anyway.
type arrowWriter struct {
	schema  *arrow.Schema
	columns []catalog.Column
	b       *rowbatch.Builder

	rec     arrow.RecordBatch // the one rowSize was computed for
	rowSize int
	size    int
}

func (w *arrowWriter) add(rec arrow.RecordBatch, row int) error {
	if w.b == nil {
		w.b = rowbatch.NewBuilder(memory.DefaultAllocator, w.schema, w.columns)
	}
	if w.rec != rec {
		w.rec, w.rowSize = rec, int(util.TotalRecordSize(rec)/max(rec.NumRows(), 1))
	}
	w.size += w.rowSize
	for i := range w.columns {
		if err := w.b.Append(i, rowbatch.DatumAt(rec.Column(i), row, w.columns[i].Type)); err != nil {
			return err
		}
	}
	w.b.EndRow()
	return nil
}

func (w *arrowWriter) rows() int {
	if w.b == nil {
		return 0
	}
	return w.b.Rows()
}

func (w *arrowWriter) bytes() int { return w.size }

// encodedBytesMax is far above batchBytesMax plus one row: it only guards the transport.
const encodedBytesMax = 100 << 20

func (w *arrowWriter) finish() ([]byte, error) {
	var batches []arrow.RecordBatch
	if w.rows() > 0 {
		rec := w.b.NewBatch()
		defer rec.Release()
		batches = append(batches, rec)
	}
	w.size = 0
	return rowbatch.Encode(memory.DefaultAllocator, w.schema, batches, encodedBytesMax)
}

func (w *arrowWriter) release() {
	if w.b != nil {
		w.b.Release()
	}
}
