package shard

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
)

// Raft counts an entry as applied that the shard refused: a snapshot then would make the next start skip it.
func TestNoSnapshotBehindAnEntryThatWasNotApplied(t *testing.T) {
	fs := vfs.NewMem()
	settings := raftgroup.Settings{TrailingLogs: 1}
	n := openNode(t, nodeOptions{fs: fs, settings: settings})
	n.mustWrite("ann", insert(message(1, "a", nil)))
	n.group.Propose([]byte{99})
	n.group.Propose([]byte{99})
	<-n.failed
	if err := n.group.Snapshot(t.Context()); err == nil {
		t.Error("a snapshot was taken")
	}
	if at, applied := n.group.Stats().SnapshotAt, n.shard.Applied(); at > applied {
		t.Errorf("a snapshot at %d, applied up to %d", at, applied)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := n.group.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.shard.Close(ctx); err != nil {
		t.Fatal(err)
	}
	n.mux.Close()
	if err := n.log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.hot.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := n.hot.Close(); err != nil {
		t.Fatal(err)
	}

	m := openNode(t, nodeOptions{fs: fs, settings: settings, joining: true})
	defer m.stop()
	select {
	case <-m.failed: // the entry is met again
	case <-ctx.Done():
		t.Error("the next start skipped the entry")
	}
}

func TestNothingIsDurableOnceTheDiskFailed(t *testing.T) {
	n := bare(t, vfs.NewMem())
	n.fail(dberr.New(dberr.Unavailable, "the disk is full"))
	if err := n.shard.MakeDurable(0); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("MakeDurable: %v", err)
	}
}

// A restore that ends in the middle leaves a shard that is neither old nor new.
func TestARestoreThatFailsStopsTheNode(t *testing.T) {
	from, to := bare(t, vfs.NewMem()), bare(t, vfs.NewMem())
	for i := range uint64(20) {
		from.shard.Apply([]*raft.Log{entryOf(i+1, 3, int(i), "x")})
	}
	var whole bytes.Buffer
	if err := from.shard.WriteSnapshot(&whole); err != nil {
		t.Fatal(err)
	}
	if err := to.shard.Restore(bytes.NewReader(whole.Bytes()[:whole.Len()/2])); err == nil {
		t.Fatal("half of a snapshot was restored")
	}
	select {
	case <-to.failed:
	default:
		t.Error("the node goes on")
	}
	got := to.shard.Apply([]*raft.Log{entryOf(1, 3, 1, "x")})
	if err, _ := got[0].(error); !dberr.Is(err, dberr.Unavailable) || len(to.rows()) != 0 {
		t.Errorf("an entry afterwards: %v, %d rows", got[0], len(to.rows()))
	}
	if err := to.shard.MakeDurable(0); err == nil {
		t.Error("the torn state is durable")
	}
}
