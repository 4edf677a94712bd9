package live

import (
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// A message that waits names who was subscribed when it was made, whoever leaves meanwhile.
func TestLeavingDoesNotRenameWaitingMessages(t *testing.T) {
	w := newWorld(t, Config{})
	g, other := w.gateway(), w.gateway()
	var all []*client
	for range 4 {
		c := g.subscribe("alice")
		c.waitSubscribed()
		all = append(all, c)
	}
	probe := other.subscribe("alice")
	probe.waitSubscribed()
	thaw := g.freeze()
	var want []uint64
	for i := range 20 {
		want = append(want, w.put("alice", int64(i), "a", "x"))
		probe.waitChanged()
	}
	all[0].unsubscribe()
	for w.live.hub.Stats().Subscriptions != 4 {
		w.storage.Position()
	}
	thaw()
	want = append(want, w.put("alice", 100, "a", "x"))
	for _, c := range all[1:] {
		for _, seq := range want {
			if ch := c.waitChanged(); ch.GetSeq() != seq {
				t.Fatalf("subscription %d got %v, want %d", c.id, ch, seq)
			}
		}
	}
}

func TestSlowGatewayLagsAlone(t *testing.T) {
	w := newWorld(t, Config{QueueMessages: 64})
	slow, fast := w.gateway(), w.gateway()
	a, idle, b := slow.subscribe("alice"), slow.subscribe("bob"), fast.subscribe("alice")
	for _, c := range []*client{a, idle, b} {
		c.waitSubscribed()
	}
	thaw := slow.freeze()
	var want []uint64
	for i := range 1000 {
		want = append(want, w.put("alice", int64(i), "a", strings.Repeat("x", 100)))
		if ch := b.waitChanged(); ch.GetSeq() != want[i] {
			t.Fatalf("the fast gateway got %v", ch)
		}
	}
	if st := w.live.hub.Stats(); st.QueueMessages > 80 {
		t.Fatalf("%d messages wait", st.QueueMessages)
	}
	thaw()
	i := 0
	var e *livev1.Ended
	for e == nil {
		m := a.next()
		if e = m.GetEnded(); e == nil {
			if m.GetChanged().GetSeq() != want[i] {
				t.Fatalf("got %v, want %d", m, want[i])
			}
			i++
		}
	}
	if e.GetCode() != string(dberr.Lagged) || i == len(want) || e.GetPosition() < want[i]-1 && i > 0 || e.GetPosition() >= want[i] {
		t.Fatalf("after %d changes: %v, next would have been %d", i, e, want[i])
	}
	// Nothing waited for bob, so he goes on.
	seq := w.put("bob", 1, "a", "x")
	if ch := idle.waitChanged(); ch.GetSeq() != seq {
		t.Fatalf("%v", ch)
	}
	// Resuming delivers the rest, though it is more than the queue holds.
	again := slow.subscribe("alice", withFrom(e.GetPosition()))
	again.waitSubscribed()
	for ; i < len(want); i++ {
		if ch := again.waitChanged(); ch.GetSeq() != want[i] {
			t.Fatalf("got %v, want %d", ch, want[i])
		}
	}
	if n := w.live.hub.Counts().Lagged.Load(); n != 1 {
		t.Fatalf("%d subscriptions lagged", n)
	}
}

func TestPushedSnapshotWaitsForRoom(t *testing.T) {
	w := newWorld(t, Config{QueueMessages: 8, PageRows: 50})
	for i := range 2000 {
		w.put("alice", int64(i), "a", "x")
	}
	g := w.gateway()
	thaw := g.freeze()
	c := g.subscribe("alice", withSnapshot, withPush, withBatch(10))
	// The queue is half full at most, however long nobody reads.
	for w.live.hub.Stats().QueueMessages < 4 {
		w.storage.Position()
	}
	thaw()
	c.waitSubscribed()
	rows := 0
	for more := true; more; {
		r := c.waitRows()
		rows += int(r.GetRowCount())
		more = r.GetHasMore()
	}
	if rows != 2000 || w.live.hub.Counts().Lagged.Load() != 0 {
		t.Fatalf("%d rows, %d lagged", rows, w.live.hub.Counts().Lagged.Load())
	}
}
