package scan

import (
	"bytes"
	"container/heap"
	"slices"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// topRowsMax is the largest limit (offset included) that a heap serves; above it everything is sorted,
// which costs no more then.
const topRowsMax = 10_000

type sortColumn struct {
	id                     uint32
	descending, nullsFirst bool
}

// sortedRow is a row kept for later. Its key compares as the order wants (bytes.Compare).
type sortedRow struct {
	key     []byte
	version keycodec.Version
	user    datum.Datum // shared by the rows of a partition
}

// sortedRowOverhead is what a kept row costs besides its bytes.
const sortedRowOverhead = 144

func (r *sortedRow) bytes() int { return sortedRowOverhead + len(r.key) + len(r.version.Row) }

// sorter keeps the rows that may be in the result: all, or with a small limit the best, in a heap whose
// top is the worst.
type sorter struct {
	plan  *plan
	top   int // zero: keep all
	max   int
	bytes int
	kept  []sortedRow
	buf   []byte
}

func newSorter(p *plan, bytesMax int) *sorter {
	s := &sorter{plan: p, max: bytesMax}
	if n := p.wanted(); n <= topRowsMax {
		s.top = int(n)
	}
	return s
}

func (s *sorter) add(r *row, key []byte) error {
	if err := r.load(r.version, s.plan.sortColumns); err != nil {
		return err
	}
	s.buf = s.plan.appendSortKey(s.buf[:0], r)
	s.buf = append(s.buf, key...) // ties in the order of the primary key: every run gives the same answer
	if s.top > 0 && len(s.kept) == s.top {
		if bytes.Compare(s.buf, s.kept[0].key) >= 0 {
			return nil
		}
		s.bytes -= s.kept[0].bytes()
		s.kept[0] = s.copyOf(r)
		heap.Fix((*worstFirst)(&s.kept), 0)
		return s.check()
	}
	s.kept = append(s.kept, s.copyOf(r))
	if s.top > 0 && len(s.kept) == s.top {
		heap.Init((*worstFirst)(&s.kept))
	}
	return s.check()
}

func (s *sorter) copyOf(r *row) sortedRow {
	c := sortedRow{key: bytes.Clone(s.buf), version: r.version, user: r.user}
	c.version.Row = bytes.Clone(r.version.Row)
	s.bytes += c.bytes()
	return c
}

func (s *sorter) check() error {
	if s.bytes <= s.max {
		return nil
	}
	return dberr.New(dberr.LimitExceeded, "scan: sorting %s needs more than %d bytes (sort memory of a scan): add a LIMIT or a filter",
		s.plan.table.QualifiedName(), s.max)
}

func (s *sorter) finish() []sortedRow {
	slices.SortFunc(s.kept, func(a, b sortedRow) int { return bytes.Compare(a.key, b.key) })
	return s.kept
}

// appendSortKey encodes the values to sort by: for each whether it is NULL, then the value as keys encode
// it, all bits turned where the order is descending.
func (p *plan) appendSortKey(dst []byte, r *row) []byte {
	for _, c := range p.sortBy {
		d := r.Column(c.id)
		if d.IsNull() {
			dst = append(dst, nullMark(c.nullsFirst))
			continue
		}
		dst = append(dst, valueMark)
		start := len(dst)
		dst = keycodec.AppendDatum(dst, d)
		if c.descending {
			for i := start; i < len(dst); i++ {
				dst[i] = ^dst[i]
			}
		}
	}
	return dst
}

const valueMark byte = 1

func nullMark(first bool) byte {
	if first {
		return valueMark - 1
	}
	return valueMark + 1
}

// worstFirst is a heap of rows, the last in order at the top.
type worstFirst []sortedRow

func (h worstFirst) Len() int           { return len(h) }
func (h worstFirst) Less(i, j int) bool { return bytes.Compare(h[i].key, h[j].key) > 0 }
func (h worstFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface; rows are replaced, never pushed.
func (h *worstFirst) Push(x any) { *h = append(*h, x.(sortedRow)) }

// Pop implements heap.Interface; rows are replaced, never popped.
func (h *worstFirst) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
