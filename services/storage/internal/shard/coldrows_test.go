package shard

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// A row that moves into a segment between the decisions about two rows of one statement is found there.
func TestARowMayMoveWhileAStatementIsDecided(t *testing.T) {
	fs := vfs.NewMem()
	n := openNode(t, nodeOptions{fs: fs})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "a", nil), message(5, "e", nil)))
	n.flush()
	n.mustWrite("ann", insert(message(3, "acknowledged", "t3")))
	name := "cold/" + n.segments()[0].GetPath()
	if err := fs.Rename(name, "away"); err != nil {
		t.Fatal(err)
	}
	readers, err := cold.NewReaders(n.cold.Files(), 0, func(context.Context, uint32, *storagev1.Segment) error {
		n.flush() // behind the look at the first row
		return fs.Rename("away", name)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer readers.Close()
	n.shard.cfg.Cold = readers
	if _, err := n.write("ann", insert(message(2, "b", nil), message(3, "other", "t4"))); !dberr.Is(err, dberr.PrimaryKeyViolation) {
		t.Errorf("%v", err)
	}
	if row := decodeMessage(t, n.allRows()["ann/3"].Row); row.Values[1].AsText() != "acknowledged" {
		t.Errorf("the row is %q", row.Values[1].AsText())
	}
}

// Each of several segments that one entry adds has a _seq of its own, which nothing else gets.
func TestSegmentsTakeTheirPositions(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	n := openNode(t, nodeOptions{now: func() time.Time { return at }})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "a", nil), message(5, "e", nil)))
	var added []*storagev1.Segment // as a merge of several million rows adds
	for range 10 {
		added = append(added, &storagev1.Segment{Path: "x", KeyMin: []byte{0xfe}, KeyMax: []byte{0xff}})
	}
	if err := n.shard.ChangeSegments(t.Context(), n.shard.term.Load(), SegmentsChange{Table: messagesID, User: "ann", Added: added}); err != nil {
		t.Fatal(err)
	}
	before, seq := n.shard.Position(), uint64(0)
	if _, err := n.shard.Flush(t.Context(), tables()[messagesID], "", func(context.Context, *storagev1.Segment) error {
		if seq == 0 {
			seq = n.mustWrite("ann", insert(message(3, "acknowledged", nil))).GetResults()[0].GetSeqs()[0]
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if seq <= before {
		t.Errorf("a write behind position %d has _seq %d", before, seq)
	}
	if _, ok := n.rows()["ann/3"]; !ok {
		t.Error("a row that was written during the flush is not in the hot store")
	}
	if list := n.segments(); len(list) != 11 {
		t.Errorf("%d segments of 11", len(list))
	}
}

// What a flush saw is of its term: under another leader the row may have been deleted and forgotten.
func TestAFlushThatOutlivesItsTermIsRefused(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "a", nil)))
	now := n.shard.term.Load()
	n.shard.term.Store(now - 1) // it begins in another term than it ends in
	_, err := n.shard.Flush(t.Context(), tables()[messagesID], "", func(context.Context, *storagev1.Segment) error {
		n.shard.term.Store(now)
		return nil
	})
	if !dberr.Is(err, dberr.Unavailable) || len(n.segments()) != 0 {
		t.Errorf("%v, %d segments", err, len(n.segments()))
	}
	if rows := n.rows(); len(rows) != 1 {
		t.Errorf("%d hot rows", len(rows))
	}
}

// A merge may take longer than files live that nobody names.
func TestASweepDuringAMerge(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	for id := range 3 {
		n.mustWrite("ann", insert(message(id, "x", nil)))
		n.flush()
	}
	list := n.segments()
	sweep := func() {
		named := map[string]bool{}
		if err := manifest.EachOf(n.hot, 0, func(e manifest.Entry) error { named[e.GetPath()] = true; return nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := n.cold.Files().Sweep(func(p string) bool { return named[p] }, 0); err != nil {
			t.Fatal(err)
		}
	}
	first := true
	w := n.merging()
	w.hold = func(_ context.Context, seg *storagev1.Segment) error {
		if first { // behind the first output
			first = false
			sweep()
			return nil
		}
		if !n.cold.Files().Keep(seg) { // as the node's does
			return dberr.New(dberr.Unavailable, "it is gone")
		}
		return nil
	}
	if _, err := w.segments(t.Context(), partitionOf("ann"), list, list, 1); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("%v", err)
	}
	if now := n.segments(); len(now) != 3 {
		t.Errorf("%d segments", len(now))
	}
	if rows := n.allRows(); len(rows) != 3 {
		t.Errorf("%d rows", len(rows))
	}
}

func TestMergesAreBounded(t *testing.T) {
	var full, many []manifest.Entry
	for i := range 500 { // the same million rows, updated again and again
		full = append(full, manifest.Entry{ID: uint64(i), Segment: &storagev1.Segment{Rows: mergedRowsMax, Level: 4, KeyMin: []byte{1}, KeyMax: []byte{2}}})
		many = append(many, manifest.Entry{ID: uint64(i), Segment: &storagev1.Segment{Rows: 65536, KeyMin: []byte{byte(i >> 8), byte(i)}, KeyMax: []byte{byte(i >> 8), byte(i)}}})
	}
	if picked, level := pick(full); len(picked) != mergeInputsMax || level != 4 {
		t.Errorf("%d of 500 full segments over the same keys, to level %d", len(picked), level)
	}
	if picked, _ := pick(full[:mergeDepthMax]); len(picked) != 0 {
		t.Errorf("%d of %d full segments", len(picked), mergeDepthMax)
	}
	if picked, level := pick(many); len(picked) != mergeInputsMax || level != 1 || picked[0].ID != 0 {
		t.Errorf("%d of 500 small segments, to level %d", len(picked), level)
	}
}

// Of many rows in a row those that a segment has go at once, and those written while it was made stay.
func TestALongRunOfRowsMovesWhole(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	const many = 2*rangeDeleteMin + 100
	var list [][]byte
	for id := range many {
		list = append(list, message(id, "first", nil))
	}
	n.mustWrite("ann", insert(list...))
	n.mustWrite("bob", insert(list[0], list[1]))
	seq := n.allRows()["ann/1500"].Seq
	written := false
	if _, err := n.shard.Flush(t.Context(), tables()[messagesID], "ann", func(context.Context, *storagev1.Segment) error {
		if !written {
			written = true
			n.mustWrite("ann", update(seq, message(1500, "second", nil)), insert(message(many+5, "later", nil)))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if hot := n.rows(); len(hot) != 4 { // what was written meanwhile, and another user's
		t.Errorf("%d rows are in the hot store", len(hot))
	}
	all := n.allRows()
	if len(all) != many+1+2 {
		t.Errorf("%d rows", len(all))
	}
	for _, want := range []struct{ key, body string }{{"ann/0", "first"}, {"ann/1499", "first"}, {"ann/1500", "second"}, {"ann/1501", "first"}, {"ann/2147", "first"}, {"bob/1", "first"}} {
		if row := decodeMessage(t, all[want.key].Row); row.Values[1].AsText() != want.body {
			t.Errorf("%s is %q", want.key, row.Values[1].AsText())
		}
	}
}
