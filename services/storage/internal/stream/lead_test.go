package stream_test

import (
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// What another leader wrote meanwhile is not here, and what is written here would be lost.
func TestNothingIsServedBetweenTwoLeaderships(t *testing.T) {
	n := newNode(t, 0)
	n.insert(plain, "ann", 1)
	n.store.Reset()
	if _, _, err := n.store.Rows(n.tables[plain], "ann"); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("a scan: %v", err)
	}
	if _, err := n.try(plain, "ann", storagev1.Operation_OPERATION_INSERT, 2); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("a write: %v", err)
	}
	if _, _, err := n.store.Read(plain, "ann", n.store.Position()); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("history: %v", err)
	}
	n.store.Lead()
	n.wantIDs(plain, "ann")
	n.insert(plain, "ann", 3)
	n.wantIDs(plain, "ann", 3)
}

// Watches are told the shard's position, which other tables move: it is one to go on from, also in a table of
// which nothing is kept while nobody watches.
func TestHistoryReadsOnFromThePositionOfTheShard(t *testing.T) {
	n := newNode(t, 0)
	n.insert(plain, "ann", 1)
	shardAt := n.seqs.Next()
	n.applied.Store(shardAt)
	for _, table := range []uint32{plain, ephemeral} {
		if got, _, err := n.store.Read(table, "ann", shardAt); err != nil || len(got) != 0 {
			t.Errorf("table %d after %d: %d changes, %v", table, shardAt, len(got), err)
		}
	}
	if at := n.store.Position(); at != shardAt {
		t.Errorf("position %d, the shard is at %d", at, shardAt)
	}
	later := n.seqs.Next()
	n.applied.Store(later)
	for _, table := range []uint32{plain, ephemeral} {
		if _, _, err := n.store.Read(table, "ann", shardAt); err != nil {
			t.Errorf("table %d after %d, nothing was written in it since: %v", table, shardAt, err)
		}
	}
	seqs := n.insert(plain, "ann", 2)
	if got, _, err := n.store.Read(plain, "ann", shardAt); err != nil || len(got) != 1 || got[0].GetSeq() != seqs[0] {
		t.Errorf("after %d: %v, %v; want %d", shardAt, got, err, seqs[0])
	}
	if _, _, err := n.store.Read(plain, "ann", seqs[0]+1); !dberr.Is(err, dberr.PositionGone) {
		t.Errorf("ahead of the shard: %v", err)
	}
}
