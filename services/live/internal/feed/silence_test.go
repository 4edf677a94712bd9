package feed

import (
	"testing"
	"time"
)

// A storage node that stops to say anything closes no connection: the shard goes on elsewhere, at its position.
func TestASilentLeaderIsLeft(t *testing.T) {
	s := newScript(t, "a")
	a, b := s.node("a"), s.node("b")
	sink := &record{}
	s.feed.Add(partition, Caller{}, 5, sink)
	d := a.opened()
	id := d.added().GetWatchId()
	d.start(id, 5)
	d.change(id, 6)
	sink.want(t, 6)
	s.lead("b")
	next := b.opened().added()
	if next.GetAfterSeq() != 6 {
		t.Errorf("it goes on after %d", next.GetAfterSeq())
	}
	receive(t, d.gone, "the end of the silent stream")
}

// A hint may lead back to a leader that was cut off. It starts nothing and says nothing; a node that needs long to start
// gets more time when it is asked again.
func TestAWatchThatIsNotStarted(t *testing.T) {
	s := newScript(t, "a")
	a, b := s.node("a"), s.node("b")
	sink := &record{}
	s.feed.Add(partition, Caller{}, 5, sink)
	d := a.opened()
	d.added()
	s.lead("b")
	other := b.opened()
	if given := s.given("a"); given != 2*startWithin {
		t.Errorf("the silent node is given %v the next time", given)
	}
	id := other.added().GetWatchId()
	other.start(id, 5)
	other.end(id, "NotLeader", "a")
	again := a.opened()
	again.start(again.added().GetWatchId(), 5)
	s.told.until(t, func() bool { return s.given("a") == 0 })
}

func (s *script) given(addr string) time.Duration {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	return s.feed.patience[addr]
}

// What a former leader reports about a shard says nothing about what the present one has sent.
func TestAFormerLeadersReportDoesNotCount(t *testing.T) {
	s := newScript(t, "a")
	a, b := s.node("a"), s.node("b")
	elsewhere := partition
	elsewhere.Shard++
	s.mu.Lock()
	s.leaders[2] = "a"
	s.mu.Unlock()
	moved, stays := &record{}, &record{}
	w := s.feed.Add(partition, Caller{}, 5, moved)
	s.feed.Add(elsewhere, Caller{}, 5, stays)
	d := a.opened()
	ids := map[uint32]uint64{}
	for range 2 {
		add := d.added()
		ids[add.GetShard()] = add.GetWatchId()
		d.start(add.GetWatchId(), 5)
	}
	d.end(ids[partition.Shard], "NotLeader", "b")
	next := b.opened()
	next.start(next.added().GetWatchId(), 5)
	d.progress(1000)
	d.change(ids[elsewhere.Shard], 6)
	stays.want(t, 6) // so the report before it has been looked at
	if p := w.Position(); p != 5 {
		t.Errorf("the position is %d", p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.reports) > 0 {
		t.Errorf("reports %v were passed on", s.reports)
	}
}
