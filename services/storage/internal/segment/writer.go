package segment

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"slices"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// Writer writes one segment. It is not safe for concurrent use.
type Writer struct {
	table   *catalog.Table
	to      *hashing
	file    *pqarrow.FileWriter
	schema  *arrow.Schema // the file's
	builder *rowbatch.Builder
	row     rowcodec.Row
	bytes   int

	firstKeys [][]byte
	key       []byte // of the last row
	seg       *storagev1.Segment
	stats     []columnStats
}

// NewWriter begins a segment of t's rows. End it with Finish or Abort.
func NewWriter(w io.Writer, t *catalog.Table) (*Writer, error) {
	columns := fields(t)
	schema, err := schemaOf(columns)
	if err != nil {
		return nil, err
	}
	built, err := rowbatch.SchemaOf(columns)
	if err != nil {
		return nil, err
	}
	return &Writer{table: t, to: &hashing{to: w, sum: sha256.New()}, schema: schema, builder: rowbatch.NewBuilder(memory.DefaultAllocator, built, columns),
		row: rowcodec.NewRow(t), stats: make([]columnStats, len(t.Columns)),
		seg: &storagev1.Segment{SchemaVersion: t.SchemaVersion, Format: Format}}, nil
}

// open begins the file, when its first row group is complete: a small segment is known by then. Filters are as large as a row group
// with as many values needs, several times the rest of a small file, which is decoded as fast as it is asked.
func (w *Writer) open() (err error) {
	options := []parquet.WriterProperty{parquet.WithCompression(compress.Codecs.Zstd), parquet.WithCompressionLevel(1),
		parquet.WithMaxRowGroupLength(rowGroupRows), parquet.WithPageIndexEnabled(true), parquet.WithCreatedBy("KalamDB")}
	for i := range w.table.Key() {
		if name := w.table.KeyColumn(i).Name; w.builder.Rows() >= bloomRowsMin && bloomable(w.table.KeyColumn(i).Type.Kind) {
			options = append(options, parquet.WithBloomFilterEnabledPath(parquet.ColumnPath{name}, true),
				parquet.WithBloomFilterNDVPath(parquet.ColumnPath{name}, int64(w.builder.Rows())))
		}
	}
	w.file, err = pqarrow.NewFileWriter(w.schema, w.to, parquet.NewWriterProperties(options...), pqarrow.NewArrowWriterProperties(pqarrow.WithStoreSchema()))
	if err != nil {
		return dberr.New(dberr.Internal, "begin a segment of %s: %w", w.table.QualifiedName(), err)
	}
	return nil
}

// Add appends a version. key is the primary key (keycodec.AppendKeyValues), greater than the one before.
func (w *Writer) Add(key []byte, v keycodec.Version) error {
	if w.seg.Rows > 0 && bytes.Compare(key, w.key) <= 0 {
		return dberr.New(dberr.Internal, "a segment of %s gets its keys out of order", w.table.QualifiedName())
	}
	if v.SchemaVersion > w.table.SchemaVersion {
		return newerThan(w.table, v.SchemaVersion)
	}
	if err := rowcodec.DecodeStored(v.Row, w.table, &w.row); err != nil {
		return err
	}
	if w.builder.Rows() == 0 {
		w.firstKeys = append(w.firstKeys, bytes.Clone(key))
	}
	for i := range w.table.Columns {
		d := w.row.Values[i]
		if err := w.builder.Append(i, d); err != nil {
			return err
		}
		w.stats[i].add(d)
	}
	n := len(w.table.Columns)
	if err := w.builder.Append(n, datum.Int(int64(v.Seq))); err != nil {
		return err
	}
	if err := w.builder.Append(n+1, datum.Bool(v.Deleted)); err != nil {
		return err
	}
	w.builder.EndRow()
	w.note(key, v)
	if w.builder.Rows() >= rowGroupRows || w.builder.Bytes() >= rowGroupBytes {
		return w.flush()
	}
	return nil
}

