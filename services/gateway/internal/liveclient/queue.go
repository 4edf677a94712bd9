package liveclient

import (
	"context"
	"sync"

	"google.golang.org/protobuf/proto"

	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

const (
	// queueRowsMax bounds the rows one consumer may leave waiting: a full batch of initial rows and
	// as many changes. Past it the subscription ends as Lagged.
	queueRowsMax = 2048
	// queueBytesMax bounds them in bytes, so that wide rows do not cost more. One event is always
	// taken, however large.
	queueBytesMax = 8 << 20
)

// Queue is a Sink for consumers that ask for events one after the other. It is bounded: let initial
// rows come by NextBatch, not pushed, or a large snapshot overruns it.
type Queue struct {
	mu     sync.Mutex // guards what follows
	events []queued
	rows   int
	bytes  int
	err    error
	wake   chan struct{} // has an element when there may be something to take
}

type queued struct {
	ev          *livev1.ConnectResponse
	rows, bytes int
}

// NewQueue makes an empty queue.
func NewQueue() *Queue { return &Queue{wake: make(chan struct{}, 1)} }

// Deliver implements Sink.
func (q *Queue) Deliver(ev *livev1.ConnectResponse) bool {
	item := queued{ev: ev, rows: 1, bytes: proto.Size(ev)}
	if initial := ev.GetInitialRows(); initial != nil {
		item.rows = int(initial.GetRowCount())
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.events); n > 0 {
		if q.rows+item.rows > queueRowsMax || q.bytes+item.bytes > queueBytesMax {
			return false
		}
		if q.events[n-1].ev.GetProgress() != nil && ev.GetProgress() != nil {
			q.events[n-1].ev = ev // the later progress says it all
			return true
		}
	}
	q.events = append(q.events, item)
	q.rows += item.rows
	q.bytes += item.bytes
	q.signal()
	return true
}

// End implements Sink.
func (q *Queue) End(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = err
	q.signal()
}

func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Next waits for the next event. After the last one it returns the error the subscription ended with.
func (q *Queue) Next(ctx context.Context) (*livev1.ConnectResponse, error) {
	for {
		if ev, err := q.take(); ev != nil || err != nil {
			return ev, err
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (q *Queue) take() (*livev1.ConnectResponse, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.events) == 0 {
		return nil, q.err
	}
	item := q.events[0]
	q.events[0] = queued{}
	if q.events = q.events[1:]; len(q.events) == 0 {
		q.events = nil // an idle consumer holds nothing
	}
	q.rows -= item.rows
	q.bytes -= item.bytes
	return item.ev, nil
}
