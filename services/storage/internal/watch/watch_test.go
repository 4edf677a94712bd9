package watch_test

import (
	"sync"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/watch"
)

func TestWatchFromNow(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 3)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	if p := c.started(t); p != base+3 {
		t.Fatalf("started at %d", p)
	}
	n.write(userTable, "alice", 2)
	checkRun(t, c.follow(t, base+5), base+3, base+5)
}

// A shard without changes has a position that can be resumed from: zero would mean "now".
func TestWatchFromTheBeginning(t *testing.T) {
	n := newNode(t)
	n.last = 0
	n.hub = watch.NewHub(shard, 0, n)
	n.commit(0, "")
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	p := c.started(t)
	if p == 0 {
		t.Fatal("started at zero")
	}
	n.last = base
	n.write(userTable, "alice", 2)
	checkRun(t, c.follow(t, base+2), base, base+2)
	again := connect(t, n)
	again.add(1, userTable, "alice", p)
	if again.started(t) != p {
		t.Fatal("started elsewhere")
	}
	checkRun(t, again.follow(t, base+2), base, base+2)
}

func TestWatchFromAPosition(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 5)
	c := connect(t, n)
	c.add(1, userTable, "alice", base+2)
	if p := c.started(t); p != base+2 {
		t.Fatalf("started at %d", p)
	}
	checkRun(t, c.follow(t, base+5), base+2, base+5)
	n.write(userTable, "alice", 1)
	checkRun(t, c.follow(t, base+6), base+5, base+6)
}

// A batch that is committed but not yet published completely belongs to watches that start now.
func TestWatchStartsInTheMiddleOfABatch(t *testing.T) {
	n := newNode(t)
	changes := n.commit(2, "alice")
	n.hub.Publish(userTable, "alice", changes[0])
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	if p := c.started(t); p != base {
		t.Fatalf("started at %d", p)
	}
	n.hub.Publish(userTable, "alice", changes[1])
	n.hub.Advance(base + 2)
	checkRun(t, c.follow(t, base+2), base, base+2)
}

func TestWatchesSeeTheirPartitionOnly(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	c.started(t)
	c.add(2, sharedTable, "", 0)
	// The shared table's identity does not matter here; its watch names no user.
	c.started(t)
	n.write(userTable, "bob", 1)
	n.write(userTable, "alice", 1)
	n.write(sharedTable, "", 1)
	want := map[uint64]uint64{1: base + 2, 2: base + 3}
	for range 2 {
		e := c.next(t).GetChanges()
		if seq := e.GetChanges()[0].GetSeq(); len(e.GetChanges()) != 1 || want[e.GetWatchId()] != seq {
			t.Fatalf("watch %d got %v", e.GetWatchId(), e.GetChanges())
		}
	}
}

func TestRefusals(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 1)
	c := connect(t, n)
	for i, r := range []struct {
		add  *storagev1.WatchAdd
		code dberr.Code
	}{
		{&storagev1.WatchAdd{Shard: shard, TableId: userTable, UserId: "alice", Identity: &catalogv1.Identity{UserId: "bob", Role: catalogv1.Role_ROLE_SYSTEM}}, dberr.PermissionDenied},
		{&storagev1.WatchAdd{Shard: shard, TableId: userTable}, dberr.PermissionDenied},
		{&storagev1.WatchAdd{Shard: shard, TableId: sharedTable, UserId: "alice", Identity: &catalogv1.Identity{UserId: "alice"}}, dberr.InvalidArgument},
		{&storagev1.WatchAdd{Shard: shard, TableId: 99}, dberr.NotFound},
		{&storagev1.WatchAdd{Shard: 7, TableId: sharedTable}, dberr.NotLeader},
		{&storagev1.WatchAdd{Shard: shard, TableId: sharedTable, AfterSeq: base + 50}, dberr.PositionGone},
	} {
		r.add.WatchId = uint64(i)
		c.ask(r.add)
		e := c.next(t).GetEnded()
		if e.GetWatchId() != uint64(i) || e.GetCode() != string(r.code) {
			t.Errorf("%d: got %v, want %s", i, e, r.code)
		}
	}
}

func TestDuplicateIDEndsTheStream(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	c.started(t)
	c.add(1, userTable, "alice", 0)
	for c.ctx.Err() == nil {
		select {
		case <-c.events:
		case <-c.ctx.Done():
		}
	}
	err := <-c.done
	c.done <- err
	if !dberr.Is(err, dberr.InvalidArgument) {
		t.Fatalf("got %v", err)
	}
}

