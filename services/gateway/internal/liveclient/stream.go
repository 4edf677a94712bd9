package liveclient

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// outgoingMax bounds the requests waiting to be sent. A live role that takes none for so long is
// counted as gone: the stream is cut and every client resumes.
const outgoingMax = 65_536

// stream is one Connect call.
type stream struct {
	owner  *Client
	rpc    grpc.BidiStreamingClient[livev1.ConnectRequest, livev1.ConnectResponse]
	cancel context.CancelFunc

	mu       sync.Mutex               // guards what follows; never held while a sink is called
	subs     map[uint64]*Subscription // nil once the stream is broken
	outgoing []*livev1.ConnectRequest
	wake     chan struct{} // has an element when outgoing may hold something

	scratch []*Subscription // of the receiving goroutine
}

// Subscription is one open subscription.
type Subscription struct {
	stream *stream
	sink   Sink
	id     uint64
	// position is up to where everything has been delivered; registered, what that becomes when the
	// last initial row has been (only the receiving goroutine uses it).
	position   atomic.Uint64
	registered uint64
	// more: the last batch said that there are others; asked: the next one has been asked for.
	more, asked atomic.Bool
}

// add registers a subscription and sends its request.
func (s *stream) add(sub *Subscription, req *livev1.Subscribe, limit int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs == nil {
		return dberr.New(dberr.Unavailable, "the connection to the live role just broke")
	}
	if len(s.subs) >= limit {
		return dberr.New(dberr.LimitExceeded, "this gateway serves at most %d subscriptions", limit)
	}
	s.subs[sub.id] = sub
	s.enqueue(&livev1.ConnectRequest{Request: &livev1.ConnectRequest_Subscribe{Subscribe: req}})
	return nil
}

// enqueue hands a request to the sending goroutine. Callers hold mu.
func (s *stream) enqueue(m *livev1.ConnectRequest) {
	if len(s.outgoing) >= outgoingMax {
		s.owner.log.Error("the live role takes no requests; cutting the stream", "waiting", len(s.outgoing))
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
func (s *stream) remove(sub *Subscription, tellLive bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs[sub.id] != sub {
		return false
	}
	delete(s.subs, sub.id)
	if tellLive {
		s.enqueue(&livev1.ConnectRequest{Request: &livev1.ConnectRequest_Unsubscribe{Unsubscribe: sub.id}})
	}
	return true
}

// send is the only caller of rpc.Send. It ends with the stream.
func (s *stream) send(ctx context.Context) {
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
			if s.rpc.Send(m) != nil {
				s.cancel() // receive gets the reason
				return
			}
		}
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
		s.dispatch(ev)
	}
}

func (s *stream) broken(err error) {
	s.cancel()
	s.owner.forget(s)
	s.mu.Lock()
	subs := s.subs
	s.subs, s.outgoing = nil, nil
	s.mu.Unlock()
	if errors.Is(err, io.EOF) {
		err = dberr.New(dberr.Unavailable, "the live role ended the stream")
	}
	if len(subs) > 0 {
		s.owner.log.Warn("the stream to the live role broke", "subscriptions", len(subs), "error", err)
	}
	for _, sub := range subs {
		sub.end(dberr.Unavailable, 0, "the connection to the live role broke; resume from the position: %w", err)
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
		for _, sub := range s.lookup([]uint64{e.Ended.GetSubscription()}) {
			if s.remove(sub, false) {
				sub.end(dberr.Code(e.Ended.GetCode()), e.Ended.GetPosition(), "%s", e.Ended.GetMessage())
			}
		}
	default: // from a newer live role
		s.owner.log.Error("an event of unknown kind from the live role; cutting the stream")
		s.cancel()
	}
}

// lookup finds subscriptions by id; those that ended meanwhile are left out. The slice is valid until
// the next call.
func (s *stream) lookup(ids []uint64) []*Subscription {
	s.scratch = s.scratch[:0]
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if sub := s.subs[id]; sub != nil {
			s.scratch = append(s.scratch, sub)
		}
	}
	return s.scratch
}

func (s *stream) deliverOne(ev *livev1.ConnectResponse, id uint64) {
	s.deliver(ev, s.lookup([]uint64{id}))
}

func (s *stream) deliver(ev *livev1.ConnectResponse, subs []*Subscription) {
	for _, sub := range subs {
		if rows := ev.GetInitialRows(); rows != nil {
			sub.more.Store(rows.GetHasMore())
			sub.asked.Store(false)
		}
		if sub.sink.Deliver(ev) {
			sub.advance(ev)
			continue
		}
		if s.remove(sub, true) {
			sub.end(dberr.Lagged, 0, "the subscription's reader is too slow; resume from the position")
		}
	}
}

// advance notes what has been delivered.
func (sub *Subscription) advance(ev *livev1.ConnectResponse) {
	switch e := ev.GetEvent().(type) {
	case *livev1.ConnectResponse_Subscribed:
		switch {
		case e.Subscribed.GetSnapshotFollows():
			sub.registered = e.Subscribed.GetPosition()
			sub.position.Store(0) // until rows arrive there is nothing to resume
		case sub.position.Load() == 0:
			sub.position.Store(e.Subscribed.GetPosition())
		} // when resuming, the position asked for holds until changes arrive
	case *livev1.ConnectResponse_InitialRows:
		sub.raise(e.InitialRows.GetLastSeq()) // rows come in ascending order of _seq
		if !e.InitialRows.GetHasMore() {
			sub.raise(sub.registered)
		}
	case *livev1.ConnectResponse_Changed:
		sub.raise(e.Changed.GetSeq())
	case *livev1.ConnectResponse_Progress:
		sub.raise(e.Progress.GetPosition())
	}
}

func (sub *Subscription) raise(position uint64) {
	if position > sub.position.Load() {
		sub.position.Store(position)
	}
}

// end tells the sink. Whoever took the subscription out of the stream calls it, once.
func (sub *Subscription) end(code dberr.Code, position uint64, format string, args ...any) {
	if position == 0 {
		position = sub.position.Load()
	}
	if code == "" {
		code = dberr.Internal
	}
	err := dberr.New(code, format, args...)
	if position != 0 {
		err = err.With(dberr.FieldPosition, strconv.FormatUint(position, 10))
	}
	sub.sink.End(err)
}

// Position is up to where everything has been delivered; zero means that nothing has.
func (sub *Subscription) Position() uint64 { return sub.position.Load() }

// NextBatch asks for the next batch of initial rows. It is an error when there are no more, or when
// they have been asked for already.
func (sub *Subscription) NextBatch() error {
	if !sub.more.Load() {
		return dberr.New(dberr.InvalidOperation, "there are no more initial rows")
	}
	if sub.asked.Swap(true) {
		return dberr.New(dberr.InvalidOperation, "the next batch has been asked for already")
	}
	s := sub.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subs[sub.id] != sub {
		return dberr.New(dberr.NotFound, "the subscription has ended")
	}
	s.enqueue(&livev1.ConnectRequest{Request: &livev1.ConnectRequest_NextBatch{NextBatch: sub.id}})
	return nil
}

// Close ends the subscription. The sink gets no End, but a Deliver that is under way may still return
// after Close.
func (sub *Subscription) Close() { sub.stream.remove(sub, true) }
