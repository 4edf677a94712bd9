// Package storageclient reads partitions from the storage role over Arrow Flight and writes to it.
package storageclient

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

const (
	// openAttempts bounds how often a scan is opened when the storage role is not reachable: enough to
	// outlive a restart of a connection, not an outage.
	openAttempts = 4
	// retryPause is the pause before the second attempt; it doubles each time.
	retryPause = 20 * time.Millisecond
)

// Client asks the storage role. It is safe for concurrent use.
type Client struct {
	flight flight.FlightServiceClient
	store  storagev1.StorageServiceClient
	alloc  memory.Allocator
}

// New makes a client over a connection to the storage role.
func New(conn grpc.ClientConnInterface) *Client {
	return &Client{flight: flight.NewFlightServiceClient(conn), store: storagev1.NewStorageServiceClient(conn),
		alloc: memory.DefaultAllocator}
}

// WithAllocator returns a client that decodes batches into memory of alloc.
func (c *Client) WithAllocator(alloc memory.Allocator) *Client {
	with := *c
	with.alloc = alloc
	return &with
}

// Write commits one statement's rows. It is not retried: the storage role may have committed it.
func (c *Client) Write(ctx context.Context, req *storagev1.WriteRequest) (*storagev1.WriteResponse, error) {
	return c.store.Write(ctx, req)
}

// Address fills in the partition of t that the caller sees: its own of a USER or STREAM table, the only
// one of a SHARED table.
func Address(req *storagev1.ScanRequest, shards shardmap.Map, id catalog.Identity, t *catalog.Table) {
	req.Identity = catalog.IdentityToProto(id)
	req.TableId, req.SchemaVersion = t.ID, t.SchemaVersion
	if t.Kind.PerUser() {
		req.Shard, req.UserId = shards.User(id.UserID), id.UserID
	} else {
		req.Shard = shards.Table(t.ID)
	}
}

// Scan opens a scan. Opening is tried again while the storage role is unavailable; once the scan has
// begun, an error is the caller's.
func (c *Client) Scan(ctx context.Context, req *storagev1.ScanRequest) (*Reader, error) {
	raw, err := c.ScanRaw(ctx, req)
	if err != nil {
		return nil, err
	}
	reader, err := flight.NewRecordReader(raw, ipc.WithAllocator(c.alloc))
	if err != nil {
		raw.Release()
		return nil, dberr.New(dberr.Corrupt, "read a scan: %w", err)
	}
	return &Reader{raw: raw, reader: reader}, nil
}

// ScanRaw is Scan for those who pass the messages on without decoding them.
func (c *Client) ScanRaw(ctx context.Context, req *storagev1.ScanRequest) (*Raw, error) {
	ticket, err := proto.Marshal(req)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "encode a scan: %w", err)
	}
	for attempt := 1; ; attempt++ {
		raw, err := c.open(ctx, ticket)
		if err == nil || !dberr.Is(err, dberr.Unavailable) || attempt == openAttempts {
			return raw, err
		}
		if err := pause(ctx, retryPause<<(attempt-1)); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return dberr.FromStatus(ctx.Err())
	}
}

// open starts a scan and reads its first message, with which the storage role says that it can run it.
func (c *Client) open(ctx context.Context, ticket []byte) (*Raw, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.flight.DoGet(ctx, &flight.Ticket{Ticket: ticket})
	if err != nil {
		cancel()
		return nil, dberr.FromStatus(err)
	}
	first, err := stream.Recv()
	if err != nil {
		cancel()
		if errors.Is(err, io.EOF) {
			return nil, dberr.New(dberr.Corrupt, "read a scan: it ended before its schema")
		}
		return nil, dberr.FromStatus(err)
	}
	header := &storagev1.ScanHeader{}
	if err := proto.Unmarshal(first.GetAppMetadata(), header); err != nil {
		cancel()
		return nil, dberr.New(dberr.Corrupt, "read a scan's header: %w", err)
	}
	return &Raw{stream: stream, cancel: cancel, first: first, position: header.GetPosition()}, nil
}

// Raw is a scan's messages as they arrive: the schema, then batches.
type Raw struct {
	stream   flight.FlightService_DoGetClient
	cancel   context.CancelFunc
	first    *flight.FlightData // not yet returned
	position uint64
	err      error // what ended the stream, if not io.EOF
}

// Position is the _seq up to which the rows hold every change.
func (r *Raw) Position() uint64 { return r.position }

// Recv returns the next message, or io.EOF. Messages must not be changed.
func (r *Raw) Recv() (*flight.FlightData, error) {
	if first := r.first; first != nil {
		r.first = nil
		return first, nil
	}
	m, err := r.stream.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = dberr.FromStatus(err)
		return nil, r.err
	}
	return m, err
}

// Release ends the scan.
func (r *Raw) Release() { r.cancel() }

// Reader is a scan as batches.
type Reader struct {
	raw    *Raw
	reader *flight.Reader
}

// Schema describes the batches; see internal/rowbatch for its metadata.
func (r *Reader) Schema() *arrow.Schema { return r.reader.Schema() }

// Position is the _seq up to which the rows hold every change.
func (r *Reader) Position() uint64 { return r.raw.position }

// Next returns the next batch, which the caller releases, or io.EOF. The scan ends with the context
// given to Scan; ctx is looked at between two batches.
func (r *Reader) Next(ctx context.Context) (arrow.RecordBatch, error) {
	if err := ctx.Err(); err != nil {
		return nil, dberr.FromStatus(err)
	}
	if r.reader.Next() {
		batch := r.reader.RecordBatch()
		batch.Retain()
		return batch, nil
	}
	switch err := r.reader.Err(); {
	case r.raw.err != nil:
		return nil, r.raw.err
	case err == nil || errors.Is(err, io.EOF):
		return nil, io.EOF
	default:
		return nil, dberr.New(dberr.Corrupt, "read a scan: %w", err)
	}
}

// Release ends the scan.
func (r *Reader) Release() {
	r.raw.Release()
	r.reader.Release()
}
