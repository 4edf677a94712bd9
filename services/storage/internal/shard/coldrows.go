package shard

import (
	"context"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// coldRows finds rows in segments for one decision. The lists of segments it has read stay good while it decides: a row may move
// into a segment meanwhile, but then it was found in the hot store, where is looked first; and what merging replaces stays on
// disk for longer than that.
type coldRows struct {
	ctx     context.Context
	shard   uint32
	db      manifest.Reader
	readers *cold.Readers
	lists   map[keyPartition][]manifest.Entry
}

// segments are those of a partition.
func (c *coldRows) segments(p keyPartition) ([]manifest.Entry, error) {
	if list, ok := c.lists[p]; ok {
		return list, nil
	}
	list, err := manifest.Read(c.db, c.shard, p.table, p.user)
	if err != nil {
		return nil, err
	}
	if c.lists == nil {
		c.lists = map[keyPartition][]manifest.Entry{}
	}
	c.lists[p] = list
	return list, nil
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
