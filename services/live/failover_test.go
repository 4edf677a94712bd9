package live

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// As TestCopiesEqualTheTable, while the leader changes at random and the former one may not notice.
func TestCopiesEqualTheTableUnderFailover(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { copiesEqualTheTable(t, seed+100, "a", "b", "c") })
	}
}

func TestSubscriptionFollowsTheLeader(t *testing.T) {
	w := newWorldOn(t, Config{}, "a", "b")
	c := w.gateway().subscribe("ann")
	c.waitSubscribed()
	for i, leader := range []string{"b", "a", "b"} {
		w.storage.Lead(leader, false)
		want := w.put("ann", int64(i), "r", "x")
		if ch := c.waitChanged(); ch.GetSeq() != want {
			t.Fatalf("led by %s: %v instead of %d", leader, ch, want)
		}
	}
}

// The former leader stops answering for the shard between two pages.
func TestPagesAreReadOnAtTheNewLeader(t *testing.T) {
	w := newWorldOn(t, Config{PageRows: 4}, "a", "b")
	const rows = 10
	for i := range int64(rows) {
		w.put("ann", i, "r", fmt.Sprint(i))
	}
	next := map[string]string{"a": "b", "b": "a"}
	leader := "a"
	var scans atomic.Int64
	w.storage.BeforeScan(func() {
		if scans.Add(1)%2 == 0 { // every other attempt meets one that has just lost it
			leader = next[leader]
			w.storage.Lead(leader, false)
		}
	})
	c := w.gateway().subscribe("ann", withSnapshot, withBatch(2), withPush)
	c.waitSubscribed()
	w.put("ann", 3, "r", "changed") // perhaps before its page was read
	for more := true; more; {
		r := c.waitRows()
		more = r.GetHasMore()
		if err := c.apply(wrapRows(r), true); err != nil {
			t.Fatal(err)
		}
	}
	last := w.put("ann", 99, "r", "last")
	for c.seq < last {
		if err := c.apply(c.next(), true); err != nil {
			t.Fatal(err)
		}
	}
	if err := sameRows(c.rows, w.truth("ann", anyRoom)); err != nil {
		t.Error(err)
	}
	if n := scans.Load(); n < 5 { // three pages, and those that were read again
		t.Errorf("only %d scans", n)
	}
}

func TestNoLeaderForAWhile(t *testing.T) {
	w := newWorldOn(t, Config{}, "a", "b")
	c := w.gateway().subscribe("ann")
	c.waitSubscribed()
	w.storage.Lead("", false)
	w.storage.Node("a").Stop()
	w.storage.Node("b").Stop()
	want := w.put("ann", 1, "r", "x")
	if err := w.storage.Node("b").Start(); err != nil {
		t.Fatal(err)
	}
	w.storage.Lead("b", false)
	if ch := c.waitChanged(); ch.GetSeq() != want {
		t.Fatalf("%v instead of %d", ch, want)
	}
}

// The catalog says that this node drains: subscriptions end where they are, new ones are refused, until it is
// taken back.
func TestDrain(t *testing.T) {
	w := newWorldOn(t, Config{ServerID: "live-1", DrainTime: config.Duration(50 * time.Millisecond)}, "a", "b")
	g := w.gateway()
	var subs []*client
	for i := range 20 {
		c := g.subscribe(fmt.Sprint("u", i))
		c.waitSubscribed()
		subs = append(subs, c)
	}
	seq := w.put("u7", 1, "r", "x")
	subs[7].waitChanged()
	self := func(status catalogv1.NodeStatus) {
		w.storage.SetNode(&catalogv1.Node{NodeId: 9, ServerId: "live-1", Role: "live", Status: status})
	}
	self(catalogv1.NodeStatus_NODE_STATUS_ACTIVE)
	self(catalogv1.NodeStatus_NODE_STATUS_DRAINING)
	for i, c := range subs {
		e := c.waitEnded()
		if e.GetCode() != string(dberr.Unavailable) || e.GetPosition() == 0 || (i == 7 && e.GetPosition() < seq) {
			t.Errorf("subscription %d ended with %v", i, e)
		}
	}
	if e := g.subscribe("late").waitEnded(); e.GetCode() != string(dberr.Unavailable) {
		t.Errorf("a new subscription: %v", e)
	}
	self(catalogv1.NodeStatus_NODE_STATUS_ACTIVE)
	for { // the catalog's word takes a moment
		if m := g.subscribe("later").next(); m.GetSubscribed() != nil {
			return
		}
	}
}

func wrapRows(r *livev1.InitialRows) *livev1.ConnectResponse {
	return &livev1.ConnectResponse{Event: &livev1.ConnectResponse_InitialRows{InitialRows: r}}
}
