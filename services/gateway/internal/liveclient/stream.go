package liveclient

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/silence"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// outgoingMax bounds the requests waiting to be sent. A live role that takes none for so long is
// counted as gone: the stream is cut and its subscriptions move.
const outgoingMax = 65_536

// stream is one Connect call.
type stream struct {
	owner  *Client
	node   *node
	rpc    grpc.BidiStreamingClient[livev1.ConnectRequest, livev1.ConnectResponse]
	cancel context.CancelFunc
	heard  silence.Meter
	cut    atomic.Bool // because nothing was heard

	mu       sync.Mutex               // guards what follows; never held while a sink is called
	subs     map[uint64]*Subscription // nil once the stream is broken
	outgoing []*livev1.ConnectRequest
	wake     chan struct{} // has an element when outgoing may hold something

	scratch []found // of the receiving goroutine
}

// found is a subscription and its number on the stream.
type found struct {
	id  uint64
	sub *Subscription
}

// add registers a subscription under a new number and sends its request.
func (s *stream) add(sub *Subscription) error {
	id := s.owner.nextID()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs == nil {
		return dberr.New(dberr.Unavailable, "the connection to the live role just broke")
	}
	if !sub.attach(s, id) {
		return dberr.New(dberr.Canceled, "the subscription was closed")
	}
	s.subs[id] = sub
	s.enqueue(&livev1.ConnectRequest{Request: &livev1.ConnectRequest_Subscribe{Subscribe: sub.request(id)}})
	return nil
}

// enqueue hands a request to the sending goroutine. Callers hold mu.
func (s *stream) enqueue(m *livev1.ConnectRequest) {
	if len(s.outgoing) >= outgoingMax {
		s.owner.log.Error("the live role takes no requests; cutting the stream", "node", s.node.addr, "waiting", len(s.outgoing))
		s.cancel()
		return
	}
	s.outgoing = append(s.outgoing, m)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// remove takes a subscription out; false means that it was out already.
func (s *stream) remove(id uint64, tellLive bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs[id] == nil {
		return false
	}
	delete(s.subs, id)
	if tellLive {
		s.enqueue(&livev1.ConnectRequest{Request: &livev1.ConnectRequest_Unsubscribe{Unsubscribe: id}})
	}
	return true
}

// nextBatch asks for a subscription's next initial rows.
func (s *stream) nextBatch(id uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs[id] == nil {
		return dberr.New(dberr.NotFound, "the subscription has ended")
	}
	s.enqueue(&livev1.ConnectRequest{Request: &livev1.ConnectRequest_NextBatch{NextBatch: id}})
	return nil
}

// send is the only caller of rpc.Send. It ends with the stream.
func (s *stream) send(ctx context.Context) {
	first := true
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		batch := s.outgoing
		s.outgoing = nil
		s.mu.Unlock()
		for _, m := range batch {
			m.Alive, first = first, false
			if s.rpc.Send(m) != nil {
				s.cancel() // receive gets the reason
				return
			}
		}
	}
}

// listen ends the stream when the live node says nothing any more.
func (s *stream) listen(ctx context.Context) {
	ticks, stop := s.owner.ticker()
	defer stop()
	if s.heard.Listen(ctx, ticks) {
		s.cut.Store(true)
		s.cancel()
	}
}

// receive hands out events until the stream breaks.
func (s *stream) receive() {
	for {
		ev, err := s.rpc.Recv()
		if err != nil {
			s.broken(err)
			return
		}
		s.heard.Hear()
		s.dispatch(ev)
	}
}

// broken moves the subscriptions. Nothing of this stream is delivered any more: this is the goroutine that
// would.
func (s *stream) broken(err error) {
	s.cancel()
	if s.cut.Load() {
		err = silence.Err
	}
	s.owner.forget(s)
	s.owner.avoid(s.node)
	s.mu.Lock()
	subs := s.subs
	s.subs, s.outgoing = nil, nil
	s.mu.Unlock()
	if errors.Is(err, io.EOF) {
		err = dberr.New(dberr.Unavailable, "the live role ended the stream")
	}
	if len(subs) > 0 {
		s.owner.log.Warn("the stream to a live node broke", "node", s.node.addr, "subscriptions", len(subs), "error", err)
	}
	for _, sub := range subs {
		s.owner.lost(sub, err)
	}
}

func (s *stream) dispatch(ev *livev1.ConnectResponse) {
	switch e := ev.GetEvent().(type) {
	case *livev1.ConnectResponse_Subscribed:
		s.deliverOne(ev, e.Subscribed.GetSubscription())
	case *livev1.ConnectResponse_InitialRows:
		s.deliverOne(ev, e.InitialRows.GetSubscription())
	case *livev1.ConnectResponse_Changed:
		s.deliver(ev, s.lookup(e.Changed.GetSubscriptions()))
	case *livev1.ConnectResponse_Progress:
		s.deliver(ev, s.lookup(e.Progress.GetSubscriptions()))
	case *livev1.ConnectResponse_Ended:
		for _, f := range s.lookup([]uint64{e.Ended.GetSubscription()}) {
			if s.remove(f.id, false) {
				s.ended(f.sub, e.Ended)
			}
		}
	case *livev1.ConnectResponse_Alive:
		s.heard.Promise()
	default: // from a newer live role
		s.owner.log.Error("an event of unknown kind from the live role; cutting the stream", "node", s.node.addr)
		s.cancel()
	}
}

// ended is told by the live role. Unavailable means that the node wants the subscription gone, or cannot
// serve it now: another one may.
func (s *stream) ended(sub *Subscription, e *livev1.Ended) {
	code := dberr.Code(e.GetCode())
	if code == dberr.Unavailable {
		if sub.phase == following {
			sub.raise(e.GetPosition()) // everything up to it was sent before
		}
		s.owner.avoid(s.node)
		s.owner.lost(sub, dberr.New(code, "%s", e.GetMessage()))
		return
	}
	sub.end(code, e.GetPosition(), "%s", e.GetMessage())
}

// lookup finds subscriptions by number; those that ended meanwhile are left out. The slice is valid until
// the next call.
func (s *stream) lookup(ids []uint64) []found {
	s.scratch = s.scratch[:0]
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if sub := s.subs[id]; sub != nil {
			s.scratch = append(s.scratch, found{id, sub})
		}
	}
	return s.scratch
}

func (s *stream) deliverOne(ev *livev1.ConnectResponse, id uint64) {
	s.deliver(ev, s.lookup([]uint64{id}))
}

func (s *stream) deliver(ev *livev1.ConnectResponse, to []found) {
	for _, f := range to {
		switch f.sub.take(ev) {
		case taken:
		case refused:
			if s.remove(f.id, true) {
				f.sub.end(dberr.Lagged, 0, "the subscription's reader is too slow; resume from the position")
			}
		case tooLate:
			if s.remove(f.id, true) {
				f.sub.end(dberr.Lagged, 0, "the change log no longer reaches back to the position; resume from it for a new snapshot")
			}
		}
	}
}
