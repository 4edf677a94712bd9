package scan

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/segment"
)

// coldRows reads the rows that the plan wants from segments, in the plan's direction, of each row the newest version.
type coldRows struct {
	ctx     context.Context
	plan    *plan
	readers *cold.Readers
	columns []uint32
	parts   partitions

	// prefix starts the row keys of the current partition, whose segments are entries; spans are what is left to read of it.
	prefix  []byte
	entries []manifest.Entry
	spans   []keycodec.Span
	merge   *cold.Merge
	key     []byte
}

// partitions yields the partitions that have segments, in the direction of the scan.
type partitions interface {
	// next returns a partition's owner and segments; none is the end.
	next() (owner string, entries []manifest.Entry, err error)
	close() error
}

// openCold reads the list of segments with an iterator that has the scan's view; nil when there are none.
func openCold(ctx context.Context, it *pebble.Iterator, p *plan, readers *cold.Readers) (*coldRows, error) {
	c := &coldRows{ctx: ctx, plan: p, readers: readers, columns: p.coldColumns()}
	if p.req.GetAllUsers() {
		own, err := it.CloneWithContext(ctx, pebble.CloneOptions{IterOptions: tableSegments(p), RefreshBatchView: false})
		if err != nil {
			return nil, readFailed(err)
		}
		c.parts = &manyPartitions{it: own, reverse: p.reverse}
		return c, nil
	}
	span := keycodec.PrefixSpan(keycodec.PartitionSegmentPrefix(nil, p.req.GetShard(), p.table.ID, p.user))
	it.SetBounds(span.Start, span.End)
	one := &onePartition{owner: p.user}
	for ok := it.First(); ok; ok = it.Next() {
		e, err := manifest.Decode(it)
		if err != nil {
			return nil, err
		}
		if e.GetSeqMax() > p.req.GetAfterSeq() { // else it shows nothing, and hides nothing newer
			one.entries = append(one.entries, e)
		}
	}
	if err := it.Error(); err != nil {
		return nil, readFailed(err)
	}
	if len(one.entries) == 0 {
		return nil, nil
	}
	c.parts = one
	return c, nil
}

func tableSegments(p *plan) *pebble.IterOptions {
	span := keycodec.PrefixSpan(keycodec.TableSegmentPrefix(p.req.GetShard(), p.table.ID))
	return &pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End}
}

// coldColumns are the columns that have to be decoded.
func (p *plan) coldColumns() []uint32 {
	ids := slices.Clone(p.req.GetColumnIds())
	if p.filter != nil {
		ids = append(ids, p.filter.Columns()...)
	}
	for i := range p.sortBy {
		ids = append(ids, p.sortBy[i].id)
	}
	return cold.Columns(ids)
}

// next returns the next row; its key is good until the following call.
func (c *coldRows) next() (key []byte, v keycodec.Version, ok bool, err error) {
	for {
		if c.merge != nil {
			key, v, ok, err := c.merge.Next(c.ctx)
			if err != nil {
				return nil, v, false, err
			}
			if ok {
				c.key = append(append(c.key[:0], c.prefix...), key...)
				return c.key, v, true, nil
			}
			c.endMerge()
		}
		if len(c.spans) > 0 {
			span := c.spans[0]
			c.spans = c.spans[1:]
			if key, v, ok, err := c.enter(span); ok || err != nil {
				return key, v, ok, err
			}
			continue
		}
		if more, err := c.enterPartition(); err != nil || !more {
			return nil, v, false, err
		}
	}
}

// nextGroup returns a row group that comes next and whose keys are all below before, a row's key (nil: no bound), of the same partition.
func (c *coldRows) nextGroup(ctx context.Context, before []byte, usable func(*segment.Reader) bool) (*cold.Group, bool, error) {
	for c.merge == nil {
		for len(c.spans) == 0 {
			if more, err := c.enterPartition(); err != nil || !more {
				return nil, false, err
			}
		}
		rng := c.rangeOf(c.spans[0])
		if _, one := c.onlyKey(rng); one {
			return nil, false, nil
		}
		c.spans = c.spans[1:]
		c.merge = c.readers.NewMerge(c.plan.req.GetShard(), c.entries, rng)
	}
	if before != nil {
		before = before[len(c.prefix):]
	}
	return c.merge.NextGroup(ctx, before, usable)
}

