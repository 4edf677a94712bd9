package feed

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/router"
	"github.com/kalamdb/kalamdb-go/internal/silence"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

type watchStream = grpc.BidiStreamingClient[storagev1.WatchRequest, storagev1.WatchResponse]

// stream is one Watch call to one storage node. It is never opened again: another one takes its place.
type stream struct {
	feed   *Feed
	addr   string
	cancel context.CancelFunc
	wake   chan struct{} // one token: requests may hold something
	silent atomic.Int64  // how long the storage node has said nothing, in ticks of listenEvery

	// The fields below belong to feed.mu.

	watches map[uint64]*Watch
	reports map[uint32]report
	// requests wait to be sent; at most two per watch and move, as a watch that is gone before its request
	// was sent is not asked for.
	requests []request
	idle     time.Time // since when there are no watches, as far as anybody has looked
	closed   bool
}

// report is how far a shard has been delivered on a stream; count numbers the reports, see Watch.since.
type report struct {
	position, count uint64
}

// request asks storage to open the watch with a number, or to end it.
type request struct {
	id     uint64
	remove bool
}

// stream returns the stream to an address, a new one if need be. mu is held.
func (f *Feed) stream(addr string) *stream {
	if s := f.streams[addr]; s != nil {
		return s
	}
	ctx, cancel := context.WithCancel(f.run)
	s := &stream{feed: f, addr: addr, cancel: cancel, wake: make(chan struct{}, 1),
		watches: map[uint64]*Watch{}, reports: map[uint32]report{}}
	f.streams[addr] = s
	f.done.Go(func() { s.serve(ctx) })
	return s
}

// request asks for a watch under a new number. mu is held.
func (s *stream) request(w *Watch) {
	s.feed.lastID++
	w.at, w.id = s, s.feed.lastID
	s.watches[w.id] = w
	s.enqueue(request{id: w.id})
}

// drop forgets a number. mu is held.
func (s *stream) drop(id uint64, tell bool) {
	delete(s.watches, id)
	if tell && !s.closed {
		s.enqueue(request{id: id, remove: true})
	}
}

func (s *stream) enqueue(r request) {
	s.requests = append(s.requests, r)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// close ends the stream. mu is held.
func (s *stream) close() {
	s.closed = true
	s.requests = nil
	s.cancel()
	if s.feed.streams[s.addr] == s {
		delete(s.feed.streams, s.addr)
	}
}

// serve runs the stream until it breaks or is closed.
func (s *stream) serve(ctx context.Context) {
	err := s.talk(ctx)
	f := s.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.closed || f.run.Err() != nil {
		s.close()
		return
	}
	if errors.Is(err, silence.Err) {
		f.lostPatience(s.addr)
	}
	f.cfg.Log.WarnContext(ctx, "change stream broke, its shards are followed elsewhere", "storage", s.addr, "watches", len(s.watches), "error", err)
	s.close()
	gone := dberr.New(dberr.Unavailable, "the change stream from %s broke: %w", s.addr, err)
	for _, sh := range f.shards {
		f.leave(sh, s, gone)
	}
}

func (s *stream) talk(ctx context.Context) error {
	conn, err := s.feed.routes.Conn(s.addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	rpc, err := storagev1.NewStorageServiceClient(conn).Watch(ctx)
	if err != nil {
		return err
	}
	var helpers sync.WaitGroup
	helpers.Go(func() {
		if s.send(ctx, rpc) != nil {
			cancel(nil) // the receiver will not get anything either
		}
	})
	helpers.Go(func() { s.listen(ctx, cancel) })
	if err = s.receive(rpc); errors.Is(context.Cause(ctx), silence.Err) {
		err = silence.Err
	}
	cancel(nil)
	helpers.Wait()
	return err
}

const (
	// silentAfter is how long a storage node may say nothing on a stream with watches: it reports every second.
	// One that is paused, or behind a network that swallows everything, closes no connection.
	silentAfter = 2500 * time.Millisecond
	// startWithin is how long it may take to start the first watch of a stream: longer than silentAfter would be too long
	// for a leader that was cut off between two watches. A node that waits for its catalog may need more: each time it
	// said nothing it gets twice as long, up to startWithinMax.
	startWithin    = 1500 * time.Millisecond
	startWithinMax = 8 * time.Second
	listenEvery    = 500 * time.Millisecond
)

// listen ends the stream when the storage node has been silent for too long. It counts ticks and does not look
// at the clock: a process that was paused made none, and what it has not read yet waits in its socket.
func (s *stream) listen(ctx context.Context, end context.CancelCauseFunc) {
	tick := time.NewTicker(listenEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		within, quiet := s.expects(), time.Duration(s.silent.Add(1))*listenEvery
		if within == 0 {
			s.silent.Store(0)
		} else if quiet >= within {
			end(silence.Err)
			return
		}
	}
}

// expects is within which time something must be heard; 0 when nothing needs to be.
func (s *stream) expects() time.Duration {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	for _, w := range s.watches {
		if w.open {
			return silentAfter
		}
	}
	if len(s.watches) > 0 {
		return max(startWithin, s.feed.patience[s.addr])
	}
	return 0
}

// lostPatience gives a node that has not started a watch in time more of it. mu is held.
func (f *Feed) lostPatience(addr string) {
	f.patience[addr] = min(2*max(startWithin, f.patience[addr]), startWithinMax)
}

func (s *stream) send(ctx context.Context, rpc watchStream) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wake:
		}
		for m := s.next(); m != nil; m = s.next() {
			if err := rpc.Send(m); err != nil {
				return err
			}
		}
	}
}

