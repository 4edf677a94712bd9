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
