package live

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

func TestPagesAskedForOneByOne(t *testing.T) {
	w := newWorld(t, Config{PageRows: 1000})
	for i := range 2500 {
		w.put("alice", int64(i), "a", "old")
	}
	at := w.storage.Position()
	c := w.gateway().subscribe("alice", withSnapshot)
	if s := c.waitSubscribed(); s.GetPosition() != at {
		t.Fatalf("%v", s)
	}
	first := c.waitRows()
	if first.GetRowCount() != 1000 || !first.GetHasMore() || first.GetBatchNum() != 0 {
		t.Fatalf("%v", first)
	}
	// Row 10 was sent, rows 1500 and 1600 were not: they must come as if they had never been.
	sentUpdate := w.put("alice", 10, "a", "new")
	unsentUpdate := w.put("alice", 1500, "a", "new")
	unsentDelete := w.storage.Delete(messages, "alice", 1600)
	unsentTwice := w.put("alice", 1500, "a", "newer")
	sentDelete := w.storage.Delete(messages, "alice", 20)
	rows := int(first.GetRowCount())
	for num := uint32(1); ; num++ {
		c.nextBatch()
		r := c.waitRows()
		rows += int(r.GetRowCount())
		if r.GetBatchNum() != num {
			t.Fatalf("%v", r)
		}
		if got := decodeRows(r.GetRows()); got[1500] != "" || got[1600] != "" {
			t.Fatal("a row that changed after the snapshot is in it")
		}
		if !r.GetHasMore() {
			break
		}
	}
	if rows != 2498 {
		t.Fatalf("%d rows", rows)
	}
	for _, want := range []struct {
		seq  uint64
		kind livev1.Kind
	}{
		{sentUpdate, livev1.Kind_KIND_UPDATE}, {unsentUpdate, livev1.Kind_KIND_INSERT},
		{unsentTwice, livev1.Kind_KIND_UPDATE}, {sentDelete, livev1.Kind_KIND_DELETE},
	} {
		if ch := c.waitChanged(); ch.GetSeq() != want.seq || ch.GetKind() != want.kind {
			t.Fatalf("got %v, want %s %d (the deletion %d means nothing)", ch, want.kind, want.seq, unsentDelete)
		}
	}
}

// A client that asks before it got the batch is answered once for each.
func TestNextBatchAskedEarly(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 30 {
		w.put("alice", int64(i), "a", "x")
	}
	c := w.gateway().subscribe("alice", withSnapshot, withBatch(10))
	c.nextBatch()
	c.waitSubscribed()
	c.waitRows()
	c.nextBatch()
	c.nextBatch()
	for more := true; more; {
		r := c.waitRows()
		if more = r.GetHasMore(); more {
			c.nextBatch()
		}
	}
}

func TestBufferGivenUp(t *testing.T) {
	w := newWorld(t, Config{BufferRows: 5})
	for i := range 20 {
		w.put("alice", int64(i), "a", "old")
	}
	c := w.gateway().subscribe("alice", withSnapshot, withBatch(10))
	c.waitSubscribed()
	c.waitRows()
	var want []uint64
	for i := range 200 {
		want = append(want, w.put("alice", int64(i%40), "a", fmt.Sprint(i)))
	}
	// A second subscription of the partition is live, so the changes have been dispatched.
	probe := c.g.subscribe("alice")
	probe.waitSubscribed()
	want = append(want, w.put("alice", 1000, "a", "x"))
	probe.waitChanged()
	c.nextBatch()
	if r := c.waitRows(); r.GetHasMore() {
		t.Fatalf("%v", r)
	}
	for i, seq := range want {
		if ch := c.waitChanged(); ch.GetSeq() != seq {
			t.Fatalf("change %d: got %v, want %d", i, ch, seq)
		}
	}
	seq := w.put("alice", 1001, "a", "live again")
	if ch := c.waitChanged(); ch.GetSeq() != seq {
		t.Fatalf("%v", ch)
	}
	if n := w.live.hub.Counts().Reread.Load(); n != 1 {
		t.Fatalf("read again %d times", n)
	}
}

func TestHistoryGoneAfterTheBufferWasGivenUp(t *testing.T) {
	w := newWorld(t, Config{BufferRows: 1})
	for i := range 20 {
		w.put("alice", int64(i), "a", "old")
	}
	g := w.gateway()
	c, probe := g.subscribe("alice", withSnapshot, withBatch(10)), g.subscribe("alice")
	c.waitSubscribed()
	c.waitRows()
	probe.waitSubscribed()
	for i := range 10 {
		w.put("alice", int64(i), "a", "new")
		probe.waitChanged()
	}
	w.storage.Prune(messages, "alice")
	c.nextBatch()
	c.waitRows()
	if e := c.waitEnded(); e.GetCode() != string(dberr.Lagged) {
		t.Fatalf("%v", e)
	}
}

