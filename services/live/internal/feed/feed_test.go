package feed

import (
	"slices"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

func TestWatchesOfOneNodeShareAStream(t *testing.T) {
	s := newScript(t, "a")
	a := s.node("a")
	var one, two record
	s.feed.Add(partition, Caller{CatalogVersion: 9}, 0, &one)
	w := s.feed.Add(Partition{Table: 7, User: "bob"}, Caller{}, 40, &two)
	d := a.opened()
	first, second := d.added(), d.added()
	if first.GetAfterSeq() != 0 || first.GetCatalogVersion() != 9 || first.GetUserId() != "ann" || second.GetAfterSeq() != 40 {
		t.Fatalf("asked for %v and %v", first, second)
	}
	d.start(first.GetWatchId(), 50)
	d.start(second.GetWatchId(), 40)
	d.change(second.GetWatchId(), 45, 52)
	d.change(first.GetWatchId(), 51)
	one.want(t, 51)
	two.want(t, 45, 52)
	d.progress(60)
	s.reported(60)
	if p := w.Position(); p != 60 {
		t.Errorf("after a report the position is %d", p)
	}
	w.Close()
	w.Close()
	if id := d.removed(); id != second.GetWatchId() {
		t.Errorf("removed %d", id)
	}
	d.change(second.GetWatchId(), 70) // on its way when it was closed
	d.change(first.GetWatchId(), 71)
	one.want(t, 51, 71)
	two.want(t, 45, 52)
	if s.feed.Streams() != 1 {
		t.Errorf("%d streams", s.feed.Streams())
	}
}

// asking is a sink that looks at the watch's position when it is called.
type asking struct {
	record
	watch *Watch
	seen  []uint64
}

func (a *asking) Changes(changes []*storagev1.Change) {
	a.seen = append(a.seen, a.watch.Position())
	a.record.Changes(changes)
}

// Nobody is told of a position before the sink has taken what is up to it.
func TestPositionFollowsDelivery(t *testing.T) {
	s := newScript(t, "")
	a := s.node("a")
	sink := &asking{}
	sink.watch = s.feed.Add(partition, Caller{}, 5, sink)
	s.lead("a")
	d := a.opened()
	id := d.added().GetWatchId()
	d.start(id, 5)
	d.change(id, 6, 7)
	d.change(id, 8)
	sink.want(t, 6, 7, 8)
	if !slices.Equal(sink.seen, []uint64{5, 7}) {
		t.Errorf("positions while the sink was called: %v", sink.seen)
	}
}

// The leader moves back and forth; what the former one still sends is not taken, its reports count for nothing.
func TestWatchMovesWithTheLeader(t *testing.T) {
	s := newScript(t, "a")
	a, b := s.node("a"), s.node("b")
	var r record
	w := s.feed.Add(partition, Caller{}, 0, &r)
	da := a.opened()
	old := da.added().GetWatchId()
	da.start(old, 10)
	da.change(old, 11, 12)
	r.want(t, 11, 12)
	da.end(old, dberr.NotLeader, "b")

	db := b.opened()
	add := db.added()
	if add.GetAfterSeq() != 12 || add.GetWatchId() == old {
		t.Fatalf("moved with %v", add)
	}
	da.change(old, 13, 14) // a former leader, late
	da.progress(99)
	db.start(add.GetWatchId(), 12)
	db.change(add.GetWatchId(), 13)
	r.want(t, 11, 12, 13)
	if p := w.Position(); p != 13 {
		t.Errorf("the former leader's report counts: %d", p)
	}
	db.progress(20)
	s.reported(20)
	db.end(add.GetWatchId(), dberr.NotLeader, "a")

	back := da.added() // on the same stream as before
	if back.GetAfterSeq() != 20 || back.GetWatchId() == old {
		t.Fatalf("moved back with %v", back)
	}
	da.change(old, 21)
	da.progress(99)
	s.reported(99)
	if p := w.Position(); p != 20 {
		t.Errorf("a report before the start counts: %d", p)
	}
	da.start(back.GetWatchId(), 20)
	db.change(add.GetWatchId(), 21, 22)
	da.change(back.GetWatchId(), 20, 21, 22)
	r.want(t, 11, 12, 13, 21, 22)
	if slices.Contains(s.reports, 0) || s.feed.Streams() != 2 {
		t.Errorf("reports %v, %d streams", s.reports, s.feed.Streams())
	}
}

// One refusal moves all watches of the shard: each at its own position, all to the same place.
func TestAShardMovesAsAWhole(t *testing.T) {
	s := newScript(t, "a")
	a, b := s.node("a"), s.node("b")
	var r [3]record
	for i := range r {
		s.feed.Add(partition, Caller{}, uint64(10*(i+1)), &r[i])
	}
	da := a.opened()
	for range r {
		add := da.added()
		da.start(add.GetWatchId(), add.GetAfterSeq())
		da.change(add.GetWatchId(), add.GetAfterSeq()+1)
	}
	for i := range r {
		r[i].want(t, uint64(10*(i+1)+1))
	}
	da.end(2, dberr.NotLeader, "b")
	db := b.opened()
	var after []uint64
	for range r {
		after = append(after, db.added().GetAfterSeq())
	}
	if slices.Sort(after); !slices.Equal(after, []uint64{11, 21, 31}) {
		t.Errorf("moved at %v", after)
	}
}

// Two nodes that each say the other leads are not asked in turns: the second refusal waits for the next try.
func TestHintsInACircle(t *testing.T) {
	s := newScript(t, "a")
	a, b := s.node("a"), s.node("b")
	var r record
	s.feed.Add(partition, Caller{}, 5, &r)
	da := a.opened()
	da.end(da.added().GetWatchId(), dberr.NotLeader, "b")
	db := b.opened()
	db.end(db.added().GetWatchId(), dberr.NotLeader, "a")
	s.told.until(t, func() bool {
		s.feed.mu.Lock()
		defer s.feed.mu.Unlock()
		return s.feed.shards[0].moves == 2
	})
	add := da.added() // with the next try, not at once
	da.start(add.GetWatchId(), 5)
	da.change(add.GetWatchId(), 6)
	r.want(t, 6)
}

func TestBrokenStreamIsReplacedAtThePosition(t *testing.T) {
	s := newScript(t, "a")
	a := s.node("a")
	var r record
	w := s.feed.Add(partition, Caller{}, 0, &r)
	d := a.opened()
	id := d.added().GetWatchId()
	d.start(id, 0) // an empty shard
	d.breakOff()
	d = a.opened()
	add := d.added()
	if add.GetAfterSeq() != beginning {
		t.Fatalf("a watch that started on an empty shard came back at %d", add.GetAfterSeq())
	}
	d.start(add.GetWatchId(), beginning)
	d.change(add.GetWatchId(), 30)
	d.progress(35)
	s.reported(35)
	d.breakOff()
	d = a.opened()
	add = d.added()
	d.progress(90) // before the start
	s.reported(90)
	d.start(add.GetWatchId(), add.GetAfterSeq())
	d.change(add.GetWatchId(), 35, 36)
	r.want(t, 30, 36)
	if add.GetAfterSeq() != 35 || w.Position() != 36 {
		t.Errorf("came back at %d, now at %d", add.GetAfterSeq(), w.Position())
	}
}

// All nodes are gone, and no leader is known; then there is one.
func TestAllDownThenUp(t *testing.T) {
	s := newScript(t, "a")
	a := s.node("a")
	var r, late record
	s.feed.Add(partition, Caller{}, 3, &r)
	d := a.opened()
	id := d.added().GetWatchId()
	d.start(id, 3)
	d.change(id, 4)
	r.want(t, 4)
	s.lead("")
	a.stop()
	s.told.until(t, func() bool { return s.feed.Streams() == 0 })
	s.feed.Add(partition, Caller{}, 8, &late)
	b := s.node("b")
	s.lead("b")
	d = b.opened()
	for range 2 {
		add := d.added()
		d.start(add.GetWatchId(), add.GetAfterSeq())
		d.change(add.GetWatchId(), add.GetAfterSeq()+1)
	}
	r.want(t, 4, 5)
	late.want(t, 9)
}

func TestRefusedWatchIsAskedForAgainAlone(t *testing.T) {
	s := newScript(t, "a")
	a := s.node("a")
	var r, other record
	s.feed.Add(partition, Caller{}, 3, &r)
	s.feed.Add(partition, Caller{}, 7, &other)
	d := a.opened()
	first, second := d.added().GetWatchId(), d.added().GetWatchId()
	d.start(second, 7)
	d.end(first, dberr.Unavailable, "")
	add := d.added()
	if add.GetAfterSeq() != 3 || add.GetWatchId() == first {
		t.Fatalf("asked again with %v", add)
	}
	d.change(second, 8)
	other.want(t, 8)
	d.end(add.GetWatchId(), dberr.PositionGone, "")
	r.called.until(t, func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.ends) == 1 })
	if r.ends[0] != dberr.PositionGone || len(r.start) != 0 {
		t.Errorf("ends %v, starts %v", r.ends, r.start)
	}
}

func TestIdleStreamIsClosed(t *testing.T) {
	s := newScript(t, "a")
	a := s.node("a")
	var r record
	w := s.feed.Add(partition, Caller{}, 3, &r)
	d := a.opened()
	d.added()
	w.Close()
	now := time.Now()
	s.feed.closeIdle(now)
	s.feed.closeIdle(now.Add(idleAfter - time.Second))
	if s.feed.Streams() != 1 {
		t.Fatal("closed too early")
	}
	s.feed.closeIdle(now.Add(idleAfter))
	if s.feed.Streams() != 0 {
		t.Fatal("an unused stream stays open")
	}
	receive(t, d.gone, "the end of the stream")
	s.feed.Add(partition, Caller{}, 4, &r)
	d = a.opened()
	add := d.added()
	d.start(add.GetWatchId(), 4)
	d.change(add.GetWatchId(), 5)
	r.want(t, 5)
}
