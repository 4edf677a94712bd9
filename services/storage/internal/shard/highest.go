package shard

import (
	"errors"
	"math"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// highestMax bounds the partitions whose highest key is known: those written to most recently, half a megabyte.
const highestMax = 4096

// highest knows the highest key of partitions with generated keys: a key that is generated above it is in no row,
// and the store need not be asked, which costs as much as all else of deciding a row.
//
// Why that is safe. A partition is entered here before its highest key is read from the store, and from then on
// apply raises it with every row, after the row's batch is committed and before its writer is answered. So a row
// whose key is above it is one whose writer has not been answered, and still holds the key reserved; who decides about
// the same key holds the reservation, so there is no such row. It does not matter who chose the keys, or whether
// rows were removed since. It is memory only: the first writes after a start ask the store.
type highest struct {
	mu sync.Mutex
	// tops are by partition; a partition gets its key when it is used for the second time.
	tops *simplelru.LRU[keyPartition, *top]
}

type keyPartition struct {
	table uint32
	user  string // as in the key: "" for shared tables
}

type top struct {
	known bool
	key   int64
}

func newHighest() (*highest, error) {
	tops, err := simplelru.NewLRU[keyPartition, *top](highestMax, nil)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "make the memory of highest keys: %w", err)
	}
	return &highest{tops: tops}, nil
}

// isAbove reports whether key is known to be above all keys of a partition. Otherwise it may return a top to learn.
func (h *highest) isAbove(p keyPartition, key int64) (above bool, unknown *top) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.tops.Get(p)
	if !ok {
		h.tops.Add(p, &top{key: math.MinInt64})
		return false, nil
	}
	if !t.known {
		return false, t
	}
	return key > t.key, nil
}

// learn adds what the store holds.
func (h *highest) learn(t *top, key int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t.key, t.known = max(t.key, key), true
}

// raise takes note of applied rows.
func (h *highest) raise(rows []published) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tops.Len() == 0 {
		return
	}
	for i := range rows {
		p := keyPartition{rows[i].table, rows[i].user}
		if t, ok := h.tops.Peek(p); ok {
			t.key = max(t.key, intKey(rows[i].key))
		}
	}
}

// forget begins anew: the state was replaced.
func (h *highest) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tops.Purge()
}

// forgetUser lets go of a user's partitions.
func (h *highest) forgetUser(user string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.tops.Keys() {
		if p.user == user {
			h.tops.Remove(p)
		}
	}
}

// intKeyBytes is the length of an integer in a key: its kind and 8 bytes.
const intKeyBytes = 9

// intKey reads a row key whose only column is an integer; any other is taken for the highest there can be.
func intKey(k []byte) int64 {
	d, rest, err := keycodec.DecodeDatum(k[max(len(k)-intKeyBytes, 0):])
	if err != nil || len(rest) > 0 || d.Kind() != datum.KindInt {
		return math.MaxInt64
	}
	return d.AsInt()
}

// generatesKey reports whether the leader makes the key of rows that come without one.
func generatesKey(t *catalog.Table) bool {
	if len(t.Key()) != 1 {
		return false
	}
	c := t.KeyColumn(0)
	return c.Type.Kind == catalog.BigInt && (c.Default.Kind == catalog.DefaultSnowflakeID || c.Hidden && c.Default.Kind == catalog.NoDefault)
}

// isNew reports whether an item's generated key is in no row, without asking the store.
func (d *decider) isNew(it *item) (bool, error) {
	if !it.generated {
		return false, nil
	}
	p := keyPartition{table: it.table.ID, user: d.owner(it)}
	key := intKey(it.key)
	above, unknown := d.highest.isAbove(p, key)
	if unknown == nil {
		return above, nil
	}
	last, err := d.lastKey(p)
	if err != nil {
		return false, err
	}
	d.highest.learn(unknown, last)
	above, _ = d.highest.isAbove(p, key)
	return above, nil
}

// lastKey is the highest key of a partition, in the hot store and in segments.
func (d *decider) lastKey(p keyPartition) (key int64, err error) {
	span := keycodec.PrefixSpan(keycodec.PartitionPrefix(nil, d.shard, p.table, p.user))
	it, err := d.db.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return 0, readFailed(err)
	}
	key = math.MinInt64
	if it.Last() {
		key = intKey(it.Key())
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return 0, readFailed(err)
	}
	entries, err := d.cold.segments(p)
	for i := range entries {
		key = max(key, intKey(entries[i].GetKeyMax()))
	}
	return key, err
}
