package storage

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/watch"
)

// writeStreamMax bounds the writes of one stream that are not yet answered: enough to fill the log's
// fsyncs, little beside what a shard bears.
const writeStreamMax = 1024

// service serves storage.v1.StorageService. What arrives is shared with the caller: it is never changed.
type service struct {
	storagev1.UnimplementedStorageServiceServer
	node    *Storage
	watches *watch.Server
}

// waiter is a write that has begun.
type waiter interface {
	Wait(ctx context.Context) (*storagev1.WriteResponse, error)
}

// answered is a write that was over when it had begun.
type answered struct {
	response *storagev1.WriteResponse
	err      error
}

func (a answered) Wait(context.Context) (*storagev1.WriteResponse, error) { return a.response, a.err }

// Write commits one request.
func (s *service) Write(ctx context.Context, req *storagev1.WriteRequest) (*storagev1.WriteResponse, error) {
	began := time.Now()
	w, err := s.begin(ctx, req)
	if err != nil {
		s.node.metrics.wrote(began, err)
		return nil, err
	}
	resp, err := w.Wait(ctx)
	s.node.metrics.wrote(began, err)
	return resp, err
}

// Commit commits a transaction.
func (s *service) Commit(ctx context.Context, req *storagev1.CommitRequest) (*storagev1.CommitResponse, error) {
	began := time.Now()
	resp, err := s.commit(ctx, req)
	s.node.metrics.wrote(began, err)
	return resp, err
}

func (s *service) commit(ctx context.Context, req *storagev1.CommitRequest) (*storagev1.CommitResponse, error) {
	r, err := lookup{s.node}.replica(req.GetWrite().GetShard())
	if err != nil {
		return nil, err
	}
	p, err := r.Shard.BeginCommit(ctx, req)
	if err != nil {
		return nil, err
	}
	resp, err := p.Wait(ctx)
	if err != nil {
		return nil, err
	}
	return &storagev1.CommitResponse{Write: resp, Remembered: p.Remembered()}, nil
}

// begin sends a request where its tables live.
func (s *service) begin(ctx context.Context, req *storagev1.WriteRequest) (waiter, error) {
	r, err := lookup{s.node}.replica(req.GetShard())
	if err != nil {
		return nil, err
	}
	if err := r.Shard.WaitCatalog(ctx, req.GetCatalogVersion()); err != nil {
		return nil, err
	}
	if len(req.GetWrites()) == 1 {
		w := req.GetWrites()[0]
		if t, ok := s.node.catalog.Table(w.GetTableId()); ok && t.Kind == catalog.StreamTable {
			return s.writeStreamTable(ctx, r, req, w)
		}
	}
	return r.Shard.Begin(ctx, req)
}

// writeStreamTable writes to the leader's memory.
func (s *service) writeStreamTable(ctx context.Context, r *replica.Replica, req *storagev1.WriteRequest, w *storagev1.TableWrite) (waiter, error) {
	t, err := r.Shard.Authorize(req, w)
	if err != nil {
		return nil, err
	}
	if err := r.Shard.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	res, err := r.Stream.WriteOnce(ctx, req.GetRequestId(), t, req.GetUserId(), w, req.GetReturnRows())
	if err != nil {
		return nil, err
	}
	resp := &storagev1.WriteResponse{Durability: storagev1.Durability_DURABILITY_MEMORY, Results: []*storagev1.TableWriteResult{res},
		Position: r.Stream.Position()}
	if n := len(res.GetSeqs()); n > 0 {
		resp.Position = res.GetSeqs()[n-1]
	}
	return answered{response: resp}, nil
}

// WriteStream begins requests in the order sent and answers them in that order, many at a time.
func (s *service) WriteStream(stream grpc.BidiStreamingServer[storagev1.WriteStreamRequest, storagev1.WriteStreamResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	begun := make(chan waiter, writeStreamMax)
	sent := make(chan error, 1)
	go func() {
		defer cancel() // whoever begins more for a stream that cannot be answered stops
		sent <- s.answer(ctx, begun, stream.Send)
	}()
	err := s.receive(ctx, begun, stream.Recv)
	close(begun)
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	return err
}

func (s *service) receive(ctx context.Context, begun chan<- waiter, recv func() (*storagev1.WriteStreamRequest, error)) error {
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		w, err := s.begin(ctx, m.GetRequest())
		if err != nil {
			w = answered{err: err}
		}
		select {
		case begun <- w:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *service) answer(ctx context.Context, begun <-chan waiter, send func(*storagev1.WriteStreamResponse) error) error {
	for w := range begun {
		began := time.Now()
		resp, err := w.Wait(ctx)
		s.node.metrics.wrote(began, err)
		out := &storagev1.WriteStreamResponse{Response: resp}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			out = &storagev1.WriteStreamResponse{Error: dberr.ToMessage(err)}
		}
		if err := send(out); err != nil {
			return err
		}
	}
	return nil
}

// Watch serves partition watches.
func (s *service) Watch(stream grpc.BidiStreamingServer[storagev1.WatchRequest, storagev1.WatchResponse]) error {
	return s.watches.Watch(stream)
}

// Purge removes the rows of a dropped table from a shard this node leads.
func (s *service) Purge(ctx context.Context, req *storagev1.PurgeRequest) (*storagev1.PurgeResponse, error) {
	r, err := lookup{s.node}.replica(req.GetShard())
	if err != nil {
		return nil, err
	}
	if err := s.node.catalog.WaitVersion(ctx, req.GetCatalogVersion()); err != nil {
		return nil, err
	}
	if _, exists := s.node.catalog.Table(req.GetTableId()); exists {
		return nil, dberr.New(dberr.InvalidOperation, "table %d is not dropped", req.GetTableId())
	}
	r.Stream.DropTable(req.GetTableId())
	if err := r.Shard.Purge(ctx, req.GetTableId()); err != nil {
		return nil, err
	}
	return &storagev1.PurgeResponse{}, nil
}

// NodeStats returns the node's figures for system.stats.
func (s *service) NodeStats(context.Context, *storagev1.NodeStatsRequest) (*storagev1.NodeStatsResponse, error) {
	hot, log := s.node.hot.Metrics(), s.node.raftLog.Metrics()
	m := map[string]string{
		"storage_hot_bytes":           strconv.FormatUint(hot.DiskSpaceUsage(), 10),
		"storage_hot_memtable_bytes":  strconv.FormatUint(hot.MemTable.Size, 10),
		"storage_raft_log_bytes":      strconv.FormatUint(log.DiskSpaceUsage(), 10),
		"storage_stream_memory_bytes": strconv.FormatInt(s.node.memory.Used(), 10),
		"storage_shards":              strconv.Itoa(len(s.node.replicas.All())),
	}
	leads, applied := 0, uint64(0)
	for _, r := range s.node.replicas.All() {
		if r.Shard.Leads() {
			leads++
		}
		applied += r.Shard.Applied()
	}
	m["storage_shards_led"] = strconv.Itoa(leads)
	m["storage_entries_applied"] = strconv.FormatUint(applied, 10)
	return &storagev1.NodeStatsResponse{Metrics: m}, nil
}
