package cold

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/segment"
)

// Partition names one partition of a table in a shard. Owner is empty in tables without partitions.
type Partition struct {
	Shard uint32
	Table *catalog.Table
	Owner string
}

// Output is how segments are written.
type Output struct {
	Files *Files
	// Name makes file names no other leader makes: it is part of them all.
	Name func() string
	Now  func() time.Time
	// Place is where segments of a partition go; nil means the disks of the shard's replicas.
	Place func(shard uint32, t *catalog.Table, owner string) (Place, error)
	// RowsMax and BytesMax are where a segment is full; zero means segment.RowsMax and segment.BytesMax.
	RowsMax, BytesMax int
	// Commit makes a segment part of the partition, when its file is durable here.
	Commit func(ctx context.Context, seg *storagev1.Segment) error
}

// cancelEveryRows is how many rows are written between two looks at the context.
const cancelEveryRows = 1024

// Flush writes the hot rows of a partition, as a view of the hot store has them, into segments.
func (o *Output) Flush(ctx context.Context, hot manifest.Reader, p Partition) (segments []*storagev1.Segment, err error) {
	prefix := keycodec.PartitionPrefix(nil, p.Shard, p.Table.ID, p.Owner)
	span := keycodec.PrefixSpan(prefix)
	it, err := hot.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return nil, hotFailed(err)
	}
	at := it.First()
	segments, err = o.Write(ctx, p, 0, func(context.Context) ([]byte, keycodec.Version, bool, error) {
		if !at {
			return nil, keycodec.Version{}, false, hotFailed(it.Error())
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, keycodec.Version{}, false, hotFailed(err)
		}
		v, err := keycodec.DecodeVersion(value)
		if err != nil {
			return nil, v, false, err
		}
		key := append([]byte(nil), it.Key()[len(prefix):]...)
		v.Row = append([]byte(nil), v.Row...)
		at = it.Next()
		return key, v, true, nil
	})
	return segments, errors.Join(err, it.Close())
}

func hotFailed(err error) error {
	if err == nil {
		return nil
	}
	return dberr.New(dberr.Unavailable, "read the rows to flush: %w", err)
}

// Write writes rows, which next yields in ascending order of their keys, into segments of a level.
func (o *Output) Write(ctx context.Context, p Partition, level uint32, next func(context.Context) ([]byte, keycodec.Version, bool, error)) (segments []*storagev1.Segment, err error) {
	var w *unfinished
	defer func() {
		if w != nil {
			err = errors.Join(err, w.abort())
		}
	}()
	for n := 1; ; n++ {
		if n%cancelEveryRows == 0 && ctx.Err() != nil {
			return segments, dberr.FromStatus(ctx.Err())
		}
		key, v, ok, err := next(ctx)
		if err != nil {
			return segments, err
		}
		if ok && w == nil {
			if w, err = o.begin(p, level); err != nil {
				return segments, err
			}
		}
		if ok {
			if err := w.writer.Add(key, v); err != nil {
				return segments, err
			}
		}
		if w != nil && (!ok || o.full(w.writer)) {
			done := w
			w = nil // finish aborts what it cannot finish
			seg, err := o.finish(ctx, done)
			if err != nil {
				return segments, err
			}
			segments = append(segments, seg)
		}
		if !ok {
			return segments, nil
		}
	}
}

func (o *Output) full(w *segment.Writer) bool {
	return w.Rows() >= cmp.Or(o.RowsMax, segment.RowsMax) || w.Bytes() >= cmp.Or(o.BytesMax, segment.BytesMax)
}

// unfinished is a segment that is being written.
type unfinished struct {
	place  Place
	path   string
	level  uint32
	file   *NewFile
	writer *segment.Writer
}

func (w *unfinished) abort() error {
	w.writer.Abort()
	return w.file.Abort()
}

func (o *Output) begin(p Partition, level uint32) (*unfinished, error) {
	place, err := o.place(p)
	if err != nil {
		return nil, err
	}
	w := &unfinished{place: place, path: o.nameIn(place, p.Shard), level: level}
	if w.file, err = o.Files.Create(localPath(&storagev1.Segment{Path: w.path, StorageId: place.Storage})); err != nil {
		return nil, err
	}
	if w.writer, err = segment.NewWriter(w.file, p.Table); err != nil {
		return nil, errors.Join(err, w.file.Abort())
	}
	return w, nil
}

func (o *Output) finish(ctx context.Context, w *unfinished) (*storagev1.Segment, error) {
	seg, err := w.writer.Finish()
	if err != nil {
		return nil, errors.Join(err, w.file.Abort())
	}
	seg.Path, seg.Level, seg.CreatedUs = w.path, w.level, o.Now().UnixMicro()
	seg.StorageId, seg.Location = w.place.Storage, w.place.Location
	if err := w.file.Commit(seg); err != nil {
		return nil, err
	}
	return seg, o.Commit(ctx, seg)
}
