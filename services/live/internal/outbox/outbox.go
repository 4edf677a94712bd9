// Package outbox is what waits to be sent on one gateway's stream. It never blocks those who fill it:
// when the gateway does not read, the subscriptions whose messages wait are ended as Lagged, each at
// the position up to which everything was sent, and the memory is released.
package outbox

import (
	"context"
	"sync"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// Limits bound a queue.
type Limits struct {
	// Messages and Bytes may wait; past either, what waits is given up.
	Messages, Bytes int
}

const (
	// itemOverhead is what a waiting message costs besides its rows.
	itemOverhead = 160
	idBytes      = 8
	// roomDivisor: those who can wait (initial rows, catching up) add only to the first part of the
	// queue, so that changes, which cannot wait, find place.
	roomDivisor = 2
)

// Item is one message. Exactly one of Changed, Progress and Message is set.
type Item struct {
	// Changed is a change without its subscriptions: its content is shared between streams.
	Changed *livev1.Changed
	// Progress is the position of a bookmark.
	Progress uint64
	// Message is an event of one subscription.
	Message *livev1.ConnectResponse
	// Subscriptions it is for. The slice is shared and not modified.
	Subscriptions []uint64
	// Resume is where the subscriptions go on when this message is never sent.
	Resume uint64

	ended bool // Message is an Ended: it is never given up
}

func (it *Item) bytes() int {
	n := itemOverhead + idBytes*len(it.Subscriptions)
	switch {
	case it.Changed != nil:
		n += len(it.Changed.GetRows()) + len(it.Changed.GetOldRows())
	case it.Message != nil:
		n += len(it.Message.GetInitialRows().GetRows()) + len(it.Message.GetSubscribed().GetSchemaIpc())
	}
	return n
}

func (it *Item) message() *livev1.ConnectResponse {
	switch {
	case it.Changed != nil:
		return &livev1.ConnectResponse{Event: &livev1.ConnectResponse_Changed{Changed: &livev1.Changed{
			Subscriptions: it.Subscriptions, Kind: it.Changed.GetKind(), Seq: it.Changed.GetSeq(),
			Rows: it.Changed.GetRows(), OldRows: it.Changed.GetOldRows()}}}
	case it.Message != nil:
		return it.Message
	}
	return &livev1.ConnectResponse{Event: &livev1.ConnectResponse_Progress{Progress: &livev1.Progress{
		Subscriptions: it.Subscriptions, Position: it.Progress}}}
}

// Queue is the messages that wait for one stream. It is safe for concurrent use.
type Queue struct {
	limits Limits

	mu     sync.Mutex
	items  []Item
	head   int
	data   int // items that are not Ended
	bytes  int
	closed bool
	// lagged were ended here and not yet forgotten by their owner, who may still push for them.
	lagged   map[uint64]struct{}
	reported []uint64 // lagged, not yet taken by TakeLagged
	onRoom   []func()

	signals chan struct{} // one token: there may be something to take
	room    chan struct{} // closed and replaced when room returns
}

// New makes an empty queue.
func New(l Limits) *Queue {
	return &Queue{limits: l, lagged: map[uint64]struct{}{}, signals: make(chan struct{}, 1), room: make(chan struct{})}
}

// Push adds a message, or gives up everything that waits when it does not fit.
func (q *Queue) Push(it Item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if len(q.lagged) > 0 {
		if it.Subscriptions = q.withoutLagged(it.Subscriptions); len(it.Subscriptions) == 0 {
			return
		}
	}
	size := it.bytes()
	if q.data > 0 && (q.data >= q.limits.Messages || q.bytes+size > q.limits.Bytes) {
		q.giveUp(it)
		return
	}
	q.append(it, size)
}

func (q *Queue) append(it Item, size int) {
	q.items = append(q.items, it)
	q.bytes += size
	if !it.ended {
		q.data++
	}
	q.signal()
}

func (q *Queue) withoutLagged(ids []uint64) []uint64 {
	for i, id := range ids {
		if _, gone := q.lagged[id]; !gone {
			continue
		}
		kept := append(make([]uint64, 0, len(ids)-1), ids[:i]...)
		for _, id := range ids[i+1:] {
			if _, gone := q.lagged[id]; !gone {
				kept = append(kept, id)
			}
		}
		return kept
	}
	return ids
}

// giveUp drops what waits, last included, and ends its subscriptions as Lagged. A subscription that has
// been ended keeps its end, which must not name a position behind what is dropped here.
func (q *Queue) giveUp(last Item) {
	waiting := append(q.items[q.head:], last)
	q.items, q.head, q.bytes, q.data = nil, 0, 0, 0
	var order []uint64
	resume := map[uint64]uint64{} // where those who lose something go on
	told := map[uint64]bool{}     // those whose end stays
	seen := map[*uint64]int{}     // groups send the same slice again and again
	for i := range waiting {
		it := &waiting[i]
		if it.ended {
			id := it.Subscriptions[0]
			if at, loses := resume[id]; loses {
				*it = it.endedAt(at)
			}
			told[id] = true
			q.append(*it, it.bytes())
			continue
		}
		if len(it.Subscriptions) == 0 || seen[&it.Subscriptions[0]] == len(it.Subscriptions) {
			continue
		}
		seen[&it.Subscriptions[0]] = len(it.Subscriptions)
		for _, id := range it.Subscriptions {
			if _, known := resume[id]; !known {
				resume[id] = it.Resume
				order = append(order, id)
			}
		}
	}
	for _, id := range order {
		if _, known := q.lagged[id]; known || told[id] {
			continue
		}
		q.lagged[id] = struct{}{}
		q.reported = append(q.reported, id)
		end := endItem(id, dberr.Lagged, laggedText, resume[id])
		q.append(end, end.bytes())
	}
	q.signalRoom()
}

// endedAt is an end that names no later position than at. Messages are shared, so it is a new one.
func (it *Item) endedAt(at uint64) Item {
	e := it.Message.GetEnded()
	return endItem(e.GetSubscription(), dberr.Code(e.GetCode()), e.GetMessage(), min(e.GetPosition(), at))
}

const laggedText = "the subscriber reads too slowly (live.queue_messages, live.queue_bytes); resume from position"

// End adds the last message of a subscription. It always fits: there is one for each subscription.
func (q *Queue) End(id uint64, code dberr.Code, message string, position uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, known := q.lagged[id]; known || q.closed {
		return
	}
	it := endItem(id, code, message, position)
	q.append(it, it.bytes())
}

func endItem(id uint64, code dberr.Code, message string, position uint64) Item {
	return Item{ended: true, Subscriptions: []uint64{id}, Message: &livev1.ConnectResponse{
		Event: &livev1.ConnectResponse_Ended{Ended: &livev1.Ended{Subscription: id, Code: string(code),
			Message: message, Position: position}}}}
}

// TakeLagged returns the subscriptions ended here since the last call. Their owner removes them, then
// calls Forget.
func (q *Queue) TakeLagged() []uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	ids := q.reported
	q.reported = nil
	return ids
}

