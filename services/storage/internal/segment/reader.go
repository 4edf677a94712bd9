package segment

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sort"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// Reader reads one segment. It is safe for concurrent use.
type Reader struct {
	parquet   *file.Reader
	arrow     *pqarrow.FileReader
	schema    *arrow.Schema
	firstKeys [][]byte
	blooms    blooms
}

// Rows are decoded versions, ascending by key.
type Rows struct {
	Keys     [][]byte
	Versions []keycodec.Version
	// Bytes is what they hold in memory.
	Bytes int
}

// Open reads a file's footer. Whoever opens it has compared its checksum.
func Open(r io.ReaderAt, size int64) (out *Reader, err error) {
	defer recovered(&err)
	f, err := file.NewParquetReader(io.NewSectionReader(r, 0, size))
	if err != nil {
		return nil, corrupt("%w", err)
	}
	ar, err := pqarrow.NewFileReader(f, pqarrow.ArrowReadProperties{}, memory.DefaultAllocator)
	if err != nil {
		return nil, corrupt("%w", err)
	}
	s := &Reader{parquet: f, arrow: ar}
	if s.schema, err = ar.Schema(); err != nil {
		return nil, corrupt("%w", err)
	}
	meta := f.MetaData().KeyValueMetadata()
	format := meta.FindValue(formatKey)
	if format == nil {
		return nil, corrupt("it has no %s", formatKey)
	}
	if v, err := strconv.Atoi(*format); err != nil || v < 1 {
		return nil, corrupt("its format is %q", *format)
	} else if v > Format {
		return nil, dberr.New(dberr.Unsupported, "a segment of format %d, this version reads up to %d: use a newer version", v, Format)
	}
	first := meta.FindValue(firstKeysKey)
	if first == nil {
		return nil, corrupt("it has no %s", firstKeysKey)
	}
	if s.firstKeys, err = decodeFirstKeys(*first); err != nil {
		return nil, err
	}
	if len(s.firstKeys) != f.NumRowGroups() {
		return nil, corrupt("%d first keys of %d row groups", len(s.firstKeys), f.NumRowGroups())
	}
	return s, nil
}

// recovered turns a panic of the Parquet library, which trusts what it reads, into an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = corrupt("%w", fmt.Errorf("%v", p))
	}
}

// RowGroups is how many there are.
func (r *Reader) RowGroups() int { return len(r.firstKeys) }

// FirstKey is the least key of a row group.
func (r *Reader) FirstKey(group int) []byte { return r.firstKeys[group] }

// GroupOf is the row group that has the key if any has it; -1 when the key is below all.
func (r *Reader) GroupOf(key []byte) int {
	return sort.Search(len(r.firstKeys), func(i int) bool { return bytes.Compare(r.firstKeys[i], key) > 0 }) - 1
}

// Read decodes a row group for table t: the columns with the ids given, nil for all. The others read as NULL. The
// versions have t's schema version, as their rows are encoded anew for it.
func (r *Reader) Read(ctx context.Context, group int, t *catalog.Table, columnIDs []uint32) (rows *Rows, err error) {
	defer recovered(&err)
	d := newDecoder(r.schema, t, columnIDs)
	table, err := r.arrow.ReadRowGroups(ctx, d.leaves, []int{group})
	if err != nil {
		if ctx.Err() != nil {
			return nil, dberr.FromStatus(ctx.Err())
		}
		return nil, corrupt("row group %d: %w", group, err)
	}
	defer table.Release()
	batches := array.NewTableReader(table, 0)
	defer batches.Release()
	rows = &Rows{Keys: make([][]byte, 0, table.NumRows()), Versions: make([]keycodec.Version, 0, table.NumRows())}
	for batches.Next() {
		if err := d.decode(batches.RecordBatch(), rows); err != nil {
			return nil, err
		}
	}
	if err := batches.Err(); err != nil {
		return nil, corrupt("row group %d: %w", group, err)
	}
	return rows, nil
}

// decoder turns columns into rows.
type decoder struct {
	table *catalog.Table
	// leaves are the file's columns to read; places where each goes: a position in the table's columns, or one of the
	// marks below.
	leaves []int
	places []int
	types  []catalog.Type
	row    rowcodec.Row
	key    []datum.Datum
	// buf has the keys and rows of one batch.
	buf []byte
}

