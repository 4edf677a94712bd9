package watch

import (
	"context"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

const (
	// watchesMax bounds the watches of one stream: a live node with more partitions opens another.
	watchesMax = 1_000_000
	// sessionBytesMax bounds what all queues of one stream hold; past it watches read the log instead.
	sessionBytesMax = 64 << 20
	// progressEvery is how often an idle stream says that it is well.
	progressEvery = time.Second
	// refusedMax bounds answers to watches that could not be opened while the caller reads nothing.
	refusedMax = 1024
)

// session is one Watch stream.
type session struct {
	send func(*storagev1.WatchResponse) error

	mu      sync.Mutex
	bytes   int
	watches map[uint64]*watch
	hubs    map[*Hub]*hubProgress
	list    []*watch // have something to send
	refused []*storagev1.WatchEnded
	closed  bool

	signals chan struct{} // one token: the list may hold something
}

// hubProgress is what a session knows of one shard.
type hubProgress struct {
	watches int
	// sent is the last position sent as Progress.
	sent uint64
}

func newSession(send func(*storagev1.WatchResponse) error) *session {
	return &session{send: send, watches: map[uint64]*watch{}, hubs: map[*Hub]*hubProgress{},
		signals: make(chan struct{}, 1)}
}

func (s *session) signal() {
	select {
	case s.signals <- struct{}{}:
	default:
	}
}

// push lists w, and reports whether it was the first: then the session must be woken.
func (s *session) push(w *watch) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.listed || s.closed {
		return false
	}
	w.listed = true
	s.list = append(s.list, w)
	return len(s.list) == 1
}

func (s *session) reserve(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes+n > sessionBytesMax {
		return false
	}
	s.bytes += n
	return true
}

func (s *session) unreserve(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes -= n
}

// admit takes a new watch into the session, before it is registered with its hub.
func (s *session) admit(w *watch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return dberr.New(dberr.Canceled, "watch: the stream has ended")
	}
	if _, taken := s.watches[w.id]; taken {
		return dberr.New(dberr.InvalidArgument, "watch id %d is in use on this stream", w.id)
	}
	s.watches[w.id] = w
	hp := s.hubs[w.hub]
	if hp == nil {
		hp = &hubProgress{}
		s.hubs[w.hub] = hp
	}
	hp.watches++
	return nil
}

func (s *session) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watches) >= watchesMax
}

// release forgets a watch; it reports false when it was forgotten before.
func (s *session) release(w *watch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watches[w.id] != w {
		return false
	}
	delete(s.watches, w.id)
	hp := s.hubs[w.hub]
	if hp.watches--; hp.watches == 0 {
		delete(s.hubs, w.hub)
	}
	return true
}

// refuse answers a watch that cannot be opened.
func (s *session) refuse(id uint64, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.refused) >= refusedMax {
		return dberr.New(dberr.LimitExceeded, "watch: %d refusals wait to be read (refusedMax)", refusedMax)
	}
	s.refused = append(s.refused, ended(id, err))
	s.signal()
	return nil
}

func ended(id uint64, err error) *storagev1.WatchEnded {
	return &storagev1.WatchEnded{WatchId: id, Code: string(dberr.CodeOf(err)), Message: err.Error(), Fields: dberr.FieldsOf(err)}
}

// remove ends a watch by the caller's wish; an unknown id ended by itself, which the caller will hear.
func (s *session) remove(id uint64) {
	s.mu.Lock()
	w := s.watches[id]
	s.mu.Unlock()
	if w != nil && s.release(w) {
		w.unregister()
	}
}

// close unregisters everything. Nothing is sent afterwards.
func (s *session) close() {
	s.mu.Lock()
	s.closed = true
	ws := make([]*watch, 0, len(s.watches))
	for _, w := range s.watches {
		ws = append(ws, w)
	}
	s.mu.Unlock()
	for _, w := range ws {
		if s.release(w) {
			w.unregister()
		}
	}
}

// run sends until ctx ends or sending fails.
func (s *session) run(ctx context.Context) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		idle := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.signals:
		case <-tick.C:
			idle = true
		}
		if err := s.round(ctx, idle); err != nil {
			return err
		}
	}
}

// round sends what the listed watches have, each one piece, then how far every shard has come.
func (s *session) round(ctx context.Context, idle bool) error {
	positions := s.positions() // before the list: what is up to them is listed, or behind
	s.mu.Lock()
	list, refused := s.list, s.refused
	s.list, s.refused = nil, nil
	for _, w := range list {
		w.listed = false
	}
	s.mu.Unlock()
	for _, e := range refused {
		if err := s.send(&storagev1.WatchResponse{Event: &storagev1.WatchResponse_Ended{Ended: e}}); err != nil {
			return err
		}
	}
	for _, w := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		behind, err := s.turn(w)
		if err != nil {
			return err
		}
		if behind {
			delete(positions, w.hub)
			if s.push(w) {
				s.signal()
			}
		}
	}
	return s.sendProgress(positions, idle)
}

// turn sends one piece of one watch.
func (s *session) turn(w *watch) (behind bool, err error) {
	s.mu.Lock()
	current := s.watches[w.id] == w
	s.mu.Unlock()
	if !current {
		return false, nil
	}
	out := w.turn()
	if out.started {
		err = s.send(&storagev1.WatchResponse{Event: &storagev1.WatchResponse_Started{
			Started: &storagev1.WatchStarted{WatchId: w.id, Position: out.start}}})
	}
	if err == nil && len(out.changes) > 0 {
		err = s.send(&storagev1.WatchResponse{Event: &storagev1.WatchResponse_Changes{
			Changes: &storagev1.ChangeBatch{WatchId: w.id, Changes: out.changes}}})
	}
	if err == nil && out.ended != nil && s.release(w) {
		w.unregister()
		err = s.send(&storagev1.WatchResponse{Event: &storagev1.WatchResponse_Ended{Ended: ended(w.id, out.ended)}})
	}
	return out.behind, err
}

func (s *session) positions() map[*Hub]uint64 {
	s.mu.Lock()
	hubs := make([]*Hub, 0, len(s.hubs))
	for h := range s.hubs {
		hubs = append(hubs, h)
	}
	s.mu.Unlock()
	positions := make(map[*Hub]uint64, len(hubs))
	for _, h := range hubs {
		positions[h] = h.progress()
	}
	return positions
}

func (s *session) sendProgress(positions map[*Hub]uint64, idle bool) error {
	for h, p := range positions {
		s.mu.Lock()
		hp := s.hubs[h]
		due := hp != nil && (p > hp.sent || idle)
		if due {
			hp.sent = p
		}
		s.mu.Unlock()
		if !due {
			continue
		}
		if err := s.send(&storagev1.WatchResponse{Event: &storagev1.WatchResponse_Progress{
			Progress: &storagev1.Progress{Shard: h.shard, Position: p}}}); err != nil {
			return err
		}
	}
	return nil
}
