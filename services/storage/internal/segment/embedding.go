package segment

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/datum"
)

// Parquet has no lists of fixed size, and the library refuses those with NULLs among them. So embeddings are lists here.
var embeddingType = arrow.ListOf(arrow.PrimitiveTypes.Float32)

// withLists replaces the embeddings of a batch by lists.
func withLists(schema *arrow.Schema, rec arrow.RecordBatch) arrow.RecordBatch {
	columns := make([]arrow.Array, rec.NumCols())
	for i := range columns {
		if fixed, ok := rec.Column(i).(*array.FixedSizeList); ok {
			columns[i] = listOf(fixed)
			defer columns[i].Release()
			continue
		}
		columns[i] = rec.Column(i)
	}
	return array.NewRecordBatch(schema, columns, rec.NumRows())
}

func listOf(fixed *array.FixedSizeList) arrow.Array {
	b := array.NewListBuilder(memory.DefaultAllocator, arrow.PrimitiveTypes.Float32)
	defer b.Release()
	to, from := b.ValueBuilder().(*array.Float32Builder), fixed.ListValues().(*array.Float32)
	for i := range fixed.Len() {
		if fixed.IsNull(i) {
			b.AppendNull()
			continue
		}
		b.Append(true)
		start, end := fixed.ValueOffsets(i)
		to.AppendValues(from.Float32Values()[start:end], nil)
	}
	return b.NewArray()
}

// embeddingAt reads a list; anything else than floats in it is NULL.
func embeddingAt(list *array.List, i int) datum.Datum {
	values, ok := list.ListValues().(*array.Float32)
	if !ok || list.IsNull(i) {
		return datum.Null
	}
	start, end := list.ValueOffsets(i)
	return datum.Embedding(values.Float32Values()[start:end])
}