func TestDroppedTableEndsItsWatches(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	c.started(t)
	c.add(2, sharedTable, "", 0)
	c.started(t)
	n.hub.DropTable(userTable)
	if e := c.next(t).GetEnded(); e.GetWatchId() != 1 || e.GetCode() != string(dberr.NotFound) {
		t.Fatalf("got %v", e)
	}
	n.write(userTable, "alice", 1)
	n.write(sharedTable, "", 1)
	if e := c.next(t).GetChanges(); e.GetWatchId() != 2 {
		t.Fatalf("got %v", e)
	}
}

func TestClosedHubRefusesUntilItOpens(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	c.started(t)
	n.hub.Close(dberr.New(dberr.NotLeader, "n2 leads"))
	if e := c.next(t).GetEnded(); e.GetCode() != string(dberr.NotLeader) {
		t.Fatalf("got %v", e)
	}
	c.add(1, userTable, "alice", 0)
	if e := c.next(t).GetEnded(); e.GetCode() != string(dberr.NotLeader) {
		t.Fatalf("got %v", e)
	}
	n.hub.Open(base)
	c.add(1, userTable, "alice", 0)
	c.started(t)
}

func TestRemovedWatchIsSilent(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	c.started(t)
	c.requests <- &storagev1.WatchRequest{Request: &storagev1.WatchRequest_Remove{Remove: 1}}
	c.add(2, sharedTable, "", 0) // answered after the removal
	c.started(t)
	if n.hub.Watched(userTable, "alice") {
		t.Fatal("still registered")
	}
	n.write(userTable, "alice", 1)
	n.write(sharedTable, "", 1)
	if e := c.next(t).GetChanges(); e.GetWatchId() != 2 {
		t.Fatalf("got %v", e)
	}
}

func TestPrunedPositionIsGone(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 2)
	n.hour()
	if pruned, err := changelog.Prune(n.db, shard, 1); err != nil || !pruned {
		t.Fatalf("%v, %v", pruned, err)
	}
	c := connect(t, n)
	c.add(1, userTable, "alice", base+1)
	if e := c.next(t).GetEnded(); e.GetCode() != string(dberr.PositionGone) {
		t.Fatalf("got %v", e)
	}
}

// A reader that stands still while more comes than its queue holds goes on from the log.
func TestSlowReaderMissesNothing(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	c.started(t)
	const writes, rows = 50, 100
	for range writes {
		n.write(userTable, "alice", rows)
	}
	checkRun(t, c.follow(t, base+writes*rows), base, base+writes*rows)
}

// What is published while a watch reads history is in both.
func TestPublishedWhileReadingHistory(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 2)
	n.beforeRead = sync.OnceFunc(func() { n.write(userTable, "alice", 3) })
	c := connect(t, n)
	c.add(1, userTable, "alice", base+1)
	c.started(t)
	checkRun(t, c.follow(t, base+5), base+1, base+5)
	n.write(userTable, "alice", 1)
	checkRun(t, c.follow(t, base+6), base+5, base+6)
}

// The same with more history than one read gives: the queue then begins after a gap.
func TestPublishedWhileReadingAPieceOfHistory(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 20)
	n.pieces = 3
	n.beforeRead = sync.OnceFunc(func() { n.write(userTable, "alice", 2) })
	c := connect(t, n)
	c.add(1, userTable, "alice", base+1)
	c.started(t)
	checkRun(t, c.follow(t, base+22), base+1, base+22)
}

// A watch that is behind holds its shard's Progress back.
func TestProgressWaitsForHistory(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 20)
	n.pieces = 3
	c := connect(t, n)
	c.add(1, userTable, "alice", base+1)
	var sent uint64
	for {
		e := <-c.events
		for _, ch := range e.GetChanges().GetChanges() {
			sent = ch.GetSeq()
		}
		if p := e.GetProgress(); p != nil && p.GetPosition() >= base+20 {
			if sent != base+20 {
				t.Fatalf("progress %d after change %d", p.GetPosition(), sent)
			}
			return
		}
	}
}

// Progress says a position only when everything up to it was sent, also when the partition is quiet.
func TestProgressFollowsTheChanges(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	c.started(t) // from here on changes are sent
	const rounds = 20
	go func() {
		for range rounds {
			n.write(userTable, "alice", 3)
			n.write(userTable, "bob", 2)
		}
	}()
	var sent, progress uint64
	for progress < base+rounds*5 {
		select {
		case e := <-c.events:
			for _, ch := range e.GetChanges().GetChanges() {
				if ch.GetSeq() <= progress {
					t.Fatalf("change %d after progress %d", ch.GetSeq(), progress)
				}
				sent = ch.GetSeq()
			}
			if p := e.GetProgress(); p != nil {
				if p.GetShard() != shard || p.GetPosition() < progress {
					t.Fatalf("progress fell from %d to %v", progress, p)
				}
				progress = p.GetPosition()
			}
		case <-c.ctx.Done():
			t.Fatal("the stream ended")
		}
	}
	if sent == 0 {
		t.Fatal("no changes")
	}
}
