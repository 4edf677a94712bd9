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

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/pause"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/silence"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

const (
	// openFor is how long a scan is tried to be opened: longer than an election.
	openFor = 15 * time.Second
	// retryPauseMin is the pause before the second attempt; it doubles up to retryPauseMax.
	retryPauseMin = 5 * time.Millisecond
	retryPauseMax = 100 * time.Millisecond
	// firstMessageWithin is how long the first replica may take to begin its answer before another one is asked;
	// each further attempt gets twice the time, up to firstMessageMax. Sorting what fits into a storage node's
	// memory takes less than that.
	firstMessageWithin = time.Second
	firstMessageMax    = 8 * time.Second
)

// Shards is how the storage nodes are reached; see internal/router.
type Shards interface {
	// Shard is a connection to the leader of a shard.
	Shard(id uint32) grpc.ClientConnInterface
	// Replicas are the addresses of a shard's replicas, Conn a connection to one.
	Replicas(shard uint32) []string
	Conn(addr string) (*rpcnet.Conn, error)
}

// Client asks the storage role. It is safe for concurrent use.
type Client struct {
	shards Shards
	alloc  memory.Allocator
}

// New makes a client.
func New(shards Shards) *Client { return &Client{shards: shards, alloc: memory.DefaultAllocator} }

// WithAllocator returns a client that decodes batches into memory of alloc.
func (c *Client) WithAllocator(alloc memory.Allocator) *Client {
	with := *c
	with.alloc = alloc
	return &with
}

// Write commits one statement's rows. It may be sent several times: its request id makes it happen once.
func (c *Client) Write(ctx context.Context, req *storagev1.WriteRequest) (*storagev1.WriteResponse, error) {
	return storagev1.NewStorageServiceClient(c.shards.Shard(req.GetShard())).Write(ctx, req)
}

// ListManifests asks the leader of a shard for partitions that have segments.
func (c *Client) ListManifests(ctx context.Context, req *storagev1.ListManifestsRequest) (*storagev1.ListManifestsResponse, error) {
	return storagev1.NewStorageServiceClient(c.shards.Shard(req.GetShard())).ListManifests(ctx, req)
}

// DescribeBackup has a storage node read a backup: all see the same folders.
func (c *Client) DescribeBackup(ctx context.Context, req *storagev1.DescribeBackupRequest) (*storagev1.DescribeBackupResponse, error) {
	return storagev1.NewStorageServiceClient(c.shards.Shard(0)).DescribeBackup(ctx, req)
}

// CheckRestoreUser asks whether a user's rows can be restored to a moment, or restored into.
func (c *Client) CheckRestoreUser(ctx context.Context, req *storagev1.CheckRestoreUserRequest) (*storagev1.CheckRestoreUserResponse, error) {
	return storagev1.NewStorageServiceClient(c.shards.Shard(req.GetShard())).CheckRestoreUser(ctx, req)
}

// Commit commits a transaction; see Write.
func (c *Client) Commit(ctx context.Context, req *storagev1.CommitRequest) (*storagev1.CommitResponse, error) {
	return storagev1.NewStorageServiceClient(c.shards.Shard(req.GetWrite().GetShard())).Commit(ctx, req)
}

// WriteStream opens a stream of writes at the leader of a shard. It breaks when another one leads.
func (c *Client) WriteStream(ctx context.Context, shard uint32) (grpc.BidiStreamingClient[storagev1.WriteStreamRequest, storagev1.WriteStreamResponse], error) {
	return storagev1.NewStorageServiceClient(c.shards.Shard(shard)).WriteStream(ctx)
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
	if req.GetConsistency() == storagev1.Consistency_CONSISTENCY_STALE {
		if raw := c.anywhere(ctx, req.GetShard(), ticket); raw != nil {
			return raw, nil
		}
	}
	until := time.Now().Add(openFor)
	within, wait := firstMessageWithin, pause.Growing{Min: retryPauseMin, Max: retryPauseMax}
	for {
		raw, err := c.open(ctx, c.shards.Shard(req.GetShard()), ticket, within)
		within = min(2*within, firstMessageMax)
		if err == nil || !dberr.Is(err, dberr.Unavailable) && !dberr.Is(err, dberr.NotLeader) || time.Now().After(until) {
			return raw, err
		}
		if err := wait.Wait(ctx); err != nil {
			return nil, err
		}
	}
}

// anywhere opens a stale scan at some replica; nil when none can serve it, which leaves the leader.
func (c *Client) anywhere(ctx context.Context, shard uint32, ticket []byte) *Raw {
	for _, addr := range c.shards.Replicas(shard) {
		conn, err := c.shards.Conn(addr)
		if err != nil {
			continue
		}
		if raw, err := c.open(ctx, conn, ticket, firstMessageWithin); err == nil {
			return raw
		}
	}
	return nil
}

// open starts a scan and reads its first message, with which the storage role says that it can run it.
func (c *Client) open(ctx context.Context, conn grpc.ClientConnInterface, ticket []byte, within time.Duration) (*Raw, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	silent := time.AfterFunc(within, func() { cancel(errSilent) })
	raw, err := begin(ctx, conn, ticket, func() { cancel(nil) })
	silent.Stop()
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		err = errSilent
	}
	return raw, err
}

// errSilent is a replica that is paused or cut off: another one is asked.
var errSilent = dberr.New(dberr.Unavailable, "the storage node did not begin to answer in time: %w", silence.Err)

func begin(ctx context.Context, conn grpc.ClientConnInterface, ticket []byte, cancel func()) (*Raw, error) {
	stream, err := flight.NewFlightServiceClient(conn).DoGet(ctx, &flight.Ticket{Ticket: ticket})
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
	cancel   func()
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
