package statement

import (
	"bytes"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
)

// A batch beyond the budget is refused before it is copied.
func TestABatchBeyondTheBudgetIsNotEncoded(t *testing.T) {
	schema := arrow.NewSchema([]arrow.Field{{Name: "a", Type: arrow.BinaryTypes.String}, {Name: "b", Type: arrow.BinaryTypes.Binary}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for range 10 {
		b.Field(0).(*array.StringBuilder).Append(strings.Repeat("x", 100))
		b.Field(1).(*array.BinaryBuilder).Append(make([]byte, 100))
	}
	batch := b.NewRecordBatch()
	defer batch.Release()
	for _, c := range []struct {
		left, rows uint64
		ok         bool
	}{{1500, 10, false}, {1500, 3, true}, {10_000, 10, true}} {
		var buf bytes.Buffer
		left := int(c.left)
		w := ipc.NewWriter(&buf, ipc.WithSchema(schema))
		err := appendBatch(w, &buf, batch, &call{rowsMax: c.rows, bytesLeft: &left}, &queryv1.StatementResult{})
		if c.ok != (err == nil) || err != nil && !dberr.Is(err, dberr.LimitExceeded) {
			t.Errorf("%d bytes for %d rows: %v", c.left, c.rows, err)
		}
		if !c.ok && buf.Len() > 0 {
			t.Errorf("%d bytes were written", buf.Len())
		}
	}
}