func (w *Writer) note(key []byte, v keycodec.Version) {
	s := w.seg
	if s.Rows == 0 {
		s.KeyMin, s.SeqMin = bytes.Clone(key), v.Seq
	}
	s.Rows++
	if v.Deleted {
		s.Tombstones++
	}
	s.SeqMin, s.SeqMax = min(s.SeqMin, v.Seq), max(s.SeqMax, v.Seq)
	w.key = append(w.key[:0], key...)
	w.bytes += len(v.Row) + len(key)
}

// flush writes a row group.
func (w *Writer) flush() error {
	if w.file == nil {
		if err := w.open(); err != nil {
			return err
		}
	}
	if w.builder.Rows() == 0 {
		return nil
	}
	built := w.builder.NewBatch()
	defer built.Release()
	rec := withLists(w.schema, built)
	defer rec.Release()
	if err := w.file.Write(rec); err != nil {
		return writeFailed(err)
	}
	return nil
}

// Rows is how many were added.
func (w *Writer) Rows() int { return int(w.seg.Rows) }

// Bytes is what was added, before it is compressed.
func (w *Writer) Bytes() int { return w.bytes }

// Finish ends the file and tells what is in it: everything but its path, storage and time.
func (w *Writer) Finish() (*storagev1.Segment, error) {
	defer w.builder.Release()
	if err := w.flush(); err != nil {
		return nil, err
	}
	err := w.file.AppendKeyValueMetadata(formatKey, strconv.Itoa(Format))
	if err == nil {
		err = w.file.AppendKeyValueMetadata(firstKeysKey, encodeFirstKeys(w.firstKeys))
	}
	if err == nil {
		err = w.file.Close()
	}
	if err != nil {
		return nil, writeFailed(err)
	}
	w.seg.KeyMax = w.key
	w.seg.Bytes, w.seg.Sha256 = w.to.bytes, w.to.sum.Sum(nil)
	for i := range w.stats {
		w.seg.Columns = append(w.seg.Columns, w.stats[i].segmentColumn(w.table.Columns[i].ID))
	}
	return w.seg, nil
}

// Abort frees what an unfinished writer holds.
func (w *Writer) Abort() { w.builder.Release() }

// newerThan refuses to write rows with an older version of their table than they have: values of columns that it does not
// know would be lost.
func newerThan(t *catalog.Table, version uint32) error {
	return dberr.New(dberr.SchemaChanged, "%s has rows of schema version %d, and %d is what this node knew of it: try again",
		t.QualifiedName(), version, t.SchemaVersion)
}

func writeFailed(err error) error {
	return dberr.New(dberr.Unavailable, "write a segment: %w", err)
}

// hashing counts and sums up what passes through. The sum comes first: a file may change what it writes.
type hashing struct {
	to    io.Writer
	sum   hash.Hash
	bytes uint64
}

func (h *hashing) Write(p []byte) (int, error) {
	_, _ = h.sum.Write(p) // a hash never fails
	n, err := h.to.Write(p)
	h.bytes += uint64(n)
	return n, err
}

// columnStats are the least and the greatest value of a column, as keys encode them.
type columnStats struct {
	nulls    uint64
	min, max []byte
	values   bool
	// over: a value was too long to be kept.
	over bool
	buf  []byte
}

func (s *columnStats) add(d datum.Datum) {
	if d.IsNull() {
		s.nulls++
		return
	}
	if s.over {
		return
	}
	switch d.Kind() {
	case datum.KindEmbedding, datum.KindBytes: // nobody asks for ranges of them
		s.over = true
		return
	}
	s.buf = keycodec.AppendDatum(s.buf[:0], d)
	if len(s.buf) > statBytesMax {
		s.over = true
		return
	}
	if !s.values || bytes.Compare(s.buf, s.min) < 0 {
		s.min = append(s.min[:0], s.buf...)
	}
	if !s.values || bytes.Compare(s.buf, s.max) > 0 {
		s.max = append(s.max[:0], s.buf...)
	}
	s.values = true
}

func (s *columnStats) segmentColumn(id uint32) *storagev1.SegmentColumn {
	c := &storagev1.SegmentColumn{ColumnId: id, Nulls: s.nulls}
	if s.values && !s.over {
		c.Min, c.Max = slices.Clone(s.min), slices.Clone(s.max)
	}
	return c
}