// enterPartition goes to the next partition.
func (c *coldRows) enterPartition() (more bool, err error) {
	owner, entries, err := c.parts.next()
	if err != nil || len(entries) == 0 {
		return false, err
	}
	after := c.plan.req.GetAfterSeq()
	c.entries = slices.DeleteFunc(entries, func(e manifest.Entry) bool { return e.GetSeqMax() <= after })
	c.prefix = keycodec.PartitionPrefix(c.prefix[:0], c.plan.req.GetShard(), c.plan.table.ID, owner)
	if c.plan.req.GetAllUsers() {
		c.spans = []keycodec.Span{keycodec.PrefixSpan(c.prefix)}
	} else {
		c.spans = c.plan.spans
	}
	return true, nil
}

// enter begins to read a span of the partition. A span of one key is looked up, and its row returned.
func (c *coldRows) enter(span keycodec.Span) (key []byte, v keycodec.Version, ok bool, err error) {
	rng := c.rangeOf(span)
	if d, one := c.onlyKey(rng); one {
		v, ok, err = c.readers.Find(c.ctx, c.plan.req.GetShard(), c.plan.table, c.entries, []datum.Datum{d}, rng.Low)
		c.key = append(append(c.key[:0], c.prefix...), rng.Low...)
		return c.key, v, ok, err
	}
	c.merge = c.readers.NewMerge(c.plan.req.GetShard(), c.entries, rng)
	return nil, v, false, nil
}

// rangeOf is what a span has of the partition.
func (c *coldRows) rangeOf(span keycodec.Span) cold.Range {
	rng := cold.Range{Table: c.plan.table, Columns: c.columns, Reverse: c.plan.reverse}
	if len(span.Start) > len(c.prefix) {
		rng.Low = span.Start[len(c.prefix):]
	}
	if bytes.HasPrefix(span.End, c.prefix) {
		rng.High = span.End[len(c.prefix):]
	}
	return rng
}

// onlyKey is the key of a range that has no other; then filters are worth asking.
func (c *coldRows) onlyKey(rng cold.Range) (d datum.Datum, one bool) {
	if len(c.plan.table.Key()) != 1 || rng.Low == nil || !bytes.Equal(rng.High, keycodec.PrefixEnd(rng.Low)) {
		return d, false
	}
	d, rest, err := keycodec.DecodeDatum(rng.Low)
	return d, err == nil && len(rest) == 0
}

// skip leaves the current partition.
func (c *coldRows) skip([]byte) {
	c.endMerge()
	c.spans = nil
}

func (c *coldRows) endMerge() {
	if c.merge != nil {
		c.merge.Close()
		c.merge = nil
	}
}

func (c *coldRows) close() error {
	c.endMerge()
	return c.parts.close()
}

// onePartition is the only one a scan reads.
type onePartition struct {
	owner   string
	entries []manifest.Entry
}

func (o *onePartition) next() (string, []manifest.Entry, error) {
	entries := o.entries
	o.entries = nil
	return o.owner, entries, nil
}

func (o *onePartition) close() error { return nil }

// manyPartitions walks over the segments of a table: one partition's are in memory at a time.
type manyPartitions struct {
	it      *pebble.Iterator
	reverse bool
	began   bool
}

func (m *manyPartitions) next() (owner string, entries []manifest.Entry, err error) {
	ok := m.it.Valid()
	if !m.began {
		m.began = true
		if ok = m.it.First(); m.reverse {
			ok = m.it.Last()
		}
	}
	for ; ok; ok = m.step() {
		e, err := manifest.Decode(m.it)
		if err != nil {
			return "", nil, err
		}
		if len(entries) > 0 && e.User != owner {
			return owner, entries, nil
		}
		owner, entries = e.User, append(entries, e)
	}
	if err := m.it.Error(); err != nil {
		return "", nil, readFailed(err)
	}
	return owner, entries, nil
}

func (m *manyPartitions) step() bool {
	if m.reverse {
		return m.it.Prev()
	}
	return m.it.Next()
}

func (m *manyPartitions) close() error {
	if err := m.it.Close(); err != nil {
		return readFailed(errors.Join(err))
	}
	return nil
}
