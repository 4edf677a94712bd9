package predicate

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
)

// MatchesBatch sets dst[i] to whether the condition is TRUE for row i. Fields are found by the column
// id in their metadata (see rowbatch); dst must be as long as the batch.
func (p *Program) MatchesBatch(env *Env, rec arrow.RecordBatch, dst []bool) error {
	if int64(len(dst)) != rec.NumRows() {
		return dberr.New(dberr.Internal, "a batch of %d rows was given %d results", rec.NumRows(), len(dst))
	}
	for i := range dst {
		dst[i] = true
	}
	return p.NarrowBatch(env, rec, dst)
}

// NarrowBatch sets keep[i] to false for the rows for which the condition is not TRUE. Rows for which it is false already are not looked at.
// keep must be as long as the batch.
func (p *Program) NarrowBatch(env *Env, rec arrow.RecordBatch, keep []bool) error {
	if int64(len(keep)) != rec.NumRows() {
		return dberr.New(dberr.Internal, "a batch of %d rows was given %d marks", rec.NumRows(), len(keep))
	}
	row, err := newBatchRow(p.columns, rec)
	if err != nil {
		return err
	}
	if p.root.test == nil {
		return dberr.New(dberr.InvalidArgument, "a condition must be BOOLEAN, not %s", typeName(p.root.typ))
	}
	return p.root.narrow(env, row, keep)
}

// EvalBatch computes the value for every row and hands it to each, in order; each may return an error
// to stop. Values are valid while the batch is.
func (p *Program) EvalBatch(env *Env, rec arrow.RecordBatch, each func(row int, d datum.Datum) error) error {
	row, err := newBatchRow(p.columns, rec)
	if err != nil {
		return err
	}
	for i := range int(rec.NumRows()) {
		row.at = i
		d, err := p.Eval(env, row)
		if err != nil {
			return err
		}
		if err := each(i, d); err != nil {
			return err
		}
	}
	return nil
}

// batchRow reads one row of a batch after the other.
type batchRow struct {
	columns []batchColumn
	at      int
}

type batchColumn struct {
	id   uint32
	typ  catalog.Type
	data arrow.Array
	text *array.String // data, when it is text: read without a copy
}

func newBatchRow(ids []uint32, rec arrow.RecordBatch) (*batchRow, error) {
	row := &batchRow{columns: make([]batchColumn, 0, len(ids))}
	fields := map[uint32]int{}
	for i, f := range rec.Schema().Fields() {
		if id, ok := rowbatch.ColumnID(f); ok {
			fields[id] = i
		}
	}
	for _, id := range ids {
		i, ok := fields[id]
		if !ok {
			return nil, dberr.New(dberr.Internal, "the batch lacks column %d, which the expression reads", id)
		}
		c := batchColumn{id: id, typ: rowbatch.TypeOf(rec.Schema().Field(i)), data: rec.Column(i)}
		c.text, _ = c.data.(*array.String)
		row.columns = append(row.columns, c)
	}
	return row, nil
}

// array is a column's values; nil when the batch does not have it.
func (r *batchRow) array(id uint32) arrow.Array {
	for i := range r.columns {
		if r.columns[i].id == id {
			return r.columns[i].data
		}
	}
	return nil
}

// Column implements RowReader. Expressions read few columns, so a search beats a map.
func (r *batchRow) Column(id uint32) datum.Datum {
	for i := range r.columns {
		c := &r.columns[i]
		if c.id != id {
			continue
		}
		if c.text == nil {
			return rowbatch.DatumAt(c.data, r.at, c.typ)
		}
		if c.text.IsNull(r.at) {
			return datum.Null
		}
		return datum.Text(c.text.Value(r.at))
	}
	return datum.Null
}
