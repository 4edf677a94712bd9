package statement

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/exec"
)

// collect reads a bounded result into an Arrow IPC stream.
func collect(ctx context.Context, c *call, rows exec.Rows) (*queryv1.StatementResult, error) {
	var buf bytes.Buffer
	w := ipc.NewWriter(&buf, ipc.WithSchema(rows.Schema()))
	result := &queryv1.StatementResult{}
	for !result.Truncated {
		batch, err := rows.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		err = appendBatch(w, &buf, batch, c, result)
		batch.Release()
		if err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, dberr.New(dberr.Internal, "encode a result: %w", err)
	}
	*c.bytesLeft -= buf.Len()
	result.ArrowIpc = buf.Bytes()
	return result, nil
}

// appendBatch writes a batch as far as the row limit allows.
func appendBatch(w *ipc.Writer, buf *bytes.Buffer, batch arrow.RecordBatch, c *call, result *queryv1.StatementResult) error {
	if left := c.rowsMax - result.RowCount; uint64(batch.NumRows()) > left {
		result.Truncated = true
		batch = batch.NewSlice(0, int64(left))
		defer batch.Release()
	}
	if batch.NumRows() == 0 {
		return nil
	}
	if err := fits(batch, *c.bytesLeft-buf.Len()); err != nil {
		return err // before it is copied
	}
	result.RowCount += uint64(batch.NumRows())
	if err := w.Write(batch); err != nil {
		return dberr.New(dberr.Internal, "encode a result: %w", err)
	}
	return withinBudget(buf, c.bytesLeft)
}

var errResultBytes = dberr.New(dberr.LimitExceeded,
	"the results of this request are larger than allowed (limit result_bytes_max); stream the query or select less")

func withinBudget(buf *bytes.Buffer, left *int) error {
	if buf.Len() > *left {
		return errResultBytes
	}
	return nil
}

// fits looks at the texts of a batch, which make almost all of a large one.
func fits(batch arrow.RecordBatch, left int) error {
	for _, column := range batch.Columns() {
		switch c := column.(type) {
		case *array.String:
			left -= len(c.ValueBytes())
		case *array.Binary:
			left -= len(c.ValueBytes())
		}
	}
	if left < 0 {
		return errResultBytes
	}
	return nil
}

// encodeBatch writes one batch as a complete stream.
func encodeBatch(batch arrow.RecordBatch, left *int) ([]byte, error) {
	var buf bytes.Buffer
	if err := fits(batch, *left); err != nil {
		return nil, err
	}
	w := ipc.NewWriter(&buf, ipc.WithSchema(batch.Schema()))
	if err := w.Write(batch); err != nil {
		return nil, dberr.New(dberr.Internal, "encode returned rows: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, dberr.New(dberr.Internal, "encode returned rows: %w", err)
	}
	if err := withinBudget(&buf, left); err != nil {
		return nil, err
	}
	*left -= buf.Len()
	return buf.Bytes(), nil
}