const (
	placeSeq     = -1
	placeDeleted = -2
)

func newDecoder(schema *arrow.Schema, t *catalog.Table, columnIDs []uint32) *decoder {
	d := &decoder{table: t, row: rowcodec.NewRow(t), key: make([]datum.Datum, len(t.Key()))}
	wanted := map[uint32]int{}
	for i := range t.Columns {
		if c := &t.Columns[i]; columnIDs == nil || c.PrimaryKey {
			wanted[c.ID] = i
		}
	}
	for _, i := range t.Key() {
		wanted[t.Columns[i].ID] = i
	}
	for _, id := range columnIDs {
		for i := range t.Columns {
			if t.Columns[i].ID == id {
				wanted[id] = i
			}
		}
	}
	wanted[catalog.SeqColumnID], wanted[catalog.DeletedColumnID] = placeSeq, placeDeleted
	for i, f := range schema.Fields() {
		id, ok := rowbatch.ColumnID(f)
		if !ok {
			continue
		}
		if place, ok := wanted[id]; ok {
			d.leaves, d.places, d.types = append(d.leaves, i), append(d.places, place), append(d.types, typeOf(f))
		}
	}
	return d
}

// decode appends the rows of a batch. All of them share one piece of memory.
func (d *decoder) decode(rec arrow.RecordBatch, rows *Rows) error {
	if int(rec.NumCols()) != len(d.places) {
		return corrupt("%d columns where %d were asked for", rec.NumCols(), len(d.places))
	}
	n, first := int(rec.NumRows()), len(rows.Keys)
	ends := make([]int, 0, 2*n)
	d.buf = nil
	for i := range n {
		v, err := d.load(rec, i)
		if err != nil {
			return err
		}
		d.buf = keycodec.AppendKeyValues(d.buf, d.key)
		ends = append(ends, len(d.buf))
		d.buf = rowcodec.Append(d.buf, d.table, &d.row)
		ends = append(ends, len(d.buf))
		rows.Keys, rows.Versions = append(rows.Keys, nil), append(rows.Versions, v)
	}
	start := 0
	for i := range n {
		rows.Keys[first+i] = d.buf[start:ends[2*i]:ends[2*i]]
		rows.Versions[first+i].Row = d.buf[ends[2*i]:ends[2*i+1]:ends[2*i+1]]
		start = ends[2*i+1]
	}
	rows.Bytes += cap(d.buf) + n*rowOverhead
	return nil
}

// rowOverhead is what a decoded row holds besides its bytes: two slices and the rest of a version.
const rowOverhead = 72

// load reads row i into d.row and d.key.
func (d *decoder) load(rec arrow.RecordBatch, i int) (keycodec.Version, error) {
	v := keycodec.Version{SchemaVersion: d.table.SchemaVersion}
	d.row.Reset()
	for c, place := range d.places {
		value := d.valueAt(rec.Column(c), i, d.types[c])
		switch {
		case place == placeSeq && !value.IsNull():
			v.Seq = uint64(value.AsInt())
		case place == placeDeleted && !value.IsNull():
			v.Deleted = value.AsBool()
		case place >= 0 && (!value.IsNull() || len(d.table.Columns[place].Missing) > 0): // else NULL and absent are the same
			d.row.Put(place, value)
		}
	}
	if v.Seq == 0 {
		return v, corrupt("a row without _seq")
	}
	for n, place := range d.table.Key() {
		if !d.row.Set[place] {
			return v, corrupt("a row without its key column %s", d.table.Columns[place].Name)
		}
		d.key[n] = d.row.Values[place]
	}
	return v, nil
}

// typeOf is the type of a file's column; the only lists are embeddings.
func typeOf(f arrow.Field) catalog.Type {
	if f.Type.ID() == arrow.LIST {
		return catalog.Type{Kind: catalog.Embedding}
	}
	return rowbatch.TypeOf(f)
}

func (d *decoder) valueAt(column arrow.Array, i int, t catalog.Type) datum.Datum {
	if list, ok := column.(*array.List); ok && t.Kind == catalog.Embedding {
		return embeddingAt(list, i)
	}
	return rowbatch.DatumAt(column, i, t)
}
