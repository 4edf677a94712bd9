package segment

import (
	"context"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
)

// Has reports whether the file has a column with f's id and exactly f's type: then its arrays can be used as they are.
func (r *Reader) Has(id uint32, t arrow.DataType) bool {
	for _, f := range r.schema.Fields() {
		if have, ok := rowbatch.ColumnID(f); ok && have == id {
			return arrow.TypeEqual(f.Type, t)
		}
	}
	return false
}

// GroupRows is how many rows a row group has.
func (r *Reader) GroupRows(group int) int { return int(r.parquet.MetaData().RowGroups[group].NumRows) }

// ReadColumns reads columns of a row group as they are, in the order of ids, all of which the file must have. Release the batches, whose
// rows follow each other.
func (r *Reader) ReadColumns(ctx context.Context, group int, ids []uint32) (batches []arrow.RecordBatch, err error) {
	defer recovered(&err)
	leaves, err := r.leavesOf(ids)
	if err != nil {
		return nil, err
	}
	inFile := slices.Compact(slices.Sorted(slices.Values(leaves))) // the order in which they are read
	table, err := r.arrow.ReadRowGroups(ctx, inFile, []int{group})
	if err != nil {
		if ctx.Err() != nil {
			return nil, dberr.FromStatus(ctx.Err())
		}
		return nil, corrupt("row group %d: %w", group, err)
	}
	defer table.Release()
	places, fields := make([]int, len(ids)), make([]arrow.Field, len(ids))
	for n, leaf := range leaves {
		places[n], fields[n] = slices.Index(inFile, leaf), r.schema.Field(leaf)
	}
	schema := arrow.NewSchema(fields, nil)
	read := array.NewTableReader(table, 0)
	defer read.Release()
	for read.Next() {
		rec := read.RecordBatch()
		if rec.NumCols() != int64(len(inFile)) {
			releaseAll(batches)
			return nil, corrupt("%d columns where %d were asked for", rec.NumCols(), len(inFile))
		}
		columns := make([]arrow.Array, len(places))
		for n, at := range places {
			columns[n] = rec.Column(at)
		}
		batches = append(batches, array.NewRecordBatch(schema, columns, rec.NumRows()))
	}
	if err := read.Err(); err != nil {
		releaseAll(batches)
		return nil, corrupt("row group %d: %w", group, err)
	}
	return batches, nil
}

// leavesOf are the places of columns in the file.
func (r *Reader) leavesOf(ids []uint32) ([]int, error) {
	leaves := make([]int, len(ids))
	for n, id := range ids {
		at := slices.IndexFunc(r.schema.Fields(), func(f arrow.Field) bool { have, ok := rowbatch.ColumnID(f); return ok && have == id })
		if at < 0 {
			return nil, dberr.New(dberr.Internal, "the file has no column %d", id)
		}
		leaves[n] = at
	}
	return leaves, nil
}

func releaseAll(batches []arrow.RecordBatch) {
	for _, b := range batches {
		b.Release()
	}
}
