// Package rowcodec is the format of one row, on disk and between roles: a version byte, then for each
// present column its id (uvarint) and its value (see datum.Append), in ascending order of id.
//
// A column that is absent takes the column's DEFAULT on INSERT. In a stored row it was added after the row was written,
// and reads as what the column says of such rows (catalog.Column.Missing), NULL unless it was added as NOT NULL. Columns
// are named by id, so renaming, adding or dropping one rewrites nothing; values of a dropped column are skipped by the reader.
package rowcodec

import (
	"encoding/binary"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const version1 = 1

// Row holds a table version's values in the order of its Columns.
type Row struct {
	Values []datum.Datum
	// Set says which columns were present.
	Set []bool
}

// NewRow makes an empty row for t.
func NewRow(t *catalog.Table) Row {
	return Row{Values: make([]datum.Datum, len(t.Columns)), Set: make([]bool, len(t.Columns))}
}

// Put sets the column at position i of the table's Columns.
func (r *Row) Put(i int, d datum.Datum) {
	r.Values[i] = d
	r.Set[i] = true
}

// Reset empties the row for reuse.
func (r *Row) Reset() {
	clear(r.Values)
	clear(r.Set)
}

// Append encodes the columns of r that are set. t.Columns must be in ascending order of id, as the
// catalog keeps them.
func Append(dst []byte, t *catalog.Table, r *Row) []byte {
	dst = append(dst, version1)
	for i := range t.Columns {
		if !r.Set[i] {
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(t.Columns[i].ID))
		dst = datum.Append(dst, r.Values[i])
	}
	return dst
}

// DecodeStored reads a row that is stored, or was: columns it is older than are as the table shows them.
func DecodeStored(src []byte, t *catalog.Table, r *Row) error {
	if err := Decode(src, t, r); err != nil {
		return err
	}
	for i := range t.Columns {
		if r.Set[i] || len(t.Columns[i].Missing) == 0 {
			continue
		}
		d, err := missing(t, i)
		if err != nil {
			return err
		}
		r.Put(i, d)
	}
	return nil
}

// missing is what a stored row shows of a column it is older than.
func missing(t *catalog.Table, i int) (datum.Datum, error) {
	c := &t.Columns[i]
	if len(c.Missing) == 0 {
		return datum.Null, nil
	}
	d, rest, err := datum.Decode(c.Missing)
	if err != nil || len(rest) > 0 || d.Kind() != datum.KindOf(c.Type) {
		return datum.Null, dberr.New(dberr.Corrupt, "what rows of %s from before column %s show does not decode", t.QualifiedName(), c.Name)
	}
	return d, nil
}

// Decode reads a row to be written into r, which must have been made for t. Columns unknown to t are skipped.
// Malformed input, also a value of another kind than its column's, is answered with a Corrupt error.
func Decode(src []byte, t *catalog.Table, r *Row) error {
	r.Reset()
	if len(src) == 0 || src[0] != version1 {
		return dberr.New(dberr.Corrupt, "decode row of %s: unknown format", t.QualifiedName())
	}
	src = src[1:]
	next := 0 // ids ascend, so the search goes on where the last one ended
	for len(src) > 0 {
		id, w := binary.Uvarint(src)
		if w <= 0 {
			return dberr.New(dberr.Corrupt, "decode row of %s: bad column id", t.QualifiedName())
		}
		d, rest, err := datum.Decode(src[w:])
		if err != nil {
			return dberr.New(dberr.Corrupt, "decode row of %s, column %d: %w", t.QualifiedName(), id, err)
		}
		src = rest
		for next < len(t.Columns) && uint64(t.Columns[next].ID) < id {
			next++
		}
		if next == len(t.Columns) || uint64(t.Columns[next].ID) != id {
			continue
		}
		if !d.IsNull() && d.Kind() != datum.KindOf(t.Columns[next].Type) {
			return dberr.New(dberr.Corrupt, "decode row of %s: column %s holds a %s", t.QualifiedName(),
				t.Columns[next].Name, d.Kind())
		}
		r.Put(next, d)
	}
	return nil
}
