package shard

import (
	"bytes"
	"context"
	"slices"
	"time"

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
	// mergedRowsMax and mergedBytesMax are where a merged segment is full. Adding it walks over no rows, so it may be larger
	// than a flushed one.
	mergedRowsMax  = 1 << 20
	mergedBytesMax = 256 << 20
	// deletedRetentionDefault is how long deleted rows can be read (_deleted) where a table does not say.
	deletedRetentionDefault = 7 * 24 * time.Hour
)

// Merged is what merging did.
type Merged struct {
	// Removed and Added count segments, Dropped rows that are gone for good: older versions and tombstones.
	Removed, Added int
	Rows, Dropped  uint64
	Bytes          uint64
}

func (m *Merged) add(o Merged) {
	m.Removed, m.Added, m.Rows, m.Dropped, m.Bytes = m.Removed+o.Removed, m.Added+o.Added, m.Rows+o.Rows, m.Dropped+o.Dropped, m.Bytes+o.Bytes
}

// Merge merges the segments of a table's partitions, of one owner or of all: as far as levels ask for it, or (whole) each
// partition's into as few as possible. Only the leader can.
func (s *Shard) Merge(ctx context.Context, t *catalog.Table, owner string, whole bool, hold Hold) (m Merged, err error) {
	if err := s.checkServing(); err != nil {
		return m, err
	}
	release, err := s.flushes.enter(ctx, t.ID)
	if err != nil {
		return m, err
	}
	defer release()
	if owner != "" || !t.Owned() {
		return s.mergePartition(ctx, cold.Partition{Shard: s.cfg.ID, Table: t, Owner: owner}, whole, hold)
	}
	entries, err := manifest.ReadTable(s.cfg.DB, s.cfg.ID, t.ID)
	if err != nil {
		return m, err
	}
	for i := range entries {
		if i > 0 && entries[i].User == entries[i-1].User {
			continue
		}
		one, err := s.mergePartition(ctx, cold.Partition{Shard: s.cfg.ID, Table: t, Owner: entries[i].User}, whole, hold)
		m.add(one)
		if err != nil {
			return m, err
		}
	}
	return m, nil
}

// mergePartition merges until no level asks for it. The table is entered.
func (s *Shard) mergePartition(ctx context.Context, p cold.Partition, whole bool, hold Hold) (m Merged, err error) {
	for {
		entries, err := manifest.Read(s.cfg.DB, s.cfg.ID, p.Table.ID, p.Owner)
		if err != nil {
			return m, err
		}
		picked, level := pick(entries, whole)
		if len(picked) == 0 {
			return m, nil
		}
		one, err := s.mergeSegments(ctx, p, entries, picked, level, hold)
		m.add(one)
		if err != nil || whole {
			return m, err
		}
	}
}

// pick chooses what to merge, and the level of what comes out: the lowest level that has mergeFanIn segments which are not
// full, or everything.
func pick(entries []manifest.Entry, whole bool) (picked []manifest.Entry, level uint32) {
	if whole {
		for _, e := range entries {
			level = max(level, e.GetLevel()+1)
		}
		if len(entries) == 1 && entries[0].GetTombstones() == 0 {
			return nil, 0 // it would come out as it is
		}
		return entries, level
	}
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
	return picked, level
}

// mergeSegments replaces the picked ones of a partition's segments by new ones.
func (s *Shard) mergeSegments(ctx context.Context, p cold.Partition, all, picked []manifest.Entry, level uint32, hold Hold) (m Merged, err error) {
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
		return hold(ctx, seg)
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
	if err := s.ChangeSegments(ctx, change); err != nil {
		return Merged{}, err
	}
	m.Removed, m.Added, m.Dropped = len(change.Removed), len(change.Added), m.Rows-written
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

// forgets reports whether a tombstone of a table may go: the row was deleted longer ago than the table keeps deleted rows.
func (s *Shard) forgets(t *catalog.Table, seq uint64) bool {
	keep := deletedRetentionDefault
	if h := t.Options.DeletedRetentionHours; h > 0 {
		keep = time.Duration(h) * time.Hour
	}
	return snowflake.Time(seq, snowflake.SeqEpoch).Before(s.cfg.Now().Add(-keep))
}
