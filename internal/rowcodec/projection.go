package rowcodec

import (
	"encoding/binary"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Projection decodes chosen columns of many stored rows without copying. It is immutable.
type Projection struct {
	table *catalog.Table
	want  []bool
	// chosen are the positions wanted, last the highest of them, -1 for none.
	chosen []int
	last   int
	// absent are what the chosen ones are in rows without them, and err says that one cannot be known.
	absent []datum.Datum
	err    error
}

// NewProjection chooses columns of t by id; ids that t does not have are ignored.
func NewProjection(t *catalog.Table, columnIDs []uint32) *Projection {
	p := &Projection{table: t, want: make([]bool, len(t.Columns)), last: -1}
	for _, id := range columnIDs {
		for i := range t.Columns {
			if t.Columns[i].ID == id && !p.want[i] {
				p.want[i] = true
				p.chosen = append(p.chosen, i)
				p.last = max(p.last, i)
				d, err := missing(t, i)
				if p.absent = append(p.absent, d); err != nil {
					p.err = err
				}
			}
		}
	}
	return p
}

// DecodeShared reads the chosen columns into r, which must have been made for the table; the others are
// left as they are. Text shares src's memory: r is good until src changes. Columns after the last one
// chosen are not looked at.
func (p *Projection) DecodeShared(src []byte, r *Row) error {
	if p.err != nil {
		return p.err
	}
	for n, i := range p.chosen {
		r.Values[i], r.Set[i] = p.absent[n], !p.absent[n].IsNull()
	}
	if len(src) == 0 || src[0] != version1 {
		return dberr.New(dberr.Corrupt, "decode row of %s: unknown format", p.table.QualifiedName())
	}
	src = src[1:]
	columns := p.table.Columns
	next := 0
	for len(src) > 0 && next <= p.last {
		id, w := binary.Uvarint(src)
		if w <= 0 {
			return dberr.New(dberr.Corrupt, "decode row of %s: bad column id", p.table.QualifiedName())
		}
		for next < len(columns) && uint64(columns[next].ID) < id {
			next++
		}
		var err error
		if next < len(columns) && uint64(columns[next].ID) == id && p.want[next] {
			src, err = p.value(src[w:], next, r)
		} else {
			src, err = datum.Skip(src[w:])
		}
		if err != nil {
			return dberr.New(dberr.Corrupt, "decode row of %s, column %d: %w", p.table.QualifiedName(), id, err)
		}
	}
	return nil
}

func (p *Projection) value(src []byte, i int, r *Row) ([]byte, error) {
	d, rest, err := datum.DecodeShared(src)
	if err != nil {
		return nil, err
	}
	if c := &p.table.Columns[i]; !d.IsNull() && d.Kind() != datum.KindOf(c.Type) {
		return nil, dberr.New(dberr.Corrupt, "column %s holds a %s", c.Name, d.Kind())
	}
	r.Put(i, d)
	return rest, nil
}
