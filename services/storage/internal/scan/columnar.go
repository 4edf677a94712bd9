package scan

import (
	"context"
	"runtime"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/compute"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/segment"
)

// groupsAheadMax bounds the row groups that one scan reads at a time, whatever the number of processors: each holds some megabytes.
const groupsAheadMax = 8

// columnar reads row groups of segments column by column, where nothing else has versions of their rows. Rows are not decoded one by one then.
type columnar struct {
	plan  *plan
	alloc memory.Allocator
	// filterIDs and outputIDs are what is read of a file; filterSchema has the fields of filterIDs.
	filterIDs, outputIDs []uint32
	filterSchema         *arrow.Schema
	// ahead are the row groups that are being read, in order.
	ahead []*frozenGroup
}

// frozenGroup is a row group that is being read, by a goroutine that ends with read.
type frozenGroup struct {
	group *cold.Group
	read  chan struct{}
	// batches, of the plan's schema, and err are set before read is closed.
	batches []arrow.RecordBatch
	err     error
}

// newColumnar is nil when the plan cannot be read that way: in another order than the key's, backwards, with a limit that few rows fulfil, or
// across partitions.
func newColumnar(p *plan, alloc memory.Allocator) (*columnar, error) {
	if p.sortBy != nil || p.reverse || p.req.GetOffset() > 0 || p.req.GetLimit() > 0 || p.req.GetAllUsers() {
		return nil, nil
	}
	c := &columnar{plan: p, alloc: alloc, outputIDs: p.req.GetColumnIds()}
	for _, id := range c.outputIDs {
		if id == catalog.UpdatedColumnID || id == catalog.UserIDColumnID { // are in no file
			return nil, nil
		}
	}
	if p.filter == nil {
		return c, nil
	}
	columns := make([]catalog.Column, 0, len(p.filter.Columns()))
	for _, id := range p.filter.Columns() {
		column, ok := p.table.AnyColumn(id)
		if !ok || id == catalog.UpdatedColumnID || id == catalog.UserIDColumnID {
			return nil, nil
		}
		columns = append(columns, *column)
	}
	c.filterIDs = p.filter.Columns()
	var err error
	c.filterSchema, err = rowbatch.SchemaOf(columns)
	return c, err
}

// usable reports whether a file has what is asked for as it is asked for: columns that were added or widened since are not.
func (c *columnar) usable(r *segment.Reader) bool {
	for i, f := range c.plan.schema.Fields() {
		if !r.Has(c.outputIDs[i], f.Type) {
			return false
		}
	}
	for i, id := range c.filterIDs {
		if !r.Has(id, c.filterSchema.Field(i).Type) {
			return false
		}
	}
	return true
}

// stream sends all rows, in the order of their keys: row groups that nobody else touches as they are, and the others one by one.
func (c *columnar) stream(ctx context.Context, in *merged, out *output) error {
	defer c.drop()
	size := min(runtime.GOMAXPROCS(0), groupsAheadMax)
	rows := newMatcher(c.plan, in)
	for {
		g, ok, err := in.nextGroup(ctx, c.usable)
		if err != nil {
			return err
		}
		if ok {
			if c.ahead = append(c.ahead, c.begin(ctx, g)); len(c.ahead) >= size {
				err = c.send(out)
			}
			if err != nil {
				return err
			}
			continue
		}
		for len(c.ahead) > 0 {
			if err := c.send(out); err != nil {
				return err
			}
		}
		more, err := rows.step(ctx)
		if err != nil || !more {
			return err
		}
		if rows.match {
			if err := out.add(rows.row); err != nil {
				return err
			}
		}
	}
}

// begin reads a row group in the background.
func (c *columnar) begin(ctx context.Context, g *cold.Group) *frozenGroup {
	f := &frozenGroup{group: g, read: make(chan struct{})}
	go func() {
		defer close(f.read)
		f.batches, f.err = c.load(ctx, g)
	}()
	return f
}

// send sends the first row group that is being read, behind the rows that came before it.
func (c *columnar) send(out *output) error {
	f := c.ahead[0]
	c.ahead = c.ahead[1:]
	defer f.release()
	<-f.read
	if f.err != nil {
		return f.err
	}
	if err := out.flush(); err != nil {
		return err
	}
	for _, rec := range f.batches {
		if err := out.send(rec); err != nil {
			return err
		}
	}
	return nil
}

