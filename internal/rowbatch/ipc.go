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
	if err := checkFrames(data); err != nil {
		return nil, nil, decodeFailed(bounded, err)
	}
	r, err := ipc.NewReader(bytes.NewReader(data), ipc.WithAllocator(bounded),
		ipc.WithBodySizeLimit(int64(bytesMax)), ipc.WithMetadataSizeLimit(int64(bytesMax)))
	if err != nil {
		return nil, nil, decodeFailed(bounded, err)
	}
	defer r.Release()
	if err := checkSchema(r.Schema()); err != nil {
		return nil, nil, decodeFailed(bounded, err)
	}
	for r.Next() {
		rec := r.RecordBatch()
		if rec.NumRows() < 0 || rec.NumRows() > rowsPerByteMax*int64(bytesMax) { // NULLs and no columns need no bytes
			return nil, batches, dberr.New(dberr.LimitExceeded, "decode batches: %d rows are more than %d bytes can hold", rec.NumRows(), bytesMax)
		}
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

// decimalDigitsMax is the precision of the widest decimal, Decimal256.
const decimalDigitsMax = 76

// checkSchema refuses types whose parameters Arrow's code would trip over, and types that no column and no
// engine result has.
func checkSchema(schema *arrow.Schema) error {
	for _, f := range schema.Fields() {
		if err := checkType(f.Type); err != nil {
			return fmt.Errorf("column %s: %w", f.Name, err)
		}
	}
	return nil
}

func checkType(dt arrow.DataType) error {
	ok := true
	switch t := dt.(type) {
	case arrow.DecimalType:
		ok = t.GetPrecision() >= 1 && t.GetPrecision() <= decimalDigitsMax && t.GetScale() >= 0 && t.GetScale() <= t.GetPrecision()
	case *arrow.FixedSizeBinaryType:
		ok = t.ByteWidth >= 0
	case *arrow.FixedSizeListType:
		if t.Len() < 0 {
			return fmt.Errorf("a list of %d elements", t.Len())
		}
		return checkType(t.Elem())
	case *arrow.DictionaryType:
		return checkType(t.ValueType)
	case arrow.ExtensionType:
		if t.ExtensionName() != uuidExtension {
			return fmt.Errorf("extension type %s is not supported", t.ExtensionName())
		}
		return checkType(t.StorageType())
	case *arrow.ListType, *arrow.LargeListType, *arrow.MapType:
		return checkType(dt.(arrow.ListLikeType).Elem())
	case *arrow.StructType:
		return checkSchema(arrow.NewSchema(t.Fields(), nil))
	case *arrow.NullType, *arrow.BooleanType, *arrow.StringType, *arrow.LargeStringType, *arrow.BinaryType, *arrow.LargeBinaryType,
		*arrow.TimestampType, *arrow.Time32Type, *arrow.Time64Type, *arrow.Date32Type, *arrow.Date64Type:
	default:
		ok = arrow.IsInteger(dt.ID()) || arrow.IsFloating(dt.ID())
	}
	if !ok {
		return fmt.Errorf("type %s is not supported", dt.Name())
	}
	return nil
}

// rowsPerByteMax is what the narrowest column needs: one bit.
const rowsPerByteMax = 8

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
