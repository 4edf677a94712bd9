// Package storedrow is one row of a table as expressions of the query role see it: its own columns and the server's.
package storedrow

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
)

// Row is a row and its version. It is a predicate.RowReader.
type Row struct {
	rowcodec.Row
	Seq     uint64
	Deleted bool

	positions map[uint32]int // by column id
}

// New makes an empty row of t.
func New(t *catalog.Table) *Row {
	r := &Row{Row: rowcodec.NewRow(t), positions: make(map[uint32]int, len(t.Columns))}
	for i := range t.Columns {
		r.positions[t.Columns[i].ID] = i
	}
	return r
}

// Another makes an empty row of the same table.
func (r *Row) Another() *Row {
	n := len(r.Values)
	return &Row{Row: rowcodec.Row{Values: make([]datum.Datum, n), Set: make([]bool, n)}, positions: r.positions}
}

// Column gives a column's value, system columns included.
func (r *Row) Column(id uint32) datum.Datum {
	switch id {
	case catalog.SeqColumnID:
		return datum.Int(int64(r.Seq))
	case catalog.DeletedColumnID:
		return datum.Bool(r.Deleted)
	case catalog.UpdatedColumnID:
		return datum.Timestamp(snowflake.Time(r.Seq, snowflake.SeqEpoch).UnixMicro())
	}
	if i, ok := r.positions[id]; ok {
		return r.Values[i]
	}
	return datum.Null
}
