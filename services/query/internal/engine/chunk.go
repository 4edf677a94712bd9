package engine

import (
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow"
	duckdb "github.com/duckdb/duckdb-go-bindings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// batchBytesMax bounds the values of one batch: DuckDB lets many values of a result share their memory,
// a batch holds each by itself, outside of DuckDB's memory limit.
const batchBytesMax = 64 << 20

// resultChunk is a chunk of a result, handed over in one piece if that is not too large.
type resultChunk struct {
	chunk duckdb.DataChunk
	rows  int
	at    int // first row not handed over
	// fixed is what a row takes in columns of fixed size, of those that can be large.
	fixed int
	texts []textColumn
}

type textColumn struct {
	cells []stringCell
	valid func(int) bool
}

// newResultChunk takes the chunk over.
func newResultChunk(chunk duckdb.DataChunk, schema *arrow.Schema) *resultChunk {
	c := &resultChunk{chunk: chunk, rows: int(duckdb.DataChunkGetSize(chunk))}
	for i, f := range schema.Fields() {
		switch t := f.Type.(type) {
		case *arrow.StringType, *arrow.BinaryType:
			v := duckdb.DataChunkGetVector(chunk, duckdb.IdxT(i))
			c.texts = append(c.texts, textColumn{cells: values[stringCell](v, c.rows), valid: valid(v)})
		case *arrow.FixedSizeListType:
			c.fixed += int(t.Len()) * arrow.Float32SizeBytes
		}
	}
	return c
}

func (c *resultChunk) done() bool { return c.at >= c.rows }

// next returns the end of the rows that fit in a batch, one at least.
func (c *resultChunk) next() (end int, err error) {
	total := 0
	for end = c.at; end < c.rows; end++ {
		row := c.fixed
		for _, t := range c.texts {
			if t.valid(end) {
				row += int(t.cells[end].length)
			}
		}
		if row > batchBytesMax {
			return 0, dberr.New(dberr.LimitExceeded, "a row of the result has more than %d MiB (limit batch_bytes_max)", batchBytesMax>>20)
		}
		if total += row; total > batchBytesMax {
			break
		}
	}
	return end, nil
}

// slice returns rows of the chunk as a chunk, which release frees.
func (c *resultChunk) slice(from, to int) (part duckdb.DataChunk, release func()) {
	if from == 0 && to == c.rows {
		return c.chunk, func() {}
	}
	selection := duckdb.CreateSelectionVector(duckdb.IdxT(to - from))
	list := unsafe.Slice((*uint32)(unsafe.Pointer(duckdb.SelectionVectorGetDataPtr(selection))), to-from)
	for i := range list {
		list[i] = uint32(from + i)
	}
	n := int(duckdb.DataChunkGetColumnCount(c.chunk))
	types := make([]duckdb.LogicalType, n)
	for i := range types {
		types[i] = duckdb.VectorGetColumnType(duckdb.DataChunkGetVector(c.chunk, duckdb.IdxT(i)))
		defer duckdb.DestroyLogicalType(&types[i])
	}
	part = duckdb.CreateDataChunk(types)
	for i := range duckdb.IdxT(n) {
		v := duckdb.DataChunkGetVector(part, i)
		duckdb.VectorReferenceVector(v, duckdb.DataChunkGetVector(c.chunk, i))
		duckdb.SliceVector(v, selection, duckdb.IdxT(to-from))
	}
	duckdb.DataChunkSetSize(part, duckdb.IdxT(to-from))
	return part, func() {
		duckdb.DestroyDataChunk(&part)
		duckdb.DestroySelectionVector(&selection)
	}
}

func (c *resultChunk) destroy() { duckdb.DestroyDataChunk(&c.chunk) }
