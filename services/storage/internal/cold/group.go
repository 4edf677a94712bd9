package cold

import (
	"bytes"
	"context"

	"github.com/apache/arrow-go/v18/arrow"

	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/segment"
)

// Group is a row group of a segment that can be read column by column: nothing else has a version of one of its rows.
type Group struct {
	// Segment is the one it is part of.
	Segment *storagev1.Segment

	readers *Readers
	reader  *segment.Reader
	group   int
	release func()
}

// NextGroup returns the row group that is next, when no other segment has rows among its keys, and all of them are below before (nil: no
// bound) and within the merge's range. Otherwise ok is false: Next has the rows. usable is asked first and may refuse a file. Close the group.
func (m *Merge) NextGroup(ctx context.Context, before []byte, usable func(*segment.Reader) bool) (g *Group, ok bool, err error) {
	if m.rng.Reverse {
		return nil, false, nil
	}
	if err := m.reach(ctx); err != nil || m.open.Len() != 1 {
		return nil, false, err
	}
	c := m.open.list[0]
	if c.rows != nil || !c.endsBefore(before) || !c.endsBefore(m.rng.High) || !usable(c.reader) {
		return nil, false, nil
	}
	if n := len(m.waiting); n > 0 && !c.endsBefore(m.edge(m.waiting[n-1])) {
		return nil, false, nil
	}
	reader, release, err := m.readers.use(ctx, m.shard, c.entry.Segment)
	if err != nil {
		return nil, false, err
	}
	g = &Group{Segment: c.entry.Segment, readers: m.readers, reader: reader, group: c.group, release: release}
	m.moved(c.leaveGroup())
	return g, true, nil
}

// endsBefore reports whether all keys of the group are below a key; nil is above all.
func (c *cursor) endsBefore(key []byte) bool {
	if key == nil {
		return true
	}
	if next := c.group + 1; next < c.reader.RowGroups() {
		return bytes.Compare(c.reader.FirstKey(next), key) <= 0
	}
	return bytes.Compare(c.entry.GetKeyMax(), key) < 0
}

// Read reads columns, in the order of ids. It may be called from any goroutine. Release the batches.
func (g *Group) Read(ctx context.Context, ids []uint32) ([]arrow.RecordBatch, error) {
	batches, err := g.reader.ReadColumns(ctx, g.group, ids)
	if err != nil {
		return nil, g.readers.distrust(g.Segment, err)
	}
	return batches, nil
}

// Rows is how many there are.
func (g *Group) Rows() int { return g.reader.GroupRows(g.group) }

// Close lets go of the segment.
func (g *Group) Close() { g.release() }
