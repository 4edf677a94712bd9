package scan

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// row is the row under the cursor, as predicates and the output see it.
type row struct {
	values  rowcodec.Row
	version keycodec.Version
	user    datum.Datum
	// places are positions in values by column id, -1 for none; ids are small and dense.
	places []int32
}

func newRow(p *plan) *row {
	t := p.table
	r := &row{values: rowcodec.NewRow(t)}
	for i := range t.Columns {
		for uint32(len(r.places)) <= t.Columns[i].ID {
			r.places = append(r.places, -1)
		}
		r.places[t.Columns[i].ID] = int32(i)
	}
	return r
}

// load makes the chosen columns of a version readable, until src's memory changes.
func (r *row) load(v keycodec.Version, columns *rowcodec.Projection) error {
	r.version = v
	return columns.DecodeShared(v.Row, &r.values)
}

// Column implements predicate.RowReader.
func (r *row) Column(id uint32) datum.Datum {
	if id < uint32(len(r.places)) {
		if i := r.places[id]; i >= 0 {
			return r.values.Values[i]
		}
		return datum.Null
	}
	switch id {
	case catalog.SeqColumnID:
		return datum.Int(int64(r.version.Seq))
	case catalog.DeletedColumnID:
		return datum.Bool(r.version.Deleted)
	case catalog.UpdatedColumnID:
		return datum.Timestamp(snowflake.Time(r.version.Seq, snowflake.SeqEpoch).UnixMicro())
	case catalog.UserIDColumnID:
		return r.user
	}
	return datum.Null
}
