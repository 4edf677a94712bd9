package shard

import (
	"bytes"
	"context"
	"slices"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

const (
	// mergeFanIn segments of a level become those of the next: a row is written about once per level, and a partition has
	// fewer than mergeFanIn segments of each level besides the full ones.
	mergeFanIn = 4
	// mergeInputsMax bounds the segments of one merge: each holds a row group in memory, and a merge that is cut short is
	// done in vain.
	mergeInputsMax = 16
	// mergeDepthMax is over how many segments a key may be spread, full ones too: a read looks into each.
	mergeDepthMax = 8
	// mergedRowsMax and mergedBytesMax are where a merged segment is full. Adding it walks over no rows, so it may be larger
	// than a flushed one.
	mergedRowsMax  = 1 << 20
	mergedBytesMax = 256 << 20
)

// Merged is what merging did.
type Merged struct {
	// Removed and Added count segments, Dropped rows that are gone for good: older versions and tombstones.
	Removed, Added int
	// Partitions counts those whose segments were merged, once for each merge.
	Partitions    int
	Rows, Dropped uint64
	Bytes         uint64
}

func (m *Merged) add(o Merged) {
	m.Removed, m.Added, m.Partitions = m.Removed+o.Removed, m.Added+o.Added, m.Partitions+o.Partitions
	m.Rows, m.Dropped, m.Bytes = m.Rows+o.Rows, m.Dropped+o.Dropped, m.Bytes+o.Bytes
}

// Merge merges the segments of a table's partitions, of one owner or of all: as far as levels and overlaps ask for it, or (whole) all that
// each partition has. Only the leader can.
func (s *Shard) Merge(ctx context.Context, t *catalog.Table, owner string, whole bool, hold Hold) (m Merged, err error) {
	term, err := s.office()
	if err != nil {
		return m, err
	}
	release, err := s.flushes.enter(ctx, t.ID)
	if err != nil {
		return m, err
	}
	defer release()
	w := &merging{shard: s, term: term, hold: hold}
	one := w.partition
	if whole {
		one = w.whole
	}
	if owner != "" || !t.Owned() {
		return one(ctx, cold.Partition{Shard: s.cfg.ID, Table: t, Owner: owner})
	}
	entries, err := manifest.ReadTable(s.cfg.DB, s.cfg.ID, t.ID)
	if err != nil {
		return m, err
	}
	for i := range entries {
		if i > 0 && entries[i].User == entries[i-1].User {
			continue
		}
		o, err := one(ctx, cold.Partition{Shard: s.cfg.ID, Table: t, Owner: entries[i].User})
		m.add(o)
		if err != nil && s.erasing(entries[i].User) == "" {
			return m, err
		}
	}
	return m, nil
}

// merging is work on a table whose flushes wait.
type merging struct {
	shard *Shard
	term  uint64
	hold  Hold
}

func (w *merging) entries(p cold.Partition) ([]manifest.Entry, error) {
	return manifest.Read(w.shard.cfg.DB, w.shard.cfg.ID, p.Table.ID, p.Owner)
}

// partition merges until nothing asks for it.
func (w *merging) partition(ctx context.Context, p cold.Partition) (m Merged, err error) {
	for {
		entries, err := w.entries(p)
		if err != nil {
			return m, err
		}
		picked, level := pick(entries)
		if len(picked) == 0 {
			return m, nil
		}
		one, err := w.segments(ctx, p, entries, picked, level)
		m.add(one)
		if err != nil {
			return m, err
		}
	}
}

// whole merges everything, neighbours by key together.
func (w *merging) whole(ctx context.Context, p cold.Partition) (m Merged, err error) {
	entries, err := w.entries(p)
	if err != nil || w.shard.settled(p.Table, entries) {
		return m, err
	}
	byKey(entries)
	for part := range slices.Chunk(entries, mergeInputsMax) {
		one, err := w.again(ctx, p, part)
		m.add(one)
		if err != nil {
			return m, err
		}
	}
	return m, nil
}

// again merges segments of a list that was read before others were merged.
func (w *merging) again(ctx context.Context, p cold.Partition, picked []manifest.Entry) (Merged, error) {
	all, err := w.entries(p)
	if err != nil {
		return Merged{}, err
	}
	level := uint32(0)
	for _, e := range picked {
		level = max(level, e.GetLevel()+1)
	}
	return w.segments(ctx, p, all, picked, level)
}

func byKey(entries []manifest.Entry) {
	slices.SortFunc(entries, func(a, b manifest.Entry) int { return bytes.Compare(a.GetKeyMin(), b.GetKeyMin()) })
}

// pick chooses what to merge, and the level of what comes out: the lowest level that has mergeFanIn segments which are not
// full, or else the segments over the key that most of them may have, if those are too many.
func pick(entries []manifest.Entry) (picked []manifest.Entry, level uint32) {
	levels := map[uint32][]manifest.Entry{}
	for _, e := range entries {
		if e.GetRows() < mergedRowsMax/2 && e.GetBytes() < mergedBytesMax/2 {
			levels[e.GetLevel()] = append(levels[e.GetLevel()], e)
		}
	}
	for n, list := range levels {
		if len(list) >= mergeFanIn && (picked == nil || n+1 < level) {
			picked, level = list, n+1
		}
	}
	if picked != nil {
		byKey(picked)
		return picked[:min(len(picked), mergeInputsMax)], level
	}
	if picked = deepest(entries); len(picked) <= mergeDepthMax {
		return nil, 0
	}
	picked = picked[:min(len(picked), mergeInputsMax)]
	for _, e := range picked {
		level = max(level, e.GetLevel())
	}
	return picked, level
}

// settled reports whether merging all of a partition's segments would yield what is there: one merge wrote them all, no
// tombstone's time is over, and all have the table's present columns.
func (s *Shard) settled(t *catalog.Table, entries []manifest.Entry) bool {
	for i, e := range entries {
		if e.GetSchemaVersion() < t.SchemaVersion || e.GetTombstones() > 0 && s.forgets(t, e.GetSeqMin()) {
			return false
		}
		if len(entries) > 1 && (e.GetLevel() == 0 || e.ID != snowflake.At(entries[0].ID, i)) { // one command numbers what it adds
			return false
		}
	}
	return true
}

// deepest are the segments over a key that as many as any have within their range: one of the least keys of segments.
func deepest(entries []manifest.Entry) (most []manifest.Entry) {
	entries = slices.Clone(entries)
	byKey(entries)
	var open []manifest.Entry
	for _, e := range entries {
		open = slices.DeleteFunc(open, func(o manifest.Entry) bool { return bytes.Compare(o.GetKeyMax(), e.GetKeyMin()) < 0 })
		if open = append(open, e); len(open) > len(most) {
			most = slices.Clone(open)
		}
	}
	return most
}

// segments replaces the picked ones of a partition's segments by new ones.
func (w *merging) segments(ctx context.Context, p cold.Partition, all, picked []manifest.Entry, level uint32) (m Merged, err error) {
	s := w.shard
	change := SegmentsChange{Table: p.Table.ID, User: p.Owner}
	var others []manifest.Entry
	for _, e := range all {
		if e.GetSchemaVersion() > p.Table.SchemaVersion { // columns this node does not know yet would be lost
			return m, dberr.New(dberr.SchemaChanged, "%s has a segment of schema version %d, this node's catalog has %d: try again",
				p.Table.QualifiedName(), e.GetSchemaVersion(), p.Table.SchemaVersion)
		}
		if slices.ContainsFunc(picked, func(o manifest.Entry) bool { return o.ID == e.ID }) {
			change.Removed, m.Rows = append(change.Removed, e.ID), m.Rows+e.GetRows()
			continue
		}
		others = append(others, e)
	}
	out := s.output(func(ctx context.Context, seg *storagev1.Segment) error {
		change.Added = append(change.Added, seg)
		if err := s.checkOpen(p.Owner); err != nil { // before its file goes anywhere else
			return err
		}
		return w.hold(ctx, seg)
	})
	out.RowsMax, out.BytesMax = mergedRowsMax, mergedBytesMax
	in := s.cfg.Cold.NewMerge(s.cfg.ID, picked, cold.Range{Table: p.Table})
	defer in.Close()
	written := uint64(0)
	_, err = out.Write(ctx, p, level, func(ctx context.Context) ([]byte, keycodec.Version, bool, error) {
		for {
			key, v, ok, err := in.Next(ctx)
			if err != nil || !ok {
				return nil, v, false, err
			}
			if v.Deleted && s.forgets(p.Table, v.Seq) && !mayHaveOlder(others, key, v.Seq) {
				continue
			}
			written++
			return key, v, true, nil
		}
	})
	if err != nil {
		return Merged{}, err
	}
	// The first was written long ago, perhaps: whoever removes what nobody names must not have done so on any replica.
	for _, seg := range change.Added {
		if err := w.hold(ctx, seg); err != nil {
			return Merged{}, err
		}
	}
	if err := s.ChangeSegments(ctx, w.term, change); err != nil {
		return Merged{}, err
	}
	m.Removed, m.Added, m.Partitions, m.Dropped = len(change.Removed), len(change.Added), 1, m.Rows-written
	for _, seg := range change.Added {
		m.Bytes += seg.GetBytes()
	}
	return m, nil
}

// mayHaveOlder reports whether a segment that is not merged may hold an older version of a deleted row, which would come back
// without its tombstone. The hot store has newer versions only.
func mayHaveOlder(others []manifest.Entry, key []byte, seq uint64) bool {
	return slices.ContainsFunc(others, func(e manifest.Entry) bool {
		return e.GetSeqMin() < seq && bytes.Compare(e.GetKeyMin(), key) <= 0 && bytes.Compare(key, e.GetKeyMax()) <= 0
	})
}
