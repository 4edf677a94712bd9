package liveclient

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// phase is how far a subscription has come, as its sink was told.
type phase uint8

const (
	// asked: nothing was delivered. On another node it is asked for as it was here.
	asked phase = iota
	// loading: initial rows are under way. Another node cannot go on with them.
	loading
	// following: it has every change up to its position, from which another node goes on.
	following
)

// Subscription is one open subscription.
type Subscription struct {
	client *Client
	sink   Sink
	req    *livev1.Subscribe
	// position is up to where everything has been handed to the sink.
	position atomic.Uint64
	// more: the last batch said that there are others; requested: the next one has been asked for.
	more, requested atomic.Bool

	mu     sync.Mutex // guards what follows; it comes after stream.mu
	at     *stream
	id     uint64
	closed bool

	// The fields below belong to whoever has the subscription: the goroutine that receives for its stream, or
	// the one that moves it.

	phase phase
	// registered is what position becomes when the last initial row has been delivered.
	registered uint64
	// resuming: opened again, and not yet acknowledged. moved: opened again at least once.
	resuming, moved bool
	since           time.Time // when it lost its node; zero when it has one
	reason          error     // why
}

// attach notes where the subscription is; false means that it was closed.
func (sub *Subscription) attach(s *stream, id uint64) bool {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if sub.closed {
		return false
	}
	sub.at, sub.id = s, id
	return true
}

// request is what a node is asked: as the owner asked, or, once changes follow, for those after the
// position.
func (sub *Subscription) request(id uint64) *livev1.Subscribe {
	r := sub.req
	out := &livev1.Subscribe{Subscription: id, Plan: r.GetPlan(), Encoding: r.GetEncoding(), Snapshot: r.GetSnapshot(), LastRows: r.LastRows,
		BatchSize: r.GetBatchSize(), FromSeq: r.FromSeq, PushBatches: r.GetPushBatches(), ConnectionId: r.GetConnectionId(),
		ClientSubscriptionId: r.GetClientSubscriptionId(), OptionsJson: r.GetOptionsJson()}
	if sub.phase == following {
		position := sub.position.Load()
		out.Snapshot, out.LastRows, out.FromSeq = false, nil, &position
		sub.resuming, sub.moved = true, true
	}
	return out
}

// outcome is what became of an event.
type outcome uint8

const (
	taken outcome = iota
	// refused: the sink cannot take it.
	refused
	// tooLate: the position to go on from is gone.
	tooLate
)

// take hands an event to the sink, unless it is about a move, of which the sink does not know.
func (sub *Subscription) take(ev *livev1.ConnectResponse) outcome {
	if m := ev.GetSubscribed(); m != nil {
		sub.since, sub.reason = time.Time{}, nil
		if sub.resuming {
			sub.resuming = false
			if m.GetReset_() || m.GetSnapshotFollows() {
				return tooLate
			}
			return taken
		}
	}
	if sub.moved && sub.repeats(ev) {
		return taken
	}
	if rows := ev.GetInitialRows(); rows != nil {
		sub.more.Store(rows.GetHasMore())
		sub.requested.Store(false)
	}
	if !sub.sink.Deliver(ev) {
		return refused
	}
	sub.advance(ev)
	return taken
}

// repeats reports whether the sink has had what an event says.
func (sub *Subscription) repeats(ev *livev1.ConnectResponse) bool {
	switch e := ev.GetEvent().(type) {
	case *livev1.ConnectResponse_Changed:
		return e.Changed.GetSeq() <= sub.position.Load()
	case *livev1.ConnectResponse_Progress:
		return e.Progress.GetPosition() <= sub.position.Load()
	}
	return false
}

// advance notes what has been delivered.
func (sub *Subscription) advance(ev *livev1.ConnectResponse) {
	switch e := ev.GetEvent().(type) {
	case *livev1.ConnectResponse_Subscribed:
		sub.phase = following
		switch {
		case e.Subscribed.GetSnapshotFollows():
			sub.phase = loading
			sub.registered = e.Subscribed.GetPosition()
			sub.position.Store(0) // until rows arrive there is nothing to resume
		case sub.req.FromSeq == nil:
			sub.position.Store(e.Subscribed.GetPosition())
		} // when resuming, the position asked for holds until changes arrive
	case *livev1.ConnectResponse_InitialRows:
		sub.raise(e.InitialRows.GetLastSeq()) // rows come in ascending order of _seq
		if !e.InitialRows.GetHasMore() {
			sub.raise(sub.registered)
			sub.phase = following
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

// finish reports whether the subscription was open until now.
func (sub *Subscription) finish() bool {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if sub.closed {
		return false
	}
	sub.closed = true
	sub.client.release()
	return true
}

func (sub *Subscription) isClosed() bool {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	return sub.closed
}

// end tells the sink.
func (sub *Subscription) end(code dberr.Code, position uint64, format string, args ...any) {
	if !sub.finish() {
		return
	}
	if own := sub.position.Load(); position == 0 || sub.phase == following {
		position = max(position, own)
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

// NextBatch asks for the next batch of initial rows. It is an error when there are none left, or when
// they have been asked for already.
func (sub *Subscription) NextBatch() error {
	if !sub.more.Load() {
		return dberr.New(dberr.InvalidOperation, "there are no more initial rows")
	}
	if sub.requested.Swap(true) {
		return dberr.New(dberr.InvalidOperation, "the next batch has been asked for already")
	}
	sub.mu.Lock()
	at, id, closed := sub.at, sub.id, sub.closed
	sub.mu.Unlock()
	if closed {
		return dberr.New(dberr.NotFound, "the subscription has ended")
	}
	return at.nextBatch(id)
}

// Close ends the subscription. The sink gets no End, but a Deliver that is under way may still return
// after Close.
func (sub *Subscription) Close() {
	if !sub.finish() {
		return
	}
	sub.mu.Lock()
	at, id := sub.at, sub.id
	sub.mu.Unlock()
	if at != nil {
		at.remove(id, true)
	}
}
