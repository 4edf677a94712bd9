package match

import (
	"sort"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// Change is a decoded change. It is decoded once for all shapes of one version of the table.
type Change struct {
	table *catalog.Table
	// old and new are the versions before and after; nil where there is none.
	old, new *version
	seq      uint64
}

// version is one version of a row.
type version struct {
	table  *catalog.Table
	values []datum.Datum
	seq    uint64
}

// Altered is the error of a change that a later version of the table has made: its rows may hold what t does not know.
func Altered(t *catalog.Table) error {
	return dberr.New(dberr.SchemaChanged, "table %s was altered; subscribe again from position", t.QualifiedName())
}

// Decode decodes a change for a version of its table, which is not older than the change.
func Decode(t *catalog.Table, ch *storagev1.Change) (*Change, error) {
	if ch.GetSchemaVersion() > t.SchemaVersion {
		return nil, Altered(t)
	}
	c := &Change{table: t, seq: ch.GetSeq()}
	var err error
	switch ch.GetKind() {
	case storagev1.ChangeKind_CHANGE_KIND_INSERT:
		c.new, err = decodeVersion(t, ch.GetRow(), ch.GetSeq())
	case storagev1.ChangeKind_CHANGE_KIND_UPDATE:
		if c.old, err = decodeVersion(t, ch.GetOldRow(), ch.GetOldSeq()); err == nil {
			c.new, err = decodeVersion(t, ch.GetRow(), ch.GetSeq())
		}
	case storagev1.ChangeKind_CHANGE_KIND_DELETE:
		c.old, err = decodeVersion(t, ch.GetOldRow(), ch.GetOldSeq())
	default:
		err = dberr.New(dberr.Corrupt, "change %d of %s: kind %d is not known", ch.GetSeq(), t.QualifiedName(), ch.GetKind())
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Seq is the change's position.
func (c *Change) Seq() uint64 { return c.seq }

// Table is the version of the table the change was decoded for.
func (c *Change) Table() *catalog.Table { return c.table }

func decodeVersion(t *catalog.Table, src []byte, seq uint64) (*version, error) {
	row := rowcodec.NewRow(t)
	if err := rowcodec.DecodeStored(src, t, &row); err != nil {
		return nil, err
	}
	return &version{table: t, values: row.Values, seq: seq}, nil
}

// Column makes a version a row that predicates read.
func (v *version) Column(id uint32) datum.Datum {
	if i, ok := v.find(id); ok {
		return v.values[i]
	}
	return v.system(id)
}

// find returns a column's position. Ids count from 1, so without dropped columns it is the first guess.
func (v *version) find(id uint32) (int, bool) {
	cols := v.table.Columns
	if i := int(id) - 1; i >= 0 && i < len(cols) && cols[i].ID == id {
		return i, true
	}
	i := sort.Search(len(cols), func(i int) bool { return cols[i].ID >= id })
	return i, i < len(cols) && cols[i].ID == id
}

func (v *version) system(id uint32) datum.Datum {
	switch id {
	case catalog.SeqColumnID:
		return datum.Int(int64(v.seq))
	case catalog.DeletedColumnID:
		return datum.Bool(false)
	case catalog.UpdatedColumnID:
		return datum.Timestamp(v.timeUS())
	}
	return datum.Null
}

// timeUS is when the version was written.
func (v *version) timeUS() int64 { return snowflake.Time(v.seq, snowflake.SeqEpoch).UnixMicro() }
