package storage

import (
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// A hot store above its limit gives rows to segments, whatever the tables' policies, and gets smaller; below it nothing moves.
func TestALargeHotStoreIsFlushed(t *testing.T) {
	r := start(t, Config{Dir: t.TempDir(), HotBytesMax: -1})
	messages, feed := r.createTable("messages", catalog.UserTable), r.createTable("feed", catalog.StreamTable)
	r.insert(messages, "ann", 1, 2, 3)
	r.insert(messages, "bob", 1)
	r.insert(feed, "ann", 1)
	if err := r.node.hot.Flush(); err != nil {
		t.Fatal(err)
	}
	full := r.node.hot.Metrics().DiskSpaceUsage()
	for _, limit := range []int64{-1, int64(full)} {
		r.node.cfg.HotBytesMax = limit
		if err := r.node.relieveOnce(t.Context(), 1); err != nil || len(segmentsOf(t, r.node)) != 0 {
			t.Errorf("limit %d: %d segments, %v", limit, len(segmentsOf(t, r.node)), err)
		}
	}
	r.node.cfg.HotBytesMax = 1
	if err := r.node.relieveOnce(t.Context(), 1<<40); err != nil || len(segmentsOf(t, r.node)) != 0 {
		t.Errorf("nothing is worth it: %d segments, %v", len(segmentsOf(t, r.node)), err)
	}
	if err := r.node.relieveOnce(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if n := len(segmentsOf(t, r.node)); n != 2 {
		t.Errorf("%d segments of 2 partitions", n)
	}
	for shard := range uint32(2) {
		if n, err := (&service{node: r.node}).countLive(t.Context(), keycodec.PrefixSpan(keycodec.TablePrefix(shard, messages.ID))); err != nil || n != 0 {
			t.Errorf("%d rows are hot in shard %d, %v", n, shard, err)
		}
	}
	r.wantRows(messages, "ann", 3)
	r.wantRows(messages, "bob", 1)
}
