package cold

import (
	"bytes"
	"container/heap"
	"context"
	"errors"
	"slices"

	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// Merge goes over the rows of a partition's segments within a range, in order of their keys, of each key the newest version. A
// segment is opened when the merge reaches its keys: reading the newest rows of a partition opens the last segment alone.
type Merge struct {
	readers *Readers
	shard   uint32
	rng     Range
	// waiting are the segments not reached, the next one last; open is a heap.
	waiting []manifest.Entry
	open    cursors
	key     []byte
}

// NewMerge merges entries of one partition. Close it.
func (r *Readers) NewMerge(shard uint32, entries []manifest.Entry, rng Range) *Merge {
	m := &Merge{readers: r, shard: shard, rng: rng, open: cursors{reverse: rng.Reverse}}
	for _, e := range entries {
		if m.rng.overlaps(e) {
			m.waiting = append(m.waiting, e)
		}
	}
	slices.SortFunc(m.waiting, func(a, b manifest.Entry) int { return -m.compare(m.edge(a), m.edge(b)) })
	return m
}

// edge is the key at which a segment begins, in the direction of the merge.
func (m *Merge) edge(e manifest.Entry) []byte {
	if m.rng.Reverse {
		return e.GetKeyMax()
	}
	return e.GetKeyMin()
}

func (m *Merge) compare(a, b []byte) int {
	if m.rng.Reverse {
		return bytes.Compare(b, a)
	}
	return bytes.Compare(a, b)
}

// Next returns the next row; its memory is not reused. ok is false at the end.
func (m *Merge) Next(ctx context.Context) (key []byte, v keycodec.Version, ok bool, err error) {
	for {
		if err := m.reach(ctx); err != nil {
			return nil, v, false, err
		}
		if m.open.Len() == 0 {
			return nil, v, false, nil
		}
		c := m.open.list[0]
		if err := c.decode(ctx); err != nil {
			return nil, v, false, err
		}
		key, v = c.key(), c.version()
		more, err := c.next(ctx)
		if err == nil && more && m.open.Len() > 1 { // comparing needs the versions
			err = c.decode(ctx)
		}
		if err != nil {
			return nil, v, false, err
		}
		m.moved(more)
		if m.key == nil || !bytes.Equal(key, m.key) { // else an older version of the same row
			m.key = key
			return key, v, true, nil
		}
	}
}

// moved puts the cursor that was moved where it belongs.
func (m *Merge) moved(more bool) {
	if more {
		heap.Fix(&m.open, 0)
		return
	}
	m.open.list[0].release()
	heap.Pop(&m.open)
}

// reach opens the segments that may have the next row.
func (m *Merge) reach(ctx context.Context) error {
	for n := len(m.waiting); n > 0; n = len(m.waiting) {
		e := m.waiting[n-1]
		if m.open.Len() > 0 && m.compare(m.edge(e), m.open.list[0].key()) > 0 {
			return nil
		}
		m.waiting = m.waiting[:n-1]
		c, ok, err := m.readers.openCursor(ctx, m.shard, &m.rng, e)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if m.open.Len() > 0 { // comparing needs the versions
			if err := errors.Join(c.decode(ctx), m.open.list[0].decode(ctx)); err != nil {
				c.release()
				return err
			}
		}
		heap.Push(&m.open, c)
	}
	return nil
}

// Close lets go of the segments.
func (m *Merge) Close() {
	for _, c := range m.open.list {
		c.release()
	}
	m.open.list, m.waiting = nil, nil
}

// cursors is a heap: the next key first, of one key the newest version.
type cursors struct {
	list    []*cursor
	reverse bool
}

func (h *cursors) Len() int { return len(h.list) }

func (h *cursors) Less(i, j int) bool {
	a, b := h.list[i], h.list[j]
	c := bytes.Compare(a.key(), b.key())
	if h.reverse {
		c = -c
	}
	if c == 0 {
		return a.version().Seq > b.version().Seq
	}
	return c < 0
}

func (h *cursors) Swap(i, j int) { h.list[i], h.list[j] = h.list[j], h.list[i] }

// Push implements heap.Interface.
func (h *cursors) Push(x any) { h.list = append(h.list, x.(*cursor)) }

// Pop implements heap.Interface.
func (h *cursors) Pop() any {
	last := h.list[len(h.list)-1]
	h.list = h.list[:len(h.list)-1]
	return last
}
