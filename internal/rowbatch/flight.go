package rowbatch

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// FlightSender is the sending side of a Flight stream.
type FlightSender interface {
	Send(*flight.FlightData) error
}

// FlightWriter writes batches to a Flight stream. Unlike Arrow's own it makes new memory for every message:
// in one process a message is handed over, not copied, and must not change after it was sent.
type FlightWriter struct {
	to    FlightSender
	alloc memory.Allocator
}

// NewFlightWriter makes a writer.
func NewFlightWriter(to FlightSender, alloc memory.Allocator) *FlightWriter {
	return &FlightWriter{to: to, alloc: alloc}
}

// SchemaHeader encodes a schema once for many streams.
func SchemaHeader(schema *arrow.Schema, alloc memory.Allocator) []byte {
	p := ipc.GetSchemaPayload(schema, alloc)
	defer p.Release()
	meta := p.Meta()
	defer meta.Release()
	return append([]byte(nil), meta.Bytes()...)
}

// Start sends the schema with metadata: the stream's first message.
func (w *FlightWriter) Start(schemaHeader, appMetadata []byte) error {
	return w.to.Send(&flight.FlightData{DataHeader: schemaHeader, AppMetadata: appMetadata})
}

// Write sends one batch of the schema. The batch may be released afterwards.
func (w *FlightWriter) Write(rec arrow.RecordBatch) error {
	p, err := ipc.GetRecordBatchPayload(rec, ipc.WithAllocator(w.alloc))
	if err != nil {
		return dberr.New(dberr.Internal, "encode batch: %w", err)
	}
	defer p.Release()
	meta := p.Meta()
	defer meta.Release()
	var size byteCounter
	if err := p.SerializeBody(&size); err != nil {
		return dberr.New(dberr.Internal, "encode batch: %w", err)
	}
	body := make(fixedBuffer, 0, int(size))
	if err := p.SerializeBody(&body); err != nil {
		return dberr.New(dberr.Internal, "encode batch: %w", err)
	}
	return w.to.Send(&flight.FlightData{DataHeader: append([]byte(nil), meta.Bytes()...), DataBody: body})
}

type byteCounter int

func (c *byteCounter) Write(p []byte) (int, error) {
	*c += byteCounter(len(p))
	return len(p), nil
}

type fixedBuffer []byte

func (b *fixedBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}
