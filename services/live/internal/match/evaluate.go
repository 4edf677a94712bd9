package match

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/celljson"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// Evaluate says what a change means to the shape's subscriptions, without naming them; nil when it
// means nothing. oldKnown is false when the subscriber was never sent the old version.
//
// A row that starts to match is an INSERT, one that stops matching a DELETE. An UPDATE is delivered
// even when no projected column changed, because _seq did.
func (s *Shape) Evaluate(c *Change, oldKnown bool) (*livev1.Changed, error) {
	var before, after bool
	var err error
	if oldKnown {
		if before, err = s.matches(c.old); err != nil {
			return nil, err
		}
	}
	if after, err = s.matches(c.new); err != nil {
		return nil, err
	}
	out := &livev1.Changed{Seq: c.seq}
	switch {
	case before && after:
		out.Kind = livev1.Kind_KIND_UPDATE
		if out.Rows, err = s.encode(c.new, c.seq, presentNew(s, c.new)); err == nil {
			out.OldRows, err = s.encodeOld(c)
		}
	case after:
		out.Kind = livev1.Kind_KIND_INSERT
		out.Rows, err = s.encode(c.new, c.seq, nil)
	case before:
		out.Kind = livev1.Kind_KIND_DELETE
		// The _seq of a deleted row is the deletion's: every event carries its position, so that a
		// client which resumes from the highest _seq it saw is not sent the deletion again.
		out.OldRows, err = s.encode(c.old, c.seq, nil)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// matches evaluates the filter on a version. NOW() is the time when that version was written, for both
// versions: so a row that matched when it came is still known as one that must be taken back, and a
// change means the same whether it is delivered at once or read later from the change log.
func (s *Shape) matches(v *version) (bool, error) {
	if v == nil {
		return false, nil
	}
	if s.filter == nil {
		return true, nil
	}
	env := predicate.Env{UserID: s.userID, Role: s.role}
	if s.filter.TimeDependent() {
		env.NowUS = v.timeUS()
	}
	return s.filter.Matches(&env, v)
}

// presentNew selects the columns of an UPDATE's new row: all that are not NULL, the key and _seq. The
// seed's encoding and Arrow have whole rows.
func presentNew(s *Shape, v *version) []bool {
	if s.wholeRows() || s.rows == nil {
		return nil
	}
	present := make([]bool, len(s.columns))
	for i := range s.columns {
		present[i] = s.identifies(i) || !s.value(v, i).IsNull()
	}
	return present
}

func (s *Shape) wholeRows() bool { return s.encoding == livev1.Encoding_ENCODING_SEED_JSON }

// identifies says that a column belongs to every row: the key and _seq.
func (s *Shape) identifies(i int) bool {
	return s.columns[i].PrimaryKey || s.columns[i].ID == catalog.SeqColumnID
}

// encodeOld encodes an UPDATE's old row: the columns that changed, the key and the old _seq.
func (s *Shape) encodeOld(c *Change) ([]byte, error) {
	if s.wholeRows() {
		return s.encode(c.old, c.old.seq, nil)
	}
	changed := make([]bool, len(s.columns))
	for i := range s.columns {
		changed[i] = s.identifies(i) || !datum.Equal(s.value(c.old, i), s.value(c.new, i))
	}
	return s.encode(c.old, c.old.seq, changed)
}

func (s *Shape) value(v *version, i int) datum.Datum {
	if p := s.positions[i]; p >= 0 {
		return v.values[p]
	}
	return v.system(s.columns[i].ID)
}

// encode writes an array of one row; present selects columns, nil means all.
func (s *Shape) encode(v *version, seq uint64, present []bool) ([]byte, error) {
	row := make([]datum.Datum, len(s.columns))
	size := 0
	for i := range s.columns {
		if s.columns[i].ID == catalog.SeqColumnID {
			row[i] = datum.Int(int64(seq))
		} else {
			row[i] = s.value(v, i)
		}
		size += cellBytes + len(s.columns[i].Name) + len(row[i].AsText())
	}
	if s.rows == nil {
		return s.encodeArrow(row, present)
	}
	d := s.Dialect()
	out := celljson.AppendArrayStart(make([]byte, 0, size), 1, d)
	var err error
	if present == nil {
		out, err = s.rows.AppendObject(out, row)
	} else {
		out, err = s.rows.AppendObjectOf(out, row, present)
	}
	if err != nil {
		return nil, err
	}
	return celljson.AppendArrayEnd(out, d), nil
}

// cellBytes is what a cell costs in JSON besides name and text: quotes, colon, comma, short numbers.
const cellBytes = 16

// encodeArrow writes an IPC stream of one row that holds the present columns only: its schema says
// which.
func (s *Shape) encodeArrow(row []datum.Datum, present []bool) ([]byte, error) {
	columns, values, schema := s.columns, row, s.schema
	if present != nil {
		columns, values = nil, nil
		for i := range s.columns {
			if present[i] {
				columns = append(columns, s.columns[i])
				values = append(values, row[i])
			}
		}
		var err error
		if schema, err = rowbatch.SchemaOf(columns); err != nil {
			return nil, err
		}
	}
	b := rowbatch.NewBuilder(memory.DefaultAllocator, schema, columns)
	defer b.Release()
	for i, d := range values {
		if err := b.Append(i, d); err != nil {
			return nil, err
		}
	}
	b.EndRow()
	rec := b.NewBatch()
	defer rec.Release()
	return rowbatch.Encode(memory.DefaultAllocator, schema, []arrow.RecordBatch{rec}, rowBytesMax)
}