// The snapshot is ahead of the watch: what it holds must not come again as a change.
func TestSnapshotAheadOfTheWatch(t *testing.T) {
	w := newWorld(t, Config{})
	w.put("alice", 1, "a", "one")
	g := w.gateway()
	probe := g.subscribe("alice")
	probe.waitSubscribed()
	release := w.storage.Hold()
	w.put("alice", 1, "a", "uno")
	inSnapshot := w.put("alice", 2, "a", "two")
	c := g.subscribe("alice", withSnapshot)
	if s := c.waitSubscribed(); s.GetPosition() != inSnapshot {
		t.Fatalf("%v", s)
	}
	if r := c.waitRows(); r.GetRowCount() != 2 || r.GetHasMore() {
		t.Fatalf("%v", r)
	}
	seq := w.put("alice", 3, "a", "three")
	release()
	if ch := c.waitChanged(); ch.GetSeq() != seq {
		t.Fatalf("got %v, want %d", ch, seq)
	}
	for range 3 {
		probe.waitChanged()
	}
}

// Changes between the registration and the scan are in the buffer and in the snapshot.
func TestChangeBetweenRegistrationAndScan(t *testing.T) {
	w := newWorld(t, Config{})
	g := w.gateway()
	probe := g.subscribe("alice")
	probe.waitSubscribed()
	var once sync.Once
	w.storage.BeforeScan(func() {
		once.Do(func() {
			w.put("alice", 1, "a", "one")
			w.put("alice", 1, "a", "uno")
			probe.waitChanged() // the subscription registered before this scan, so it has them too
			probe.waitChanged()
		})
	})
	c := g.subscribe("alice", withSnapshot)
	c.waitSubscribed()
	if r := c.waitRows(); r.GetRowCount() != 1 || r.GetHasMore() {
		t.Fatalf("%v", r)
	}
	seq := w.put("alice", 2, "a", "two")
	if ch := c.waitChanged(); ch.GetSeq() != seq {
		t.Fatalf("%v", ch)
	}
}

// A page is read ahead of the watch, so the changes it has seen arrive after the snapshot.
func TestLaterPageAheadOfTheWatch(t *testing.T) {
	w := newWorld(t, Config{PageRows: 10})
	for i := range 20 {
		w.put("alice", int64(i), "a", "old")
	}
	g := w.gateway()
	probe := g.subscribe("alice")
	probe.waitSubscribed()
	c := g.subscribe("alice", withSnapshot, withBatch(10))
	c.waitSubscribed()
	c.waitRows()
	release := w.storage.Hold()
	unsent := w.put("alice", 15, "a", "new")
	w.storage.Delete(messages, "alice", 16)
	sent := w.put("alice", 5, "a", "new")
	c.nextBatch()
	if r := c.waitRows(); r.GetRowCount() != 8 || r.GetHasMore() {
		t.Fatalf("%v", r)
	}
	release()
	if ch := c.waitChanged(); ch.GetSeq() != unsent || ch.GetKind() != livev1.Kind_KIND_INSERT {
		t.Fatalf("%v", ch)
	}
	if ch := c.waitChanged(); ch.GetSeq() != sent || ch.GetKind() != livev1.Kind_KIND_UPDATE {
		t.Fatalf("%v", ch)
	}
}

// A scan that is behind the watch: the changes between are in neither rows nor buffer.
func TestSnapshotBehindTheWatch(t *testing.T) {
	w := newWorld(t, Config{})
	w.put("alice", 1, "a", "one")
	g := w.gateway()
	probe := g.subscribe("alice")
	probe.waitSubscribed()
	thaw := w.storage.FreezeScans()
	missing := w.put("alice", 2, "a", "two")
	probe.waitChanged()
	c := g.subscribe("alice", withSnapshot)
	if s := c.waitSubscribed(); s.GetPosition() != missing-1 {
		t.Fatalf("%v", s)
	}
	if r := c.waitRows(); r.GetRowCount() != 1 || r.GetHasMore() {
		t.Fatalf("%v", r)
	}
	thaw()
	if ch := c.waitChanged(); ch.GetSeq() != missing {
		t.Fatalf("%v", ch)
	}
}

func TestRowsTooLargeToOrder(t *testing.T) {
	w := newWorld(t, Config{PageRows: 1000})
	w.storage.LimitScans(20)
	for i := range 50 {
		w.put("alice", int64(i), "a", "x")
	}
	g := w.gateway()
	c := g.subscribe("alice", withSnapshot, withPush)
	c.waitSubscribed()
	rows := 0
	for more := true; more; {
		r := c.waitRows()
		rows += int(r.GetRowCount())
		more = r.GetHasMore()
	}
	if rows != 50 {
		t.Fatalf("%d rows", rows)
	}
	w.storage.LimitScans(1)
	if e := g.subscribe("alice", withSnapshot).waitEnded(); e.GetCode() != string(dberr.LimitExceeded) {
		t.Fatalf("%v", e)
	}
}

// The newest rows are more than a page may hold: the rest is read by further pages.
func TestLastRowsOfLargeRows(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 500 {
		w.put("alice", int64(i), "a", strings.Repeat("x", 10_000))
	}
	c := w.gateway().subscribe("alice", withSnapshot, withLast(300), withPush)
	c.waitSubscribed()
	next := int64(200)
	for more := true; more; {
		r := c.waitRows()
		more = r.GetHasMore()
		got := decodeRows(r.GetRows())
		for range got {
			if _, ok := got[next]; !ok {
				t.Fatalf("row %d is missing", next)
			}
			next++
		}
		if len(r.GetRows()) > 2<<20 {
			t.Fatalf("a batch of %d bytes", len(r.GetRows()))
		}
	}
	if next != 500 {
		t.Fatalf("ended before row %d", next)
	}
}
