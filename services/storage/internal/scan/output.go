package scan

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

const (
	// firstBatchRows is small, so that a reader has something to do while the rest is read.
	firstBatchRows = 256
	// batchRows is where columnar processing no longer gains by larger batches.
	batchRows = 4096
	// batchBytes ends a batch of wide rows early; far below the message limit.
	batchBytes = 4 << 20
)

// output builds batches and sends them. At most one is being built and one is being sent; a reader that is
// slow stops the scan.
type output struct {
	plan    *plan
	alloc   memory.Allocator
	builder *rowbatch.Builder
	writer  *rowbatch.FlightWriter
	rowsMax int
}

func newOutput(alloc memory.Allocator, p *plan, to rowbatch.FlightSender) *output {
	b := rowbatch.NewBuilder(alloc, p.schema, p.columns)
	if limit := p.req.GetLimit(); limit > 0 {
		b.Reserve(int(min(limit, firstBatchRows)))
	}
	return &output{plan: p, alloc: alloc, builder: b, writer: rowbatch.NewFlightWriter(to, alloc), rowsMax: firstBatchRows}
}

func (o *output) release() { o.builder.Release() }

// start sends the schema and where the rows are.
func (o *output) start(position uint64) error {
	header, err := proto.Marshal(&storagev1.ScanHeader{Position: position})
	if err != nil {
		return dberr.New(dberr.Internal, "scan: encode the header: %w", err)
	}
	return o.writer.Start(o.plan.header, header)
}

// add appends the row's columns.
func (o *output) add(r *row) error {
	if len(o.plan.columns) == 0 { // counting
		o.builder.EndRow()
		return nil
	}
	if err := r.load(r.version, o.plan.outputColumns); err != nil {
		return err
	}
	for i := range o.plan.columns {
		if err := o.builder.Append(i, r.Column(o.plan.columns[i].ID)); err != nil {
			return err
		}
	}
	o.builder.EndRow()
	if o.builder.Rows() < o.rowsMax && o.builder.Bytes() < batchBytes {
		return nil
	}
	o.rowsMax = batchRows
	return o.flush()
}

// flush sends what was collected.
func (o *output) flush() error {
	if o.builder.Rows() == 0 {
		return nil
	}
	rec := o.builder.NewBatch()
	defer rec.Release()
	return o.writer.Write(rec)
}

// send sends a batch that was made elsewhere.
func (o *output) send(rec arrow.RecordBatch) error { return o.writer.Write(rec) }
