// Package snapshot reads the rows a subscription begins with: a partition by ascending _seq, page by
// page. A page is one storage scan with a limit, so storage holds nothing while a client thinks about
// asking for more, and each page is consistent at a position of its own; package subscription joins
// them.
package snapshot

import (
	"context"
	"errors"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/util"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/match"
)

const (
	// batchBytesMax ends a batch before its row limit: a batch is one message and one frame to a client.
	batchBytesMax = 1 << 20
	// pageBytesMax ends a page after a batch: what a subscription holds while its client does not ask
	// for the next batch.
	pageBytesMax = 1 << 20
	// newestBytesMax bounds the rows held to send the newest n in ascending order.
	newestBytesMax = 64 << 20
)

// Request says what to read.
type Request struct {
	Shape    *match.Shape
	Identity *catalogv1.Identity
	// CatalogVersion is what storage must know of before it answers.
	CatalogVersion uint64
	Shard          uint32
	User           string
	// After: rows with a higher _seq.
	After uint64
	// UpTo leaves out rows with a higher _seq; zero means that the page's position does.
	UpTo uint64
	// Rows in the page at most.
	Rows int
	// Newest takes the Rows with the highest _seq instead of those with the lowest.
	Newest bool
	// BatchRows is how many rows go into one batch.
	BatchRows int
	// NowUS is what NOW() means in the filter.
	NowUS int64
}

// Page is part of a snapshot.
type Page struct {
	// Position at which the page was read: every change up to it is in the rows, none after it.
	Position uint64
	// Batches hold the rows by ascending _seq; there is at least one, perhaps empty.
	Batches []Batch
	// FirstSeq is the lowest _seq of the rows, zero when there are none.
	FirstSeq uint64
	// More rows follow after the last one of this page.
	More bool
}

// Batch is a number of encoded rows.
type Batch struct {
	Rows    []byte
	Count   int
	LastSeq uint64
}

// Shards knows the way to a shard's leader; internal/router has it.
type Shards interface {
	Shard(id uint32) grpc.ClientConnInterface
}

// Reader reads pages from the leaders of the shards.
type Reader struct{ shards Shards }

// NewReader makes a reader.
func NewReader(shards Shards) *Reader { return &Reader{shards: shards} }

// Read reads one page.
func (r *Reader) Read(ctx context.Context, req Request) (*Page, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends a scan that was not read to its end
	ticket, err := proto.Marshal(req.scan())
	if err != nil {
		return nil, dberr.New(dberr.Internal, "encode the scan ticket: %w", err)
	}
	stream, err := flight.NewFlightServiceClient(r.shards.Shard(req.Shard)).DoGet(ctx, &flight.Ticket{Ticket: ticket})
	if err != nil {
		return nil, err
	}
	in, err := flight.NewRecordReader(stream)
	if err != nil {
		return nil, scanFailed(err)
	}
	defer in.Release()
	var header storagev1.ScanHeader
	if err := proto.Unmarshal(in.LatestAppMetadata(), &header); err != nil {
		return nil, dberr.New(dberr.Corrupt, "decode the scan's header: %w", err)
	}
	if err := req.checkSchema(in.Schema()); err != nil {
		return nil, err
	}
	page := &Page{Position: header.GetPosition()}
	if req.UpTo == 0 {
		req.UpTo = page.Position
	}
	var rows source = &forward{in: in}
	if req.Newest {
		b, err := collect(in)
		if err != nil {
			return nil, err
		}
		defer b.release()
		rows = b
	}
	return page, page.fill(&req, rows)
}

func (req *Request) scan() *storagev1.ScanRequest {
	t := req.Shape.Table()
	limit := req.Rows
	if !req.Newest {
		limit++ // one more, to know whether more follow
	}
	return &storagev1.ScanRequest{Identity: req.Identity, Shard: req.Shard, TableId: t.ID, SchemaVersion: t.SchemaVersion,
		UserId: req.User, ColumnIds: req.Shape.ScanColumns(), Filter: req.Shape.Filter(), AfterSeq: req.After,
		Order: []*exprv1.OrderBy{{ColumnId: catalog.SeqColumnID, Descending: req.Newest}},
		Limit: uint64(limit), NowUs: req.NowUS, CatalogVersion: req.CatalogVersion,
		Consistency: storagev1.Consistency_CONSISTENCY_LINEARIZABLE}
}

