package dml

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/pause"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storageclient"
)

const (
	// laneRetryFor is how long a lane tries to reach the shard's leader again: longer than an election.
	laneRetryFor = 15 * time.Second
	// lanePauseMin is the pause before the second attempt; it doubles up to lanePauseMax.
	lanePauseMin = 5 * time.Millisecond
	lanePauseMax = 100 * time.Millisecond
)

type storageStream = grpc.BidiStreamingClient[storagev1.WriteStreamRequest, storagev1.WriteStreamResponse]

// lane is the writes of one client stream for one shard, on one stream to its leader. When that breaks or
// the leader changes, everything unanswered is sent again in order to the new one: request ids make each
// write happen once.
type lane struct {
	storage *storageclient.Client
	shard   uint32

	current atomic.Pointer[laneStream] // nil while there is none

	sending sync.Mutex // held while sending, so that order is kept

	// mu guards unanswered. It is not sending: who sends may wait until answers are taken.
	mu         sync.Mutex
	unanswered []*storagev1.WriteStreamRequest
}

type laneStream struct {
	storageStream
	cancel context.CancelFunc
}

// send queues a write. That the stream is broken is found by receive, which sends again.
func (l *lane) send(ctx context.Context, req *storagev1.WriteRequest) {
	l.sending.Lock()
	defer l.sending.Unlock()
	m := &storagev1.WriteStreamRequest{Request: req}
	l.mu.Lock()
	l.unanswered = append(l.unanswered, m)
	l.mu.Unlock()
	s := l.current.Load()
	if s == nil {
		l.open(ctx)
		return // open sends everything
	}
	_ = s.Send(m)
}

// open begins a stream and sends what is unanswered. sending is held. It leaves no stream when it fails.
func (l *lane) open(ctx context.Context) {
	streamCtx, cancel := context.WithCancel(ctx)
	stream, err := l.storage.WriteStream(streamCtx, l.shard)
	if err != nil {
		cancel()
		return
	}
	l.current.Store(&laneStream{stream, cancel})
	l.mu.Lock()
	again := slices.Clone(l.unanswered)
	l.mu.Unlock()
	for _, m := range again {
		if stream.Send(m) != nil {
			return // receive hears why
		}
	}
}

// receive waits for the answer to the oldest unanswered write.
func (l *lane) receive(ctx context.Context) (*storagev1.WriteStreamResponse, error) {
	until, wait := time.Now().Add(laneRetryFor), pause.Growing{Min: lanePauseMin, Max: lanePauseMax}
	for {
		resp, err := l.try()
		if err == nil {
			err = dberr.FromMessage(resp.GetError())
		}
		if !dberr.Is(err, dberr.Unavailable) && !dberr.Is(err, dberr.NotLeader) || time.Now().After(until) {
			l.answered()
			if resp == nil {
				return nil, dberr.New(dberr.CodeOf(err), "write to shard %d: %w", l.shard, err)
			}
			return resp, nil
		}
		if err := wait.Wait(ctx); err != nil {
			return nil, err
		}
		l.reopen(ctx)
	}
}

// try receives once.
func (l *lane) try() (*storagev1.WriteStreamResponse, error) {
	stream := l.current.Load()
	if stream == nil {
		return nil, dberr.New(dberr.Unavailable, "shard %d cannot be reached", l.shard)
	}
	resp, err := stream.Recv()
	if err != nil { // also the end of a stream that nobody here ended
		return nil, dberr.New(dberr.Unavailable, "the storage role closed the stream of writes: %w", err)
	}
	return resp, nil
}

func (l *lane) answered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unanswered[0] = nil
	l.unanswered = l.unanswered[1:]
}

func (l *lane) reopen(ctx context.Context) {
	l.close() // before the lock: a sender that waits for room lets go of it
	l.sending.Lock()
	defer l.sending.Unlock()
	if l.current.Load() == nil { // a sender may have opened one meanwhile
		l.open(ctx)
	}
}

// close ends the lane's stream.
func (l *lane) close() {
	if s := l.current.Swap(nil); s != nil {
		s.cancel()
	}
}
