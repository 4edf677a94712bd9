package group

import (
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// logReader is the sink of a watch that one subscription has to itself: it reads the change log from
// the subscription's position until it meets the partition's watch.
type logReader struct {
	p *Partition
	s *Subscription
}

// readLog opens the subscription's own watch.
func (p *Partition) readLog(s *Subscription, after uint64) {
	s.position = after
	s.start.log = p.hub.feed.Add(p.key, s.start.caller(), max(after, beginning), &logReader{p, s})
}

// reads reports whether the reader's watch is still the subscription's. p.mu is held.
func (r *logReader) reads() bool {
	return (r.s.mode == opening || r.s.mode == catchingUp) && r.s.start.log != nil
}

// Started is called by the feed.
func (r *logReader) Started(uint64) {
	r.p.mu.Lock()
	defer r.p.unlock()
	if !r.reads() {
		return
	}
	if r.s.mode == opening {
		r.p.hub.counts.Resumed.Add(1)
		r.s.start.snapshot = false
		r.p.announce(r.s, r.s.position)
		r.s.mode = catchingUp
	}
	r.p.tryJoin(r.s)
}

// Changes is called by the feed. When the outbox is full the rest waits in the change log: the watch is
// closed, and opened again at the same position when there is room.
func (r *logReader) Changes(changes []*storagev1.Change) {
	r.p.mu.Lock()
	defer r.p.unlock()
	if !r.reads() {
		return
	}
	for _, ch := range changes {
		if ch.GetSeq() <= r.s.position {
			continue
		}
		if !r.s.stream.out.Room() {
			r.p.waitRoom(r.s)
			return
		}
		if r.p.deliver(r.s, ch); r.s.mode == ended {
			return
		}
		r.s.position = ch.GetSeq()
	}
	r.p.tryJoin(r.s)
}

func (p *Partition) waitRoom(s *Subscription) {
	s.start.log.Close()
	s.start.log = nil
	s.stream.out.OnRoom(func() {
		p.mu.Lock()
		defer p.unlock()
		if s.mode == catchingUp && s.start.log == nil {
			p.readLog(s, s.position)
		}
	})
}

// Ended is called by the feed.
func (r *logReader) Ended(code dberr.Code, message string) {
	r.p.mu.Lock()
	defer r.p.unlock()
	if !r.reads() {
		return
	}
	s := r.s
	s.start.log = nil
	switch {
	case code != dberr.PositionGone:
		r.p.end(s, code, message)
	case s.mode == catchingUp:
		r.p.end(s, dberr.Lagged, "the change log no longer reaches back to the position; resume from it for a new snapshot")
	default:
		r.p.hub.counts.Reset.Add(1)
		s.start.resume, s.start.reset, s.start.snapshot, s.start.lastRows = false, true, true, nil
		if r.p.started {
			r.p.begin(s)
		}
	}
}

// tryJoin leaves the change log when it has come as far as the partition's watch, which has every
// change after that.
func (p *Partition) tryJoin(s *Subscription) {
	if !p.started || s.position < p.position {
		return
	}
	s.start.log.Close()
	s.start.log = nil
	p.settle(s)
}

// catchUp counts a report on the shard for those who read its change log.
func (h *Hub) catchUp(shard uint32) {
	for _, s := range h.startingWhere(func(s *Subscription) bool { return s.partition.key.Shard == shard }) {
		p := s.partition
		p.mu.Lock()
		if s.mode == catchingUp && s.start.log != nil {
			s.position = max(s.position, s.start.log.Position())
			p.tryJoin(s)
		}
		p.unlock()
	}
}
