package transaction

import (
	"iter"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storedrow"
)

// Table is the newest version of every row of a table that the transaction wrote. It changes between statements only.
type Table struct {
	table *catalog.Table
	empty *storedrow.Row
	byKey map[string]int // position in rows
	rows  []*storedrow.Row
}

func newTable(t *catalog.Table) *Table {
	return &Table{table: t, empty: storedrow.New(t), byKey: map[string]int{}}
}

// put stages a version. A row that is inserted must not be there already.
func (s *Table) put(row *storedrow.Row, insert bool, ordinal int) error {
	var key []byte
	for _, i := range s.table.Key() {
		key = datum.Append(key, row.Values[i])
	}
	at, there := s.byKey[string(key)]
	if insert && there && !s.rows[at].Deleted {
		return dberr.New(dberr.PrimaryKeyViolation, "Primary key violation: a row with the same key was written earlier in the "+
			"transaction, for %s (row %d)", s.table.QualifiedName(), ordinal)
	}
	if there {
		s.rows[at] = row
		return nil
	}
	s.byKey[string(key)] = len(s.rows)
	s.rows = append(s.rows, row)
	return nil
}

// Has reports whether the row with a key was written; value gives the values of the key's columns, in their order.
func (s *Table) Has(value func(i int) datum.Datum) bool {
	var buf [64]byte
	key := buf[:0]
	for i := range s.table.Key() {
		key = datum.Append(key, value(i))
	}
	_, ok := s.byKey[string(key)]
	return ok
}

// Rows are the rows written, deleted ones included, in the order they were written first.
func (s *Table) Rows() iter.Seq[*storedrow.Row] {
	return func(yield func(*storedrow.Row) bool) {
		for _, r := range s.rows {
			if !yield(r) {
				return
			}
		}
	}
}
