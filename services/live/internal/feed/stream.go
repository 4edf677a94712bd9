package feed

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

type watchStream = grpc.BidiStreamingClient[storagev1.WatchRequest, storagev1.WatchResponse]

// follow keeps a stream open until ctx ends.
func (f *Feed) follow(ctx context.Context) {
	for ctx.Err() == nil {
		err := f.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		f.cfg.Log.WarnContext(ctx, "change stream broke, opening it again", "error", err)
		pause(ctx, retryEvery)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// serve runs one stream until it breaks.
func (f *Feed) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := f.client.Watch(ctx)
	if err != nil {
		return err
	}
	f.connect()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if f.send(ctx, stream) != nil {
			cancel() // the receiver will not get anything either
		}
	}()
	err = f.receive(stream)
	cancel()
	<-sent
	f.disconnect()
	return err
}

// connect asks for every watch on a new stream.
func (f *Feed) connect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.connected = true
	f.requests = make([]request, 0, len(f.watches))
	for _, w := range f.watches {
		f.requests = append(f.requests, request{watch: w})
	}
	f.signal()
}

// disconnect freezes the positions: reports on the next stream count only for watches started there.
func (f *Feed) disconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.connected = false
	f.requests, f.refused = nil, nil
	for _, w := range f.watches {
		w.position = w.reached()
		w.open = false
	}
}

// send sends requests, and asks again for refused watches.
func (f *Feed) send(ctx context.Context, stream watchStream) error {
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.wake:
		case <-retry.C:
			f.retryRefused()
		}
		for {
			m := f.nextRequest()
			if m == nil {
				break
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		}
	}
}

func (f *Feed) retryRefused() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.refused {
		f.requests = append(f.requests, request{watch: w})
	}
	f.refused = nil
}

// nextRequest takes the next request to send, nil when there is none.
func (f *Feed) nextRequest() *storagev1.WatchRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.requests) > 0 {
		r := f.requests[0]
		f.requests[0] = request{}
		if f.requests = f.requests[1:]; len(f.requests) == 0 {
			f.requests = nil
		}
		if r.watch == nil {
			return &storagev1.WatchRequest{Request: &storagev1.WatchRequest_Remove{Remove: r.remove}}
		}
		if !r.watch.closed {
			return &storagev1.WatchRequest{Request: &storagev1.WatchRequest_Add{Add: r.watch.add()}}
		}
	}
	return nil
}

// add is the request that opens w where it is. feed.mu is held.
func (w *Watch) add() *storagev1.WatchAdd {
	after := w.position
	if w.started {
		// A watch that started on an empty shard stands at zero, which would mean "from now".
		after = max(after, beginning)
	}
	return &storagev1.WatchAdd{WatchId: w.id, Shard: w.partition.Shard, TableId: w.partition.Table,
		UserId: w.partition.User, Identity: w.identity, AfterSeq: after}
}

func (f *Feed) receive(stream watchStream) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch e := m.GetEvent().(type) {
		case *storagev1.WatchResponse_Started:
			f.started(e.Started)
		case *storagev1.WatchResponse_Changes:
			f.changes(e.Changes)
		case *storagev1.WatchResponse_Ended:
			f.ended(e.Ended)
		case *storagev1.WatchResponse_Progress:
			f.progress(e.Progress)
		default:
			return dberr.New(dberr.Internal, "change stream: storage sent an event of an unknown kind")
		}
	}
}

func (f *Feed) started(m *storagev1.WatchStarted) {
	f.mu.Lock()
	w := f.watches[m.GetWatchId()]
	if w == nil {
		f.mu.Unlock()
		return
	}
	first := !w.started
	if first {
		w.position = m.GetPosition()
	}
	w.started, w.open = true, true
	w.since = f.shard(w.partition.Shard).reports
	f.mu.Unlock()
	if first {
		w.sink.Started(m.GetPosition())
	}
}

func (f *Feed) changes(m *storagev1.ChangeBatch) {
	f.mu.Lock()
	w := f.watches[m.GetWatchId()]
	changes := m.GetChanges()
	if w != nil {
		for len(changes) > 0 && changes[0].GetSeq() <= w.position {
			changes = changes[1:] // delivered before the stream broke
		}
	}
	if w == nil || len(changes) == 0 {
		f.mu.Unlock()
		return
	}
	w.position = changes[len(changes)-1].GetSeq()
	f.mu.Unlock()
	w.sink.Changes(changes)
}

func (f *Feed) ended(m *storagev1.WatchEnded) {
	code := dberr.Code(m.GetCode())
	f.mu.Lock()
	w := f.watches[m.GetWatchId()]
	if w == nil {
		f.mu.Unlock()
		return
	}
	if passing(code) {
		w.position = w.reached()
		w.open = false
		f.refused = append(f.refused, w)
		f.mu.Unlock()
		return
	}
	w.closed = true
	delete(f.watches, w.id)
	f.mu.Unlock()
	w.sink.Ended(code, m.GetMessage())
}

// passing says that a refused watch may be accepted later: the shard moves, or the node is busy.
func passing(code dberr.Code) bool {
	switch code {
	case dberr.Unavailable, dberr.NotLeader, dberr.Timeout, dberr.Canceled:
		return true
	}
	return false
}

func (f *Feed) progress(m *storagev1.Progress) {
	f.mu.Lock()
	s := f.shard(m.GetShard())
	s.position = max(s.position, m.GetPosition())
	s.reports++
	f.mu.Unlock()
	f.cfg.Progress(m.GetShard(), m.GetPosition())
}

func (f *Feed) shard(id uint32) *shard {
	s := f.shards[id]
	if s == nil {
		s = &shard{}
		f.shards[id] = s
	}
	return s
}
