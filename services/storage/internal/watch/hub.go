// Package watch hands committed changes to whoever watches a partition.
//
// A shard has one Hub. Apply publishes each change after its batch is committed and then advances the
// position; what is not watched costs a map lookup. A watch joins history and live tail: it is either
// live (changes are queued for it in memory, up to a limit) or behind (it reads the log from where it
// is, and nothing is queued). A slow reader falls behind instead of growing or losing anything.
//
// A session is one Watch stream with any number of watches. It has one goroutine that sends and one
// that receives; an idle watch has none. Lock order: stream.Store.mu, Hub.mu, session.mu.
package watch

import (
	"sync"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
)

// A watch's queue is bounded in both; past either it reads the log instead. They cover a burst of a few
// large statements while one message is being sent.
const (
	queueRowsMax  = 1024
	queueBytesMax = 1 << 20
)

// History is where a watch reads what it did not get live. Read returns the partition's next changes
// above a position, at least one if there is one; more says that it stopped at a limit.
type History interface {
	Read(table uint32, user string, afterSeq uint64) (changes []*storagev1.Change, more bool, err error)
}

// Unlogged is the history of STREAM tables: what memory holds.
type Unlogged interface {
	History
	// Position is the highest _seq written; every write up to it has been published.
	Position() uint64
	// Forget is called when the last watch of a partition has gone.
	Forget(table uint32, user string)
}

type subject struct {
	table uint32
	user  string
}

// Hub is one shard's meeting point of writers and watches.
type Hub struct {
	shard    uint32
	log      History
	unlogged Unlogged

	// hold is held (shared) by writers of STREAM tables from choosing a _seq until it is published.
	hold sync.RWMutex

	// mu guards all below and the state of every watch of this hub.
	mu sync.Mutex
	// position is the highest _seq whose batch is published completely.
	position uint64
	// inBatch is set between the first Publish of a batch and its Advance.
	inBatch bool
	watches map[subject][]*watch
	touched []*session // have something to send since the last Advance
	closed  error
}

// NewHub makes a hub for a shard whose state has been applied up to position; log reads its change log.
func NewHub(shard uint32, position uint64, log History) *Hub {
	return &Hub{shard: shard, position: max(position, changelog.Beginning), log: log, watches: map[subject][]*watch{}}
}

// ServeUnlogged connects the shard's STREAM tables; call it before the hub is used.
func (h *Hub) ServeUnlogged(u Unlogged) { h.unlogged = u }

// Shard is the number of the hub's shard.
func (h *Hub) Shard() uint32 { return h.shard }

// Publish hands over one change of a committed batch. Call it in the order of _seq, then Advance. The
// change must not be modified afterwards.
func (h *Hub) Publish(table uint32, user string, ch *storagev1.Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inBatch = true
	h.offer(table, user, ch)
}

// Advance says that every change up to position has been published, and wakes those who wait.
func (h *Hub) Advance(position uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inBatch = false
	h.position = max(h.position, position)
	h.wake()
}

// PublishUnlogged hands over changes of a STREAM table, which move no position of the shard.
func (h *Hub) PublishUnlogged(table uint32, user string, changes []*storagev1.Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ch := range changes {
		h.offer(table, user, ch)
	}
	h.wake()
}

// HoldProgress keeps Progress from passing a _seq that was chosen and is not yet published. Call it
// before choosing, the result after publishing.
func (h *Hub) HoldProgress() (release func()) {
	h.hold.RLock()
	return h.hold.RUnlock
}

// Watched reports whether anybody watches the partition.
func (h *Hub) Watched(table uint32, user string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watches[subject{table, user}]) > 0
}

// DropTable ends every watch on a table with NotFound.
func (h *Hub) DropTable(table uint32) {
	h.endWhere(func(p subject) bool { return p.table == table },
		dberr.New(dberr.NotFound, "the table was dropped"))
}

// EndUser ends every watch on a user's partitions.
func (h *Hub) EndUser(user string, err error) {
	h.endWhere(func(p subject) bool { return p.user == user }, err)
}

// Close ends every watch with err and refuses new ones: this node no longer leads the shard, or stops.
// Open undoes it.
func (h *Hub) Close(err error) {
	h.mu.Lock()
	h.closed = err
	h.mu.Unlock()
	h.endWhere(func(subject) bool { return true }, err)
}

// Open accepts watches again, for a shard that has been applied up to position.
func (h *Hub) Open(position uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = nil
	h.inBatch = false
	h.position = max(h.position, position)
}

func (h *Hub) endWhere(match func(subject) bool, err error) {
	h.mu.Lock()
	var ended []subject
	for p, ws := range h.watches {
		if !match(p) {
			continue
		}
		for _, w := range ws {
			w.ended = err
			w.registered = false
			h.touch(w)
		}
		delete(h.watches, p)
		ended = append(ended, p)
	}
	h.wake()
	h.mu.Unlock()
	if h.unlogged != nil {
		for _, p := range ended {
			h.unlogged.Forget(p.table, p.user)
		}
	}
}

// offer queues ch for the partition's watches.
func (h *Hub) offer(table uint32, user string, ch *storagev1.Change) {
	for _, w := range h.watches[subject{table, user}] {
		w.offer(ch)
		h.touch(w)
	}
}

// touch puts w on its session's list; the session is woken by the next wake.
func (h *Hub) touch(w *watch) {
	if w.session.push(w) {
		h.touched = append(h.touched, w.session)
	}
}

func (h *Hub) wake() {
	for i, s := range h.touched {
		s.signal()
		h.touched[i] = nil
	}
	h.touched = h.touched[:0]
}

// progress returns a position up to which every change has been offered to the watches.
func (h *Hub) progress() uint64 {
	h.mu.Lock()
	p := h.position
	h.mu.Unlock()
	// A STREAM write that chose a lower _seq than p is still being published: wait for it.
	h.hold.Lock()
	h.hold.Unlock() //nolint:staticcheck // the empty section is the wait
	return p
}
