package export

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/arrow/util"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/celljson"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
)

const (
	// groupBytes is how much of a Parquet file is collected in memory before it is written: a row group.
	groupBytes = 8 << 20
	// lineBytes is how much of NDJSON is.
	lineBytes = 64 << 10
)

// sink takes the batches of one file.
type sink interface {
	begin(schema *arrow.Schema) error
	write(batch arrow.RecordBatch) error
	end() error
}

// copyRows runs a statement into a sink, and returns how many rows there were and the highest _seq, the first column.
func (e *Exports) copyRows(ctx context.Context, ticket *queryv1.StatementTicket, to sink) (rows, position uint64, err error) {
	ctx, cancel := context.WithCancel(ctx) // also ends a stream that is not read to its end
	defer cancel()
	raw, err := proto.Marshal(ticket)
	if err != nil {
		return 0, 0, dberr.New(dberr.Internal, "encode a ticket: %w", err)
	}
	stream, err := e.cfg.Query.DoGet(ctx, &flight.Ticket{Ticket: raw})
	if err != nil {
		return 0, 0, err
	}
	r, err := flight.NewRecordReader(stream)
	if err != nil {
		return 0, 0, dberr.FromStatus(err)
	}
	defer r.Release()
	if err := to.begin(r.Schema()); err != nil {
		return 0, 0, err
	}
	for r.Next() {
		batch := r.RecordBatch()
		if err := to.write(batch); err != nil {
			return 0, 0, err
		}
		rows += uint64(batch.NumRows())
		if seqs, ok := batch.Column(0).(*array.Int64); ok {
			for _, seq := range seqs.Int64Values() {
				position = max(position, uint64(seq))
			}
		}
	}
	if err := r.Err(); err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, dberr.FromStatus(err)
	}
	return rows, position, to.end()
}

// parquetSink writes row groups of about groupBytes. The library panics when what it writes to fails, so it writes to memory, which is
// emptied behind each row group.
type parquetSink struct {
	to    io.Writer
	group bytes.Buffer
	file  *pqarrow.FileWriter
	bytes int64
}

func (s *parquetSink) flush() error {
	if _, err := s.group.WriteTo(s.to); err != nil {
		return dberr.New(dberr.Unavailable, "write a Parquet file: %w", err)
	}
	return nil
}

func newParquet(w io.Writer) sink { return &parquetSink{to: w} }

func (s *parquetSink) begin(schema *arrow.Schema) (err error) {
	s.file, err = pqarrow.NewFileWriter(schema, &s.group, parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd),
		parquet.WithMaxRowGroupLength(1<<30)), pqarrow.NewArrowWriterProperties(pqarrow.WithAllocator(memory.DefaultAllocator)))
	if err != nil {
		return dberr.New(dberr.Internal, "begin a Parquet file: %w", err)
	}
	return nil
}

func (s *parquetSink) write(batch arrow.RecordBatch) error {
	if s.bytes > groupBytes {
		s.file.NewBufferedRowGroup()
		s.bytes = 0
		if err := s.flush(); err != nil {
			return err
		}
	}
	s.bytes += util.TotalRecordSize(batch)
	if err := s.file.WriteBuffered(batch); err != nil {
		return dberr.New(dberr.Internal, "make a Parquet file: %w", err)
	}
	return nil
}

func (s *parquetSink) end() error {
	if err := s.file.Close(); err != nil {
		return dberr.New(dberr.Internal, "end a Parquet file: %w", err)
	}
	return s.flush()
}

// ndjsonSink writes an object a line, cells as in JSON responses.
type ndjsonSink struct {
	to    *bufio.Writer
	types []catalog.Type
	line  []byte
}

func newNDJSON(w io.Writer) sink { return &ndjsonSink{to: bufio.NewWriterSize(w, lineBytes)} }

func (s *ndjsonSink) begin(schema *arrow.Schema) error {
	for _, c := range rowbatch.ColumnsOf(schema) {
		s.types = append(s.types, c.Type)
	}
	return nil
}

func (s *ndjsonSink) write(batch arrow.RecordBatch) error {
	enc, err := celljson.NewBatchEncoder(batch, s.types, celljson.JSON)
	if err != nil {
		return err
	}
	for i := range int(batch.NumRows()) {
		if s.line, err = enc.AppendObject(s.line[:0], i); err != nil {
			return err
		}
		if _, err := s.to.Write(append(s.line, '\n')); err != nil {
			return dberr.New(dberr.Unavailable, "write NDJSON: %w", err)
		}
	}
	return nil
}

func (s *ndjsonSink) end() error {
	if err := s.to.Flush(); err != nil {
		return dberr.New(dberr.Unavailable, "write NDJSON: %w", err)
	}
	return nil
}