// Forget says that nothing more will be pushed for a subscription.
func (q *Queue) Forget(id uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.lagged, id)
}

// Take returns the next message to send. It waits; false means that the queue was closed, and is
// empty, or that ctx ended.
func (q *Queue) Take(ctx context.Context) (*livev1.ConnectResponse, bool) {
	for {
		it, ok, closed := q.next()
		if ok {
			return it.message(), true
		}
		if closed {
			return nil, false
		}
		select {
		case <-q.signals:
		case <-ctx.Done():
			return nil, false
		}
	}
}

func (q *Queue) next() (it Item, ok, closed bool) {
	q.mu.Lock()
	if q.head < len(q.items) {
		hadRoom := q.hasRoom()
		it, ok = q.items[q.head], true
		q.items[q.head] = Item{}
		q.head++
		q.bytes -= it.bytes()
		if !it.ended {
			q.data--
		}
		q.compact()
		if !hadRoom && q.hasRoom() {
			q.signalRoom()
		}
	}
	closed = q.closed
	var waiting []func()
	if q.hasRoom() {
		waiting, q.onRoom = q.onRoom, nil
	}
	q.mu.Unlock()
	for _, f := range waiting {
		f()
	}
	return it, ok, closed
}

// compact keeps the sent part of the slice from growing with the queue's life.
func (q *Queue) compact() {
	const sentMax = 1024 // moving the rest costs less than this many sends
	switch {
	case q.head == len(q.items):
		q.head = 0
		if cap(q.items) > sentMax {
			q.items = nil // after a burst
		} else {
			q.items = q.items[:0]
		}
	case q.head >= sentMax && q.head*2 >= len(q.items):
		q.items = append([]Item(nil), q.items[q.head:]...)
		q.head = 0
	}
}

func (q *Queue) signal() {
	select {
	case q.signals <- struct{}{}:
	default:
	}
}

// Close takes no further messages; those that wait are still sent.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
	q.signalRoom()
}

// Abort closes the queue and drops what waits: the stream is gone.
func (q *Queue) Abort() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.items, q.head, q.bytes, q.data, q.onRoom = nil, 0, 0, 0, nil
	q.signal()
	q.signalRoom()
}

// Stats returns what waits now.
func (q *Queue) Stats() (messages, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) - q.head, q.bytes
}