// next takes the next request to send, nil when there is none.
func (s *stream) next() *storagev1.WatchRequest {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	for len(s.requests) > 0 {
		r := s.requests[0]
		if s.requests = s.requests[1:]; len(s.requests) == 0 {
			s.requests = nil
		}
		if r.remove {
			return &storagev1.WatchRequest{Request: &storagev1.WatchRequest_Remove{Remove: r.id}}
		}
		if w := s.watches[r.id]; w != nil {
			return &storagev1.WatchRequest{Request: &storagev1.WatchRequest_Add{Add: w.add()}}
		}
	}
	return nil
}

func (s *stream) receive(rpc watchStream) error {
	for {
		m, err := rpc.Recv()
		if err != nil {
			return err
		}
		s.silent.Store(0)
		switch e := m.GetEvent().(type) {
		case *storagev1.WatchResponse_Started:
			s.started(e.Started)
		case *storagev1.WatchResponse_Changes:
			s.changes(e.Changes)
		case *storagev1.WatchResponse_Ended:
			s.ended(e.Ended)
		case *storagev1.WatchResponse_Progress:
			s.progress(e.Progress)
		default:
			return dberr.New(dberr.Internal, "change stream: storage sent an event of an unknown kind")
		}
	}
}

// turn waits for the right to call the sinks of a watch's shard, and returns the watch with feed.mu held;
// nil when the number is nobody's, or not any more.
func (s *stream) turn(id uint64) (w *Watch, release func()) {
	s.feed.mu.Lock()
	if w = s.watches[id]; w == nil {
		s.feed.mu.Unlock()
		return nil, nil
	}
	s.feed.mu.Unlock()
	w.shard.deliver.Lock()
	s.feed.mu.Lock()
	if s.watches[id] != w { // it moved while the other stream's delivery was under way
		s.feed.mu.Unlock()
		w.shard.deliver.Unlock()
		return nil, nil
	}
	return w, w.shard.deliver.Unlock
}

func (s *stream) started(m *storagev1.WatchStarted) {
	w, release := s.turn(m.GetWatchId())
	if w == nil {
		return
	}
	defer release()
	first := !w.started
	if first {
		w.position = m.GetPosition()
	}
	w.started, w.open = true, true
	delete(s.feed.patience, s.addr)
	w.since = s.reports[w.partition.Shard].count
	w.shard.moves = 0
	s.feed.mu.Unlock()
	s.feed.routes.Learn(router.ShardGroup(w.partition.Shard), s.addr, nil)
	if first {
		w.sink.Started(m.GetPosition())
	}
}

// changes delivers. The position moves when the sink has taken them, so that nobody is told of a position
// whose changes are still on their way.
func (s *stream) changes(m *storagev1.ChangeBatch) {
	w, release := s.turn(m.GetWatchId())
	if w == nil {
		return
	}
	defer release()
	changes := m.GetChanges()
	for len(changes) > 0 && changes[0].GetSeq() <= w.position {
		changes = changes[1:] // delivered before the watch moved
	}
	s.feed.mu.Unlock()
	if len(changes) == 0 {
		return
	}
	w.sink.Changes(changes)
	s.feed.mu.Lock()
	w.position = max(w.position, changes[len(changes)-1].GetSeq())
	s.feed.mu.Unlock()
}

func (s *stream) ended(m *storagev1.WatchEnded) {
	w, release := s.turn(m.GetWatchId())
	if w == nil {
		return
	}
	defer release()
	code := dberr.Code(m.GetCode())
	switch {
	case code == dberr.NotLeader:
		w.suspend(false)
		s.feed.leave(w.shard, s, dberr.New(code, "%s", m.GetMessage()).With(dberr.FieldLeader, m.GetFields()[dberr.FieldLeader]))
		s.feed.mu.Unlock()
	case passing(code):
		w.suspend(false)
		w.refused = true
		s.feed.mu.Unlock()
	default:
		w.suspend(false)
		w.closed = true
		delete(w.shard.watches, w)
		s.feed.mu.Unlock()
		w.sink.Ended(code, m.GetMessage())
	}
}

// passing says that a refused watch may be accepted later.
func passing(code dberr.Code) bool {
	switch code {
	case dberr.Unavailable, dberr.Timeout, dberr.Canceled:
		return true
	}
	return false
}

// progress notes a report, and passes it on when it is the present leader's.
func (s *stream) progress(m *storagev1.Progress) {
	f := s.feed
	f.mu.Lock()
	sh := f.shard(m.GetShard())
	f.mu.Unlock()
	sh.deliver.Lock()
	defer sh.deliver.Unlock()
	f.mu.Lock()
	present := sh.on == s
	if present {
		r := s.reports[sh.id]
		s.reports[sh.id] = report{position: max(r.position, m.GetPosition()), count: r.count + 1}
	}
	f.mu.Unlock()
	if present {
		f.cfg.Progress(sh.id, m.GetPosition())
	}
}
