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
		return p.stream(ctx, in, out)
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
	r := newRow(p)
	for n := 1; ; n++ {
		if n%cancelEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		key, v, ok, err := in.next()
		if err != nil || !ok {
			return err
		}
		r.user = in.user()
		match, err := p.matches(r, v)
		if err != nil {
			return err
		}
		if !match {
			continue
		}
		if more, err := visit(r, key); err != nil || !more {
			return err
		}
	}
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
