package shard

import (
	"testing"
	"time"
)

// forget runs with time far behind or before what was deleted.
func (n *node) forget() uint64 {
	n.t.Helper()
	count, err := n.shard.Forget(n.t.Context(), holdNothing)
	if err != nil {
		n.t.Fatal(err)
	}
	return count
}

// Deleted rows go when their time is over, from both tiers, and nothing else does.
func TestDeletedRowsAreForgotten(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	n := openNode(t, nodeOptions{now: func() time.Time { return at }})
	defer n.stop()
	drop := func(user string, ids ...int) {
		t.Helper()
		for _, id := range ids {
			seq := n.mustWrite(user, insert(message(id, "x", nil))).GetResults()[0].GetSeqs()[0]
			n.mustWrite(user, remove(seq, message(id, "x", nil)))
		}
	}
	drop("cold", 1, 2)
	n.mustWrite("cold", insert(message(3, "stays", nil)))
	alive := n.mustWrite("both", insert(message(1, "in a segment", nil))).GetResults()[0].GetSeqs()[0]
	n.flush()
	drop("hot", 1, 2, 3)
	n.mustWrite("hot", insert(message(4, "stays", nil)))
	n.mustWrite("both", remove(alive, message(1, "in a segment", nil)))
	if c := n.forget(); c != 0 || len(n.allRows()) != 8 {
		t.Fatalf("%d versions went too early, %d rows are left", c, len(n.allRows()))
	}
	at = at.Add(deletedRetentionDefault + time.Hour)
	drop("late", 1)
	if c := n.forget(); c != 5 {
		t.Errorf("%d versions went", c)
	}
	left := n.allRows()
	for _, key := range []string{"cold/3", "hot/4", "both/1", "late/1"} {
		if _, ok := left[key]; !ok {
			t.Errorf("%s is gone", key)
		}
	}
	if len(left) != 4 || !left["both/1"].Deleted {
		t.Errorf("%v", left)
	}
	// What hides a row in a segment goes with it.
	n.flush()
	if c := n.forget(); c != 2 {
		t.Errorf("%d versions went, of the row and of its tombstone", c)
	}
	if left = n.allRows(); len(left) != 3 {
		t.Errorf("%v", left)
	}
	if c := n.forget(); c != 0 {
		t.Errorf("%d versions went again", c)
	}
}

// A row that was written again since its tombstone was collected stays: apply looks.
func TestARowThatCameBackIsNotForgotten(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	n := openNode(t, nodeOptions{now: func() time.Time { return at }})
	defer n.stop()
	seq := n.mustWrite("ann", insert(message(1, "x", nil))).GetResults()[0].GetSeqs()[0]
	n.mustWrite("ann", remove(seq, message(1, "x", nil)))
	at = at.Add(deletedRetentionDefault + time.Hour)
	f := n.shard.newForgetter(n.shard.term.Load(), tables()[messagesID])
	n.mustWrite("ann", insert(message(1, "again", nil)))
	if err := f.walk(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.snap.Close(); err != nil {
		t.Fatal(err)
	}
	if v, ok := n.allRows()["ann/1"]; !ok || v.Deleted || f.count != 1 {
		t.Errorf("%v %v, %d collected", v, ok, f.count)
	}
}
