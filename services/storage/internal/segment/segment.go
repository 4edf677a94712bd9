// Package segment is the format of a segment: a Parquet file with row versions of one partition, in ascending order of
// their primary key, each key once.
//
// Columns are the table's, with field_id = column id, then _seq and _deleted. Row groups have at most rowGroupRows
// rows. The file's metadata holds kalamdb.format, the version of this layout, and kalamdb.first_keys, the first key of
// each row group as keycodec encodes it: Parquet's own statistics know no order over several key columns. Key columns
// have bloom filters, for us and for others. This is a disk format: a change needs a new number and a reader of the old.
package segment

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
)

const (
	// Format is the version of the layout that is written.
	Format = 1

	formatKey    = "kalamdb.format"
	firstKeysKey = "kalamdb.first_keys"
	fieldIDKey   = "PARQUET:field_id" // how Arrow hands a field's id to Parquet

	// rowGroupRows is what reading one row costs: a row group is decoded whole. Smaller ones cost space and time in scans.
	rowGroupRows = 8192
	// rowGroupBytes ends a row group of wide rows early.
	rowGroupBytes = 8 << 20

	// bloomRowsMin is the least first row group that gets filters.
	bloomRowsMin = 1024

	// RowsMax and BytesMax are where a flushed segment is full: apply walks as many rows as it has, in one go.
	RowsMax  = 65_536
	BytesMax = 64 << 20

	// statBytesMax is the longest value kept as a column's least or greatest.
	statBytesMax = 64
)

// fields are the columns of a file: those of the table, _seq and _deleted.
func fields(t *catalog.Table) []catalog.Column {
	columns := make([]catalog.Column, 0, len(t.Columns)+2)
	columns = append(columns, t.Columns...)
	return append(columns,
		catalog.Column{ID: catalog.SeqColumnID, Name: catalog.SeqColumn, Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true},
		catalog.Column{ID: catalog.DeletedColumnID, Name: catalog.DeletedColumn, Type: catalog.Type{Kind: catalog.Boolean}, NotNull: true})
}

// schemaOf is the Arrow schema of a file.
func schemaOf(columns []catalog.Column) (*arrow.Schema, error) {
	s, err := rowbatch.SchemaOf(columns)
	if err != nil {
		return nil, err
	}
	out := s.Fields()
	for i := range out {
		if columns[i].Type.Kind == catalog.Embedding {
			out[i].Type = embeddingType
		}
		if columns[i].ID >= catalog.SeqColumnID {
			continue // ids of ours, which Parquet's signed ones have no room for
		}
		keys, values := out[i].Metadata.Keys(), out[i].Metadata.Values()
		out[i].Metadata = arrow.NewMetadata(append(keys, fieldIDKey), append(values, strconv.FormatUint(uint64(columns[i].ID), 10)))
	}
	return arrow.NewSchema(out, nil), nil
}

// encodeFirstKeys encodes the keys with their lengths before them.
func encodeFirstKeys(keys [][]byte) string {
	var raw []byte
	for _, k := range keys {
		raw = append(binary.AppendUvarint(raw, uint64(len(k))), k...)
	}
	return base64.StdEncoding.EncodeToString(raw)
}

func decodeFirstKeys(text string) ([][]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, corrupt("its first keys: %w", err)
	}
	var keys [][]byte
	for len(raw) > 0 {
		n, w := binary.Uvarint(raw)
		if w <= 0 || n > uint64(len(raw)-w) {
			return nil, corrupt("its first keys are cut off")
		}
		raw = raw[w:]
		keys = append(keys, raw[:n:n])
		raw = raw[n:]
	}
	return keys, nil
}

func corrupt(format string, args ...any) error {
	return dberr.New(dberr.Corrupt, "segment: %w", fmt.Errorf(format, args...))
}
