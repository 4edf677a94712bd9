package segment

import (
	"sync"

	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/metadata"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
)

// bloomable are the key columns whose filters are worth asking: the types of ids that clients make. A filter is over the
// values as Parquet stores them.
func bloomable(k catalog.TypeKind) bool {
	switch k {
	case catalog.Text, catalog.UUID, catalog.BigInt:
		return true
	}
	return false
}

// blooms are a reader's filters by row group, read when they are asked for.
type blooms struct {
	mu     sync.Mutex
	groups map[int][]columnBloom
}

// columnBloom is the filter of a key column; nil when there is none.
type columnBloom struct {
	id     uint32
	kind   catalog.TypeKind
	filter metadata.BloomFilter
}

// MayHold reports whether a row group can have a row with the key's values, in the order of t's key columns.
func (r *Reader) MayHold(group int, t *catalog.Table, key []datum.Datum) (may bool, err error) {
	defer recovered(&err)
	filters, err := r.filtersOf(group, t)
	if err != nil {
		return false, err
	}
	for n, d := range key {
		c := t.KeyColumn(n)
		for _, f := range filters {
			if f.id == c.ID && !f.mayHold(d) {
				return false, nil
			}
		}
	}
	return true, nil
}

func (r *Reader) filtersOf(group int, t *catalog.Table) ([]columnBloom, error) {
	r.blooms.mu.Lock()
	defer r.blooms.mu.Unlock()
	if f, ok := r.blooms.groups[group]; ok {
		return f, nil
	}
	read, err := r.parquet.GetBloomFilterReader().RowGroup(group)
	if err != nil {
		return nil, corrupt("filters of row group %d: %w", group, err)
	}
	var filters []columnBloom
	for i, f := range r.schema.Fields() {
		id, ok := rowbatch.ColumnID(f)
		kind := rowbatch.TypeOf(f).Kind
		if !ok || read == nil || !isKey(t, id) || !bloomable(kind) {
			continue
		}
		filter, err := read.GetColumnBloomFilter(i)
		if err != nil {
			return nil, corrupt("filters of row group %d: %w", group, err)
		}
		if filter != nil {
			filters = append(filters, columnBloom{id: id, kind: kind, filter: filter})
		}
	}
	if r.blooms.groups == nil {
		r.blooms.groups = map[int][]columnBloom{}
	}
	r.blooms.groups[group] = filters
	return filters, nil
}

func isKey(t *catalog.Table, id uint32) bool {
	for i := range t.Key() {
		if t.KeyColumn(i).ID == id {
			return true
		}
	}
	return false
}

func (c *columnBloom) mayHold(d datum.Datum) bool {
	h := c.filter.Hasher()
	switch {
	case c.kind == catalog.Text && d.Kind() == datum.KindText:
		return c.filter.CheckHash(metadata.GetHash(h, parquet.ByteArray(d.AsText())))
	case c.kind == catalog.UUID && d.Kind() == datum.KindUUID:
		return c.filter.CheckHash(metadata.GetHash(h, parquet.FixedLenByteArray(d.AsText())))
	case c.kind == catalog.BigInt && d.Kind() == datum.KindInt:
		return c.filter.CheckHash(metadata.GetHash(h, d.AsInt()))
	}
	return true
}
