package shard

import (
	"context"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

func (n *node) segments() []manifest.Entry {
	n.t.Helper()
	list, err := manifest.ReadTable(n.hot, 0, messagesID)
	if err != nil {
		n.t.Fatal(err)
	}
	return list
}

// A row that was deleted does not come back, whatever is merged with what, and goes for good when nothing older is left and its
// time is over.
func TestDeletedRowsStayDeleted(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	n := openNode(t, nodeOptions{now: func() time.Time { return at }})
	defer n.stop()
	first := n.mustWrite("ann", insert(message(1, "a", nil), message(2, "b", nil)))
	n.flush()
	n.mustWrite("ann", remove(first.GetResults()[0].GetSeqs()[0], message(1, "a", nil)))
	n.flush()
	at = at.Add(30 * 24 * time.Hour)
	for id := 3; id <= 4; id++ {
		n.mustWrite("ann", insert(message(id, "c", nil)))
		n.flush()
	}
	dead := func() bool {
		v, ok := n.allRows()["ann/1"]
		return ok && v.Deleted
	}
	if len(n.segments()) != 4 || !dead() {
		t.Fatalf("%d segments, deleted %v", len(n.segments()), dead())
	}
	// Without the oldest segment, where the row is alive, its tombstone has to stay.
	p := n.segments()
	m, err := n.merging().segments(context.Background(), partitionOf("ann"), p, p[1:], 1)
	if err != nil || m.Removed != 3 || m.Added != 1 || m.Dropped != 0 || !dead() {
		t.Fatalf("%+v, %v; deleted %v", m, err, dead())
	}
	m = n.merge(true)
	if m.Removed != 2 || m.Added != 1 || m.Dropped != 2 {
		t.Errorf("%+v", m)
	}
	if rows := n.allRows(); len(rows) != 3 {
		t.Errorf("%v", rows)
	}
	if m := n.merge(true); m.Removed != 0 {
		t.Errorf("merged again for nothing: %+v", m)
	}
}

func TestTombstonesAreKeptForTheirTime(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	n := openNode(t, nodeOptions{now: func() time.Time { return at }})
	defer n.stop()
	first := n.mustWrite("ann", insert(message(1, "a", nil)))
	n.mustWrite("ann", remove(first.GetResults()[0].GetSeqs()[0], message(1, "a", nil)))
	n.flush()
	at = at.Add(deletedRetentionDefault - time.Minute)
	if m := n.merge(true); m.Removed != 0 {
		t.Errorf("merged what comes out as it is: %+v", m)
	}
	if v, ok := n.allRows()["ann/1"]; !ok || !v.Deleted {
		t.Fatal("gone too early")
	}
	at = at.Add(2 * time.Minute)
	if m := n.merge(true); m.Dropped != 1 || m.Added != 0 || len(n.segments()) != 0 {
		t.Errorf("%+v, %d segments", m, len(n.segments()))
	}
}

// Several segments that one merge wrote are left alone, those of several merges are not.
func TestWhatOneMergeWroteIsSettled(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	table := tables()[messagesID]
	entry := func(id uint64, level, schema uint32) manifest.Entry {
		return manifest.Entry{ID: id, Segment: &storagev1.Segment{Level: level, SchemaVersion: schema}}
	}
	first := uint64(1) << 40
	for name, c := range map[string]struct {
		entries []manifest.Entry
		want    bool
	}{
		"nothing":           {nil, true},
		"one":               {[]manifest.Entry{entry(first, 0, table.SchemaVersion)}, true},
		"one merge's":       {[]manifest.Entry{entry(first, 2, table.SchemaVersion), entry(snowflake.At(first, 1), 2, table.SchemaVersion)}, true},
		"two merges'":       {[]manifest.Entry{entry(first, 2, table.SchemaVersion), entry(snowflake.At(first, 9000), 2, table.SchemaVersion)}, false},
		"flushed":           {[]manifest.Entry{entry(first, 0, table.SchemaVersion), entry(snowflake.At(first, 1), 0, table.SchemaVersion)}, false},
		"an earlier schema": {[]manifest.Entry{entry(first, 0, table.SchemaVersion-1)}, table.SchemaVersion == 0},
	} {
		if got := n.shard.settled(table, c.entries); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Segments that keep coming are bounded by the number of levels.
func TestLevelsBoundTheSegments(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	for id := range 70 {
		n.mustWrite("ann", insert(message(id, "x", nil)))
		n.flush()
		n.merge(false)
	}
	list := n.segments()
	if len(list) > 3*(mergeFanIn-1)+1 || list[0].GetLevel() < 2 {
		t.Errorf("%d segments, the oldest of level %d", len(list), list[0].GetLevel())
	}
	if rows := n.allRows(); len(rows) != 70 {
		t.Errorf("%d rows", len(rows))
	}
}

// A merge whose segments were replaced meanwhile changes nothing.
func TestAMergeThatComesTooLate(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	for id := range 2 {
		n.mustWrite("ann", insert(message(id, "x", nil)))
		n.flush()
	}
	stale := n.segments()
	n.merge(true)
	before := n.segments()
	_, err := n.merging().segments(context.Background(), partitionOf("ann"), stale, stale, 1)
	if !dberr.Is(err, dberr.Conflict) {
		t.Errorf("%v", err)
	}
	if after := n.segments(); len(after) != len(before) || after[0].ID != before[0].ID {
		t.Errorf("%v became %v", before, after)
	}
}

// The id of a segment is a _seq that no later leader gives again, whatever its clock says.
func TestPositionsCoverTheIdsOfSegments(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "x", nil)))
	n.flush()
	if id := n.segments()[0].ID; n.shard.Position() < id {
		t.Errorf("position %d, segment %d", n.shard.Position(), id)
	}
}

func TestTheHighestKeyMayBeInASegment(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	n.mustWrite("ann", insert(message(100, "x", nil), message(7, "y", nil)))
	n.flush()
	n.mustWrite("ann", insert(message(50, "z", nil)))
	d := decider{db: n.hot, cold: &coldRows{ctx: t.Context(), db: n.hot, readers: n.cold, changes: &n.shard.segmentChanges}}
	if key, err := d.lastKey(keyPartition{messagesID, "ann"}); key != 100 || err != nil {
		t.Errorf("%d, %v", key, err)
	}
}

func (n *node) merging() *merging {
	return &merging{shard: n.shard, term: n.shard.term.Load(), hold: holdNothing}
}

func holdNothing(context.Context, *storagev1.Segment) error { return nil }
