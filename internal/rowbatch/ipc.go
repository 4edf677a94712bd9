package rowbatch

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Encode writes batches of one schema as an IPC stream. Past bytesMax it fails with LimitExceeded.
func Encode(alloc memory.Allocator, schema *arrow.Schema, batches []arrow.RecordBatch, bytesMax int) ([]byte, error) {
	buf := &boundedBuffer{max: bytesMax}
	w := ipc.NewWriter(buf, ipc.WithSchema(schema), ipc.WithAllocator(alloc))
	for _, rec := range batches {
		if err := w.Write(rec); err != nil {
			return nil, encodeFailed(errors.Join(err, w.Close()))
		}
	}
	if err := w.Close(); err != nil {
		return nil, encodeFailed(err)
	}
	return buf.Bytes(), nil
}

func encodeFailed(err error) error {
	if errors.Is(err, errTooLong) {
		return dberr.New(dberr.LimitExceeded, "encode batches: %w", err)
	}
	return dberr.New(dberr.Internal, "encode batches: %w", err)
}

// errTooLong is what a bounded buffer or allocator ends with.
var errTooLong = errors.New("more bytes than allowed")

type boundedBuffer struct {
	bytes.Buffer
	max int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.max {
		return 0, fmt.Errorf("%w (%d)", errTooLong, b.max)
	}
	return b.Buffer.Write(p)
}

// Decode reads an IPC stream from anybody. Data of more than bytesMax, or that would need more than that
// in memory (compressed data may), is refused with LimitExceeded, malformed data with InvalidArgument. The
// batches are checked throughout, so that reading their cells cannot fail; the caller releases them.
func Decode(alloc memory.Allocator, data []byte, bytesMax int) (schema *arrow.Schema, batches []arrow.RecordBatch, err error) {
	if len(data) > bytesMax {
		return nil, nil, dberr.New(dberr.LimitExceeded, "decode batches: %d bytes are more than allowed (%d)", len(data), bytesMax)
	}
	bounded := &boundedAllocator{Allocator: alloc, left: bytesMax}
	defer func() {
		if p := recover(); p != nil { // the reader has recovers of its own, but not everywhere
			err = decodeFailed(bounded, fmt.Errorf("%v", p))
		}
		if err != nil {
			for _, rec := range batches {
				rec.Release()
			}
			schema, batches = nil, nil
		}
	}()
	r, err := ipc.NewReader(bytes.NewReader(data), ipc.WithAllocator(bounded),
		ipc.WithBodySizeLimit(int64(bytesMax)), ipc.WithMetadataSizeLimit(int64(bytesMax)))
	if err != nil {
		return nil, nil, decodeFailed(bounded, err)
	}
	defer r.Release()
	for r.Next() {
		rec := r.RecordBatch()
		if err := array.ValidateRecordFull(rec); err != nil {
			return nil, batches, decodeFailed(bounded, err)
		}
		rec.Retain()
		batches = append(batches, rec)
	}
	if r.Err() != nil {
		return nil, batches, decodeFailed(bounded, r.Err())
	}
	return r.Schema(), batches, nil
}

func decodeFailed(a *boundedAllocator, err error) error {
	if a.exceeded {
		return dberr.New(dberr.LimitExceeded, "decode batches: %w", errTooLong)
	}
	return dberr.New(dberr.InvalidArgument, "decode batches: %w", err)
}

// boundedAllocator panics when more is asked for than it has: the only way out of Arrow's readers, which
// take a decompressed size from the data and allocate it. Decode catches it.
type boundedAllocator struct {
	memory.Allocator
	left     int
	exceeded bool
}

func (a *boundedAllocator) Allocate(size int) []byte {
	a.take(size)
	return a.Allocator.Allocate(size)
}

func (a *boundedAllocator) Reallocate(size int, b []byte) []byte {
	a.take(size - len(b))
	return a.Allocator.Reallocate(size, b)
}

func (a *boundedAllocator) take(n int) {
	if a.left -= n; a.left < 0 {
		a.exceeded = true
		panic(errTooLong)
	}
}
