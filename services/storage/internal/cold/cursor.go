package cold

import (
	"bytes"
	"context"
	"sort"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/segment"
)

// Range is what to read of a partition.
type Range struct {
	Table *catalog.Table
	// Columns are ids (see Columns); nil reads all.
	Columns []uint32
	// Low is the first key, High the one behind the last, as keycodec.AppendKeyValues encodes them or beginnings of it; nil has
	// no bound.
	Low, High []byte
	// Reverse reads from the high end.
	Reverse bool
}

// overlaps reports whether a segment can have rows of the range.
func (r *Range) overlaps(e manifest.Entry) bool {
	return (r.Low == nil || bytes.Compare(e.GetKeyMax(), r.Low) >= 0) && (r.High == nil || bytes.Compare(e.GetKeyMin(), r.High) < 0)
}

// cursor goes over the rows of one segment within a range.
type cursor struct {
	readers *Readers
	rng     *Range
	entry   manifest.Entry
	reader  *segment.Reader
	release func()

	group int
	// rows are nil while the cursor stands at the first row of a group that was not decoded yet: then it is alone, and goes forward.
	rows *segment.Rows
	i    int
}

// openCursor stands on the first row, or ok is false.
func (r *Readers) openCursor(ctx context.Context, shard uint32, rng *Range, e manifest.Entry) (c *cursor, ok bool, err error) {
	c = &cursor{readers: r, rng: rng, entry: e}
	if c.reader, c.release, err = r.use(ctx, shard, e.Segment); err != nil {
		return nil, false, err
	}
	if ok, err = c.enter(ctx); err != nil || !ok {
		c.release()
		return nil, false, err
	}
	return c, true, nil
}

// enter finds the first row of the range.
func (c *cursor) enter(ctx context.Context) (bool, error) {
	n := c.reader.RowGroups()
	if c.rng.Reverse {
		c.group = n
		if c.rng.High != nil {
			c.group = sort.Search(n, func(i int) bool { return bytes.Compare(c.reader.FirstKey(i), c.rng.High) >= 0 })
		}
		if ok, err := c.load(ctx, c.group-1); !ok {
			return false, err
		}
		if c.i = len(c.rows.Keys) - 1; c.rng.High != nil {
			c.i = lowerBound(c.rows, c.rng.High) - 1
		}
		return c.settle(ctx)
	}
	if c.rng.Low != nil {
		c.group = max(c.reader.GroupOf(c.rng.Low), 0)
	}
	if c.rng.Low == nil || bytes.Compare(c.rng.Low, c.reader.FirstKey(c.group)) <= 0 {
		return c.inRange(), nil // decoded when somebody asks for its rows
	}
	if ok, err := c.load(ctx, c.group); !ok {
		return false, err
	}
	if c.i = 0; c.rng.Low != nil {
		c.i = lowerBound(c.rows, c.rng.Low)
	}
	return c.settle(ctx)
}

// load decodes a row group; false when there is none of that number.
func (c *cursor) load(ctx context.Context, group int) (ok bool, err error) {
	if group < 0 || group >= c.reader.RowGroups() {
		return false, nil
	}
	c.group = group
	c.rows, err = c.readers.block(ctx, c.reader, c.entry.Segment, group, c.rng.Table, c.rng.Columns)
	return err == nil, err
}

// next moves on; false at the end of the range.
func (c *cursor) next(ctx context.Context) (bool, error) {
	if c.rng.Reverse {
		c.i--
	} else {
		c.i++
	}
	return c.settle(ctx)
}

// settle goes to another row group when this one is at its end, and checks the range.
func (c *cursor) settle(ctx context.Context) (bool, error) {
	for c.rng.Reverse && c.i < 0 {
		if ok, err := c.load(ctx, c.group-1); !ok {
			return false, err
		}
		c.i = len(c.rows.Keys) - 1
	}
	if !c.rng.Reverse && c.i >= len(c.rows.Keys) {
		return c.leaveGroup(), nil
	}
	return c.inRange(), nil
}

// leaveGroup goes to the next row group; false at the end of the range.
func (c *cursor) leaveGroup() bool {
	c.group, c.rows, c.i = c.group+1, nil, 0
	return c.group < c.reader.RowGroups() && c.inRange()
}

func (c *cursor) inRange() bool {
	if c.rng.Reverse {
		return c.rng.Low == nil || bytes.Compare(c.key(), c.rng.Low) >= 0
	}
	return c.rng.High == nil || bytes.Compare(c.key(), c.rng.High) < 0
}

// decode makes the rows of the group readable.
func (c *cursor) decode(ctx context.Context) error {
	if c.rows != nil {
		return nil
	}
	_, err := c.load(ctx, c.group)
	return err
}

func (c *cursor) key() []byte {
	if c.rows == nil {
		return c.reader.FirstKey(c.group)
	}
	return c.rows.Keys[c.i]
}

func (c *cursor) version() keycodec.Version { return c.rows.Versions[c.i] }