// checkSchema makes sure that the columns are what was asked for, before they are taken as that.
func (req *Request) checkSchema(got *arrow.Schema) error {
	want := req.Shape.Schema()
	if got.NumFields() != len(req.Shape.ScanColumns()) {
		return dberr.New(dberr.Internal, "scan of %s: %d columns instead of %d", req.Shape.Table().QualifiedName(),
			got.NumFields(), len(req.Shape.ScanColumns()))
	}
	for i := range want.NumFields() {
		if !arrow.TypeEqual(got.Field(i).Type, want.Field(i).Type) || got.Field(i).Name != want.Field(i).Name {
			return dberr.New(dberr.Internal, "scan of %s: column %d is %s %s instead of %s %s", req.Shape.Table().QualifiedName(),
				i, got.Field(i).Name, got.Field(i).Type, want.Field(i).Name, want.Field(i).Type)
		}
	}
	if got.Field(got.NumFields()-1).Type.ID() != arrow.INT64 {
		return dberr.New(dberr.Internal, "scan of %s: _seq is missing", req.Shape.Table().QualifiedName())
	}
	return nil
}

// fill encodes rows into batches until the page is full.
func (p *Page) fill(req *Request, rows source) error {
	w := newWriter(req.Shape)
	defer w.release()
	count, bytes := 0, 0
	var last uint64
	flush := func() error {
		n := w.rows()
		b, err := w.finish()
		if err != nil {
			return err
		}
		p.Batches = append(p.Batches, Batch{Rows: b, Count: n, LastSeq: last})
		bytes += len(b)
		return nil
	}
	for {
		rec, row, err := rows.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		seq := seqAt(rec, row)
		if seq > req.UpTo {
			break // written after the snapshot: it comes as a change
		}
		if full := w.rows() >= req.BatchRows || w.bytes() >= batchBytesMax; full {
			if err := flush(); err != nil {
				return err
			}
		}
		if p.More = count >= req.Rows || bytes >= pageBytesMax; p.More {
			break
		}
		if err := w.add(rec, row); err != nil {
			return err
		}
		last = seq
		if count++; count == 1 {
			p.FirstSeq = seq
		}
	}
	if w.rows() > 0 || len(p.Batches) == 0 {
		return flush()
	}
	return nil
}

func seqAt(rec arrow.RecordBatch, row int) uint64 {
	col, _ := rec.Column(int(rec.NumCols()) - 1).(*array.Int64) // checkSchema has seen it
	return uint64(col.Value(row))
}

// source gives rows by ascending _seq; io.EOF ends them.
type source interface {
	next() (rec arrow.RecordBatch, row int, err error)
}

// forward reads a scan as it comes.
type forward struct {
	in  *flight.Reader
	rec arrow.RecordBatch // owned by in until its next Next
	row int
}

func (f *forward) next() (arrow.RecordBatch, int, error) {
	for f.rec == nil || f.row+1 >= int(f.rec.NumRows()) {
		if !f.in.Next() {
			return nil, 0, scanFailed(f.in.Err())
		}
		f.rec, f.row = f.in.RecordBatch(), -1
	}
	f.row++
	return f.rec, f.row, nil
}

// scanFailed is the error of a scan that ended, io.EOF when it ended well.
func scanFailed(err error) error {
	var own *dberr.Error
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return io.EOF
	case errors.As(err, &own):
		return own
	}
	return dberr.FromStatus(err)
}

// backward holds a descending scan and reads it from its end.
type backward struct {
	recs []arrow.RecordBatch
	left int // records not read to their end
	row  int // of recs[left-1], already read
}

func collect(in *flight.Reader) (*backward, error) {
	b := &backward{}
	held := int64(0)
	for in.Next() {
		rec := in.RecordBatch()
		if held += util.TotalRecordSize(rec); held > newestBytesMax {
			b.release()
			return nil, dberr.New(dberr.LimitExceeded, "last_rows: the rows are more than %d bytes (newestBytesMax)", newestBytesMax)
		}
		rec.Retain()
		b.recs = append(b.recs, rec)
	}
	if err := scanFailed(in.Err()); !errors.Is(err, io.EOF) {
		b.release()
		return nil, err
	}
	b.left = len(b.recs) + 1 // as if the one after the last had been read
	return b, nil
}

func (b *backward) next() (arrow.RecordBatch, int, error) {
	for b.row == 0 {
		if b.left <= 1 {
			return nil, 0, io.EOF
		}
		b.left--
		b.row = int(b.recs[b.left-1].NumRows())
	}
	b.row--
	return b.recs[b.left-1], b.row, nil
}

func (b *backward) release() {
	for _, rec := range b.recs {
		rec.Release()
	}
	b.recs = nil
}
