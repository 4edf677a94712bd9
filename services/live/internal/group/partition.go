package group

import (
	"sync"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/feed"
	"github.com/kalamdb/kalamdb-go/services/live/internal/match"
	"github.com/kalamdb/kalamdb-go/services/live/internal/outbox"
)

// Partition is one watched partition and its subscriptions. It is the feed's sink.
type Partition struct {
	hub   *Hub
	key   feed.Partition
	users int // subscriptions not yet released; belongs to Hub.mu

	mu      sync.Mutex
	watch   *feed.Watch
	started bool
	// position: every change up to it has been dispatched.
	position uint64
	groups   []*group
	pending  []*Subscription // those that are not live
	gone     []*Subscription // to be released once mu is free
	// dead is why the watch ended; nobody can subscribe here any more.
	dead     dberr.Code
	deadText string
}

// unlock unlocks and releases the subscriptions that ended meanwhile.
func (p *Partition) unlock() {
	gone := p.gone
	p.gone = nil
	p.mu.Unlock()
	for _, s := range gone {
		p.hub.release(s)
	}
}

// reached is how far the partition has been dispatched, reports on its shard included.
func (p *Partition) reached() uint64 { return max(p.position, p.watch.Position()) }

// Started is called by the feed when storage has started the watch.
func (p *Partition) Started(position uint64) {
	p.mu.Lock()
	defer p.unlock()
	p.started, p.position = true, position
	for _, s := range p.pendingNow() {
		switch {
		case s.mode == opening && !s.start.resume:
			p.begin(s)
		case s.mode == catchingUp:
			p.tryJoin(s)
		}
	}
}

// pendingNow is a copy, for loops in which subscriptions go live or end.
func (p *Partition) pendingNow() []*Subscription { return append([]*Subscription(nil), p.pending...) }

// Changes is called by the feed.
func (p *Partition) Changes(changes []*storagev1.Change) {
	p.mu.Lock()
	defer p.unlock()
	p.hub.counts.Changes.Add(uint64(len(changes)))
	for _, ch := range changes {
		p.dispatch(ch)
	}
}

// Ended is called by the feed when the watch cannot go on.
func (p *Partition) Ended(code dberr.Code, message string) {
	if code == dberr.PositionGone {
		code, message = dberr.Lagged, "the change log no longer reaches back to where this node was; resume from position"
	}
	p.mu.Lock()
	defer p.unlock()
	p.dead, p.deadText = code, message
	p.endAll(func(*Subscription) bool { return true }, code, message)
}

// dispatch hands a change to everybody whom it concerns.
func (p *Partition) dispatch(ch *storagev1.Change) {
	for i := len(p.pending) - 1; i >= 0; i-- { // from the end: one that leaves is replaced by a later one
		p.offer(p.pending[i], ch)
	}
	for i := len(p.groups) - 1; i >= 0; i-- { // before the position moves: the change is the first that they have not had
		if g := p.groups[i]; g.shape.Table().SchemaVersion < ch.GetSchemaVersion() {
			p.endGroup(g, match.Altered(g.shape.Table()))
		}
	}
	p.position = max(p.position, ch.GetSeq())
	if len(p.groups) == 0 {
		return
	}
	var c *match.Change
	for i := len(p.groups) - 1; i >= 0; i-- {
		g := p.groups[i]
		if c == nil || c.Table() != g.shape.Table() {
			var err error
			if c, err = match.Decode(g.shape.Table(), ch); err != nil {
				p.endGroup(g, err)
				c = nil
				continue
			}
		}
		changed, err := g.shape.Evaluate(c, true)
		if err != nil {
			p.endGroup(g, err)
			continue
		}
		if changed != nil {
			g.deliver(p.hub, changed)
		}
	}
}

// offer gives a change to a subscription that is not live yet.
func (p *Partition) offer(s *Subscription, ch *storagev1.Change) {
	switch s.mode {
	case loading:
		s.start.buffer.Add(ch)
	case joining:
		switch {
		case ch.GetSeq() <= s.position:
		case ch.GetSeq() <= s.start.pages.Settled():
			p.deliver(s, ch)
		default:
			p.goLive(s)
		}
	}
}

// deliver sends one change to one subscription that is not live yet.
func (p *Partition) deliver(s *Subscription, ch *storagev1.Change) {
	c, err := match.Decode(s.shape.Table(), ch)
	if err != nil {
		p.end(s, dberr.CodeOf(err), err.Error())
		return
	}
	changed, err := s.shape.Evaluate(c, s.start.pages.Known(ch.GetOldSeq(), ch.GetSeq()))
	if err != nil {
		p.end(s, dberr.CodeOf(err), err.Error())
		return
	}
	s.position = ch.GetSeq()
	if changed == nil {
		return
	}
	s.changes++
	s.updated = p.hub.cfg.Now()
	p.hub.counts.Matched.Add(1)
	p.hub.counts.Delivered.Add(1)
	s.stream.out.Push(outbox.Item{Changed: changed, Subscriptions: []uint64{s.id}, Resume: ch.GetSeq() - 1})
}

// settle is called when a subscription has everything up to its position and needs no log: it goes
// live, or waits until the partition is as far.
func (p *Partition) settle(s *Subscription) {
	p.hub.settled(s)
	if p.started && p.position >= max(s.position, s.start.pages.Settled()) {
		p.goLive(s)
		return
	}
	s.mode = joining
}

// goLive makes a subscription a member of its group.
func (p *Partition) goLive(s *Subscription) {
	p.hub.settled(s)
	p.leavePending(s)
	s.start.cancel()
	s.start = nil
	s.mode = live
	for _, g := range p.groups {
		if g.shape == s.shape {
			g.add(s)
			return
		}
	}
	g := &group{shape: s.shape}
	p.groups = append(p.groups, g)
	p.hub.groups.Add(1)
	g.add(s)
}

func (p *Partition) leavePending(s *Subscription) {
	last := len(p.pending) - 1
	for i := range p.pending {
		if p.pending[i] == s {
			p.pending[i], p.pending[last] = p.pending[last], nil
			p.pending = p.pending[:last]
			break
		}
	}
	if len(p.pending) == 0 {
		p.pending = nil // an idle partition holds no more than it needs
	}
}

// end ends a subscription and tells its client why, and where to resume.
func (p *Partition) end(s *Subscription, code dberr.Code, message string) {
	if s.mode == ended {
		return
	}
	position := s.resumeAt()
	p.remove(s)
	s.stream.out.End(s.id, code, message, position)
}

// remove takes a subscription off, without a word.
func (p *Partition) remove(s *Subscription) {
	switch s.mode {
	case ended:
		return
	case live:
		if g := s.group; g.remove(s) {
			p.dropGroup(g)
		}
	default:
		p.leavePending(s)
		s.start.release()
	}
	s.mode = ended
	p.gone = append(p.gone, s)
}

func (p *Partition) dropGroup(g *group) {
	last := len(p.groups) - 1
	for i := range p.groups {
		if p.groups[i] == g {
			p.groups[i], p.groups[last] = p.groups[last], nil
			p.groups = p.groups[:last]
			p.hub.groups.Add(-1)
			return
		}
	}
}

func (p *Partition) endGroup(g *group, err error) {
	for _, s := range g.all() {
		p.end(s, dberr.CodeOf(err), err.Error())
	}
}

// endAll ends the subscriptions that match.
func (p *Partition) endAll(match func(*Subscription) bool, code dberr.Code, message string) {
	all := p.pendingNow()
	for _, g := range p.groups {
		all = append(all, g.all()...)
	}
	for _, s := range all {
		if match(s) {
			p.end(s, code, message)
		}
	}
}
