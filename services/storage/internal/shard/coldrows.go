package shard

import (
	"context"
	"sync/atomic"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// coldRows finds rows in segments for one decision. A row may move to a segment at any time, so the list of segments must be at least as
// new as the look into the hot store that did not find the row: a list is kept only as long as no segment changes.
type coldRows struct {
	ctx     context.Context
	shard   uint32
	db      manifest.Reader
	readers *cold.Readers
	changes *segmentChanges
	lists   map[keyPartition]segmentList
}

// segmentList is a partition's segments as of a state of segmentChanges.
type segmentList struct {
	at      uint64
	entries []manifest.Entry
}

// segmentChanges counts how often segments began and ended to change: it is odd while a batch that changes some is committed.
type segmentChanges struct{ n atomic.Uint64 }

func (c *segmentChanges) begin() { c.n.Add(1) }
func (c *segmentChanges) end()   { c.n.Add(1) }

// segments are those of a partition, as new as the call.
func (c *coldRows) segments(p keyPartition) ([]manifest.Entry, error) {
	now := c.changes.n.Load()
	settled := now%2 == 0
	if list, ok := c.lists[p]; ok && settled && list.at == now {
		return list.entries, nil
	}
	entries, err := manifest.Read(c.db, c.shard, p.table, p.user)
	if err != nil || !settled {
		return entries, err
	}
	if c.lists == nil {
		c.lists = map[keyPartition]segmentList{}
	}
	c.lists[p] = segmentList{at: now, entries: entries}
	return entries, nil
}

// current returns a row that is not in the hot store.
func (c *coldRows) current(it *item, owner string) (*current, error) {
	entries, err := c.segments(keyPartition{it.table.ID, owner})
	if err != nil || len(entries) == 0 {
		return &current{}, err
	}
	encoded := it.key[len(keycodec.PartitionPrefix(nil, c.shard, it.table.ID, owner)):]
	key := make([]datum.Datum, 0, len(it.table.Key()))
	for rest := encoded; len(rest) > 0; {
		var d datum.Datum
		if d, rest, err = keycodec.DecodeDatum(rest); err != nil {
			return nil, err
		}
		key = append(key, d)
	}
	if len(key) != len(it.table.Key()) {
		return nil, dberr.New(dberr.Corrupt, "a key of %s has %d values", it.table.QualifiedName(), len(key))
	}
	v, ok, err := c.readers.Find(c.ctx, c.shard, it.table, entries, key, encoded)
	if err != nil || !ok {
		return &current{}, err
	}
	schema := v.SchemaVersion // the table's: rows of segments are encoded anew
	for _, e := range entries {
		schema = max(schema, e.GetSchemaVersion())
	}
	return &current{live: !v.Deleted, seq: v.Seq, schema: schema, row: v.Row}, nil
}
