package scan

import (
	"context"

	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// cancelEvery is how many rows are looked at between two looks at the context: about 100 µs of work.
const cancelEvery = 256

// run feeds the matching rows to the output, in order, within offset and limit.
func (p *plan) run(ctx context.Context, in rows, out *output, sortBytesMax int) error {
	if p.sortBy == nil {
		return p.streamed(ctx, in, out)
	}
	s := newSorter(p, sortBytesMax)
	err := p.each(ctx, in, func(r *row, key []byte) (bool, error) {
		return true, s.add(r, key)
	})
	if err != nil {
		return err
	}
	return p.sorted(ctx, s, out)
}

// streamed passes rows on, those of segments by columns where that is possible.
func (p *plan) streamed(ctx context.Context, in rows, out *output) error {
	if both, ok := in.(*merged); ok {
		c, err := newColumnar(p, out.alloc)
		if err != nil {
			return err
		}
		if c != nil {
			return c.stream(ctx, both, out)
		}
	}
	return p.stream(ctx, in, out)
}

// stream passes rows on as they come, and stops reading at the limit.
func (p *plan) stream(ctx context.Context, in rows, out *output) error {
	skip, left := p.req.GetOffset(), p.req.GetLimit()
	return p.each(ctx, in, func(r *row, _ []byte) (bool, error) {
		if skip > 0 {
			skip--
			return true, nil
		}
		if err := out.add(r); err != nil {
			return false, err
		}
		if left == 0 { // no limit
			return true, nil
		}
		left--
		return left > 0, nil
	})
}

// each calls visit for every row that matches, until it returns false.
func (p *plan) each(ctx context.Context, in rows, visit func(r *row, key []byte) (bool, error)) error {
	m := newMatcher(p, in)
	for {
		if more, err := m.step(ctx); err != nil || !more {
			return err
		}
		if !m.match {
			continue
		}
		if more, err := visit(m.row, m.key); err != nil || !more {
			return err
		}
	}
}

// matcher goes over rows one by one.
type matcher struct {
	plan *plan
	in   rows
	n    int
	// row and key are where it stands; match says whether the plan wants the row.
	row   *row
	key   []byte
	match bool
}

func newMatcher(p *plan, in rows) *matcher { return &matcher{plan: p, in: in, row: newRow(p)} }

// step goes to the next row; false at the end.
func (m *matcher) step(ctx context.Context) (more bool, err error) {
	if m.n++; m.n%cancelEvery == 0 && ctx.Err() != nil {
		return false, ctx.Err()
	}
	key, v, ok, err := m.in.next()
	if err != nil || !ok {
		return false, err
	}
	m.key, m.row.user = key, m.in.user()
	m.match, err = m.plan.matches(m.row, v)
	return err == nil, err
}

func (p *plan) matches(r *row, v keycodec.Version) (bool, error) {
	if v.Deleted && !p.req.GetIncludeDeleted() || v.Seq <= p.req.GetAfterSeq() {
		return false, nil
	}
	r.version = v
	if p.filter == nil {
		return true, nil
	}
	if err := r.load(v, p.filterColumns); err != nil {
		return false, err
	}
	return p.filter.Matches(&p.env, r)
}

// sorted passes on what the sorter kept.
func (p *plan) sorted(ctx context.Context, s *sorter, out *output) error {
	kept := s.finish()
	kept = kept[min(p.req.GetOffset(), uint64(len(kept))):]
	if limit := p.req.GetLimit(); limit > 0 && limit < uint64(len(kept)) {
		kept = kept[:limit]
	}
	r := newRow(p)
	for i := range kept {
		if i%cancelEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		r.version, r.user = kept[i].version, kept[i].user
		if err := out.add(r); err != nil {
			return err
		}
	}
	return nil
}