// drop waits for what is being read and lets go of it.
func (c *columnar) drop() {
	for _, f := range c.ahead {
		f.release()
	}
	c.ahead = nil
}

func (f *frozenGroup) release() {
	<-f.read
	for _, rec := range f.batches {
		rec.Release()
	}
	f.group.Close()
}

// load reads what is wanted of a row group: the columns that decide, and the others when a row is left.
func (c *columnar) load(ctx context.Context, g *cold.Group) (out []arrow.RecordBatch, err error) {
	wanted, err := c.decide(ctx, g)
	if err != nil || wanted != nil && !slices.Contains(wanted, true) {
		return nil, err
	}
	if len(c.outputIDs) == 0 { // counting
		n := g.Rows()
		if wanted != nil {
			n = count(wanted)
		}
		return []arrow.RecordBatch{array.NewRecordBatch(c.plan.schema, nil, int64(n))}, nil
	}
	batches, err := g.Read(ctx, c.outputIDs)
	if err != nil {
		return nil, err
	}
	defer releaseAll(batches)
	first := 0
	for _, rec := range batches {
		last := first + int(rec.NumRows())
		made, err := c.cut(ctx, rec, wanted, first, last)
		if err != nil {
			releaseAll(out)
			return nil, err
		}
		if made != nil {
			out = append(out, made)
		}
		first = last
	}
	return out, nil
}

// cut is the wanted rows of a batch, which are first to last of the row group; nil when there are none.
func (c *columnar) cut(ctx context.Context, rec arrow.RecordBatch, wanted []bool, first, last int) (arrow.RecordBatch, error) {
	whole := array.NewRecordBatch(c.plan.schema, rec.Columns(), rec.NumRows())
	if wanted == nil || !slices.Contains(wanted[first:last], false) {
		return whole, nil
	}
	defer whole.Release()
	if !slices.Contains(wanted[first:last], true) {
		return nil, nil
	}
	b := array.NewBooleanBuilder(c.alloc)
	defer b.Release()
	b.AppendValues(wanted[first:last], nil)
	mask := b.NewArray()
	defer mask.Release()
	return compute.FilterRecordBatch(compute.WithAllocator(ctx, c.alloc), whole, mask, compute.DefaultFilterOptions())
}

// decide says which rows of a row group are wanted; nil means all. Rows that are not there for the reader do not meet the filter, which
// could fail on what they hold.
func (c *columnar) decide(ctx context.Context, g *cold.Group) (wanted []bool, err error) {
	after := c.plan.req.GetAfterSeq()
	var ids []uint32
	if !c.plan.req.GetIncludeDeleted() && g.Segment.GetTombstones() > 0 {
		ids = append(ids, catalog.DeletedColumnID)
	}
	if after > 0 && g.Segment.GetSeqMin() <= after {
		ids = append(ids, catalog.SeqColumnID)
	}
	own := len(ids)
	if ids = append(ids, c.filterIDs...); c.plan.filter == nil && own == 0 {
		return nil, nil
	}
	batches, err := g.Read(ctx, ids)
	if err != nil {
		return nil, err
	}
	defer releaseAll(batches)
	for _, rec := range batches {
		rows := make([]bool, rec.NumRows())
		for i := range rows {
			rows[i] = true
		}
		for _, column := range rec.Columns()[:own] {
			hide(rows, column, after)
		}
		if c.plan.filter != nil {
			of := array.NewRecordBatch(c.filterSchema, rec.Columns()[own:], rec.NumRows())
			err = c.plan.filter.NarrowBatch(&c.plan.env, of, rows)
			of.Release()
		}
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, rows...)
	}
	return wanted, nil
}

// hide takes out the rows that _deleted or _seq says are not there for the reader.
func hide(rows []bool, column arrow.Array, after uint64) {
	switch values := column.(type) {
	case *array.Boolean:
		for i := range rows {
			rows[i] = !values.Value(i)
		}
	case *array.Int64:
		for i := range rows {
			rows[i] = rows[i] && uint64(values.Value(i)) > after
		}
	}
}

func count(rows []bool) (n int) {
	for _, wanted := range rows {
		if wanted {
			n++
		}
	}
	return n
}

func releaseAll(batches []arrow.RecordBatch) {
	for _, b := range batches {
		b.Release()
	}
}
