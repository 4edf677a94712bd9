package shard

import (
	"sync/atomic"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// closing is a catalog in which one user's account can be closed.
type closing struct{ job atomic.Pointer[string] }

func (c *closing) close(job string) { c.job.Store(&job) }

func (c *closing) erasing(user string) string {
	if job := c.job.Load(); job != nil && user == "ann" {
		return *job
	}
	return ""
}

func openClosing(t *testing.T) (*node, *closing) {
	t.Helper()
	c := &closing{}
	n := openNode(t, nodeOptions{})
	n.shard.cfg.Erasing = c.erasing
	return n, c
}

func TestEraseTakesAllOfOneUser(t *testing.T) {
	n, c := openClosing(t)
	for _, user := range []string{"ann", "anna", "an", "bob"} {
		for id := range 5 {
			n.mustWrite(user, insert(message(int64(id+1), "body", user+string(rune('a'+id)))))
		}
	}
	n.flush()
	for _, user := range []string{"ann", "bob"} {
		n.mustWrite(user, insert(message(int64(9), "hot", "tag")))
	}
	before, err := n.shard.Survey(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	if ts := before.GetTables(); len(ts) != 1 || ts[0].GetHotRows() != 1 || ts[0].GetUniqueEntries() != 6 || ts[0].GetChanges() != 6 ||
		ts[0].GetSegments() != 1 || ts[0].GetSegmentRows() != 5 || before.GetFilesTotal() != 1 {
		t.Errorf("ann has %v", before)
	}
	if _, err := n.shard.EraseUser(t.Context(), "ann", "ER-1"); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("an account that is open: %v", err)
	}
	c.close("ER-1")
	if _, err := n.write("ann", insert(message(int64(10), "late", nil))); !dberr.Is(err, dberr.UserNotFound) {
		t.Errorf("a write behind it: %v", err)
	}
	if _, err := n.shard.EraseUser(t.Context(), "ann", "ER-2"); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("another job: %v", err)
	}
	if index, err := n.shard.EraseUser(t.Context(), "ann", "ER-1"); err != nil || index == 0 {
		t.Fatalf("entry %d, %v", index, err)
	}
	if after, err := n.shard.Survey(t.Context(), "ann"); err != nil || len(after.GetTables()) != 0 {
		t.Errorf("ann still has %v, %v", after, err)
	}
	for user, want := range map[string]uint64{"anna": 5, "an": 5, "bob": 6} {
		s, err := n.shard.Survey(t.Context(), user)
		if err != nil || len(s.GetTables()) != 1 || s.GetTables()[0].GetUniqueEntries() != want || s.GetTables()[0].GetSegments() != 1 {
			t.Errorf("%s has %v, %v", user, s, err)
		}
	}
	n.mustWrite("bob", insert(message(int64(11), "goes on", nil)))
}

// What was decided before the account was closed, and gets its place in the log behind that, is refused there.
func TestWhatWasDecidedBeforeIsNotLogged(t *testing.T) {
	n, c := openClosing(t)
	c.close("ER-1")
	for _, cmd := range []*command.Command{{Kind: command.Write, User: "ann"}, {Kind: command.Segments, User: "ann", Table: messagesID}} {
		pend, err := n.shard.admit(t.Context(), &plan{})
		if err != nil {
			t.Fatal(err)
		}
		cmd.Term = n.shard.term.Load()
		if err := n.shard.log(pend, cmd, nil); !dberr.Is(err, dberr.UserNotFound) {
			t.Errorf("kind %d: %v", cmd.Kind, err)
		}
	}
}

// One user who is erased keeps nobody else's rows from being flushed.
func TestAFlushGoesOnBesideAnErasure(t *testing.T) {
	n, c := openClosing(t)
	for _, user := range []string{"ann", "bob", "cy"} {
		n.mustWrite(user, insert(message(int64(1), "body", nil)))
	}
	c.close("ER-1") // and Erase is not logged yet
	if f := n.flush(); f.Rows != 2 {
		t.Errorf("%d rows were flushed", f.Rows)
	}
	seen := 0
	if err := manifest.EachOf(n.shard.cfg.DB, n.shard.cfg.ID, func(e manifest.Entry) error {
		if seen++; e.User == "ann" {
			t.Error("ann has a segment")
		}
		return nil
	}); err != nil || seen != 2 {
		t.Errorf("%d segments, %v", seen, err)
	}
}
