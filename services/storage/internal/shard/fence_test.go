package shard

import (
	"testing"

	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// A repetition that finds nothing to write asks with a fence: it is answered as the attempt that wrote, and
// when there was none, an attempt that comes later writes nothing.
func TestAFence(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	write := func(id uint64, w *storagev1.TableWrite, fence bool) *storagev1.WriteResponse {
		t.Helper()
		req := numbered(id, request("ann", w))
		req.Fence = fence
		resp, err := n.shard.Write(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	nothing := func() *storagev1.TableWrite { return insert() }
	done := write(1, insert(message(1, "one", nil)), false)
	if again := write(1, nothing(), true); again.GetResults()[0].GetRowsAffected() != 1 || again.GetPosition() != done.GetPosition() {
		t.Errorf("after a write: %v", again)
	}
	if fenced := write(2, nothing(), true); fenced.GetResults()[0].GetRowsAffected() != 0 {
		t.Errorf("a fence wrote: %v", fenced)
	}
	before := n.dump()
	if late := write(2, insert(message(2, "late", nil)), false); late.GetResults()[0].GetRowsAffected() != 0 {
		t.Errorf("behind a fence: %v", late)
	}
	if n.dump() != before {
		t.Error("an attempt behind its fence changed the state")
	}
	// Without a fence nothing is remembered: the next attempt may write.
	write(3, nothing(), false)
	if next := write(3, insert(message(3, "three", nil)), false); next.GetResults()[0].GetRowsAffected() != 1 {
		t.Errorf("without a fence: %v", next)
	}
}
