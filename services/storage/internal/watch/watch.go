package watch

import (
	"slices"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// watch is one watched partition of one session. Its fields up to session are fixed, listed belongs to
// session.mu, the others to hub.mu.
type watch struct {
	id        uint64
	partition subject
	hub       *Hub
	session   *session
	// unlogged: a STREAM table, whose history is in memory.
	unlogged bool

	// listed says that it is on the session's list.
	listed bool

	registered bool
	// gone: unregistered, perhaps before it was registered.
	gone bool
	// live: changes are queued. Otherwise the watch is behind, and stays on the session's list.
	live bool
	// seen is the highest _seq queued, or read from history.
	seen  uint64
	queue []*storagev1.Change
	bytes int
	// started: start, the position above which it delivers, is known. Nothing is sent before.
	started bool
	start   uint64
	// announced: WatchStarted was sent.
	announced bool
	ended     error
}

// offer queues ch, or falls behind. hub.mu is held.
func (w *watch) offer(ch *storagev1.Change) {
	if !w.live || ch.GetSeq() <= w.seen {
		return
	}
	size := changeBytes(ch)
	if len(w.queue) >= queueRowsMax || w.bytes > 0 && w.bytes+size > queueBytesMax || !w.session.reserve(size) {
		w.live = false // reads on in history, from seen
		if !w.unlogged {
			// Up to there it was offered everything, perhaps long ago nothing: history need not reach back so far.
			w.seen = max(w.seen, w.hub.position)
		}
		return
	}
	w.queue = append(w.queue, ch)
	w.bytes += size
	w.seen = ch.GetSeq()
}

// changeOverhead is what a queued change costs besides its rows.
const changeOverhead = 128

func changeBytes(ch *storagev1.Change) int {
	return changeOverhead + len(ch.GetRow()) + len(ch.GetOldRow())
}

// takeQueue empties the queue. hub.mu is held.
func (w *watch) takeQueue() []*storagev1.Change {
	q := w.queue
	w.queue = nil
	w.session.unreserve(w.bytes)
	w.bytes = 0
	return q
}

// register adds w to its hub. after zero means from now on.
func (w *watch) register(after uint64) error {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed != nil {
		return h.closed
	}
	if w.gone {
		return dberr.New(dberr.Canceled, "watch: the stream has ended")
	}
	if after == 0 && !w.unlogged {
		after = h.position
	}
	w.started, w.start, w.seen = !w.unlogged || after != 0, after, after
	// Between batches all up to the position has been offered, and only what comes is missing. A higher
	// one may be a snapshot taken before its batch was published, or an invention: history knows.
	w.live = !w.started || !w.unlogged && after == h.position && !h.inBatch
	w.registered = true
	h.watches[w.partition] = append(h.watches[w.partition], w)
	h.touch(w)
	h.wake()
	return nil
}

// startNow fixes the start of a watch of a STREAM table from now on. It asks for the position after
// registering: what was written in between is queued, which memory need not have kept.
func (w *watch) startNow() {
	h := w.hub
	now := h.unlogged.Position()
	h.mu.Lock()
	defer h.mu.Unlock()
	w.started, w.start = true, now
	w.dropQueued(now)
	h.touch(w)
	h.wake()
}

// dropQueued removes what is queued up to position, which the reader has or does not want.
func (w *watch) dropQueued(position uint64) {
	n, _ := slices.BinarySearchFunc(w.queue, position+1, func(ch *storagev1.Change, p uint64) int {
		if ch.GetSeq() < p {
			return -1
		}
		return 1
	})
	for _, ch := range w.queue[:n] {
		size := changeBytes(ch)
		w.bytes -= size
		w.session.unreserve(size)
	}
	w.queue = slices.Delete(w.queue, 0, n)
	w.seen = max(w.seen, position)
}

func (h *Hub) add(w *watch) {
	w.registered = true
	h.watches[w.partition] = append(h.watches[w.partition], w)
	h.touch(w)
	h.wake()
}

// unregister takes w off its hub and gives back what its queue holds.
func (w *watch) unregister() {
	h := w.hub
	h.mu.Lock()
	w.takeQueue()
	w.live, w.gone = false, true
	last := false
	if w.registered {
		w.registered = false
		ws := h.watches[w.partition]
		if i := slices.Index(ws, w); i >= 0 {
			ws = slices.Delete(ws, i, i+1)
		}
		if last = len(ws) == 0; last {
			delete(h.watches, w.partition)
		} else {
			h.watches[w.partition] = ws
		}
	}
	h.mu.Unlock()
	if last && w.unlogged {
		h.unlogged.Forget(w.partition.table, w.partition.user)
	}
}

// output is what one turn of a watch sends.
type output struct {
	started bool
	start   uint64
	changes []*storagev1.Change
	behind  bool
	ended   error
}

// turn takes what w has to send. A watch that is behind reads one piece of history: it first turns live,
// so that what is published meanwhile is queued, and falls back when the piece was not the last.
func (w *watch) turn() output {
	h := w.hub
	h.mu.Lock()
	if !w.started && w.ended == nil {
		h.mu.Unlock()
		return output{}
	}
	out := output{changes: w.takeQueue(), ended: w.ended, started: w.started && !w.announced, start: w.start}
	w.announced = true
	behind, from := !w.live && w.ended == nil, w.seen
	if behind {
		w.live = true
	}
	h.mu.Unlock()
	if !behind {
		return out
	}
	read, more, err := w.history().Read(w.partition.table, w.partition.user, from)
	if err != nil {
		out.ended = err
		out.started = false
		return out
	}
	out.changes = append(out.changes, read...)
	if len(read) > 0 {
		from = read[len(read)-1].GetSeq()
	}
	out.behind = w.join(from, more)
	return out
}

func (w *watch) history() History {
	if w.unlogged {
		return w.hub.unlogged
	}
	return w.hub.log
}

// join connects history read up to last with the queue, and reports whether w is still behind. That it has been
// ended meanwhile makes no difference: what it has not read must not be reported as sent.
func (w *watch) join(last uint64, more bool) (behind bool) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if more { // the queue may begin after a gap: history has all of it
		w.takeQueue()
		w.live = false
		w.seen = last
		return true
	}
	w.dropQueued(last)
	return !w.live
}
