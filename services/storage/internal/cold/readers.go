// Package cold is the cold tier of a node: the files of segments, reading them, and writing new ones from the hot store.
package cold

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/segment"
)

const (
	// readersMax bounds the segments that are kept open: each holds a file and its footer.
	readersMax = 512
	// loadTimeout bounds opening a segment, fetching it from another replica included.
	loadTimeout = 2 * time.Minute
	// blocksBytesDefault bounds the decoded row groups that are kept.
	blocksBytesDefault = 64 << 20
)

// Fetch gets a segment's file that is missing or damaged here from another replica of the shard.
type Fetch func(ctx context.Context, shard uint32, seg *storagev1.Segment) error

// Readers keep segments open and row groups decoded. They are safe for concurrent use.
type Readers struct {
	files *Files
	fetch Fetch
	// Remote has what is not local; nil: nothing is. Set it before anything is read.
	Remote Remote

	mu   sync.Mutex
	open *simplelru.LRU[string, *opened]
	// suspects are segments that could not be decoded though their checksum was right when they were opened.
	suspects map[string]bool

	blocks blocks

	// ctx ends with Close, which waits for loading.
	ctx     context.Context
	cancel  context.CancelFunc
	loading sync.WaitGroup
}

// opened is an open segment. It is closed when it is neither kept nor in use.
type opened struct {
	// loaded is closed when it is known whether the segment can be read: err, file and reader do not change afterwards, but that the file is
	// closed at last. They, users and kept are guarded by Readers.mu.
	loaded chan struct{}
	err    error
	file   vfs.File
	reader *segment.Reader
	users  int
	kept   bool
}

// NewReaders makes readers of files. blocksBytes bounds decoded row groups, zero means 64 MiB. fetch may be nil: nobody else
// has the files.
func NewReaders(files *Files, blocksBytes int64, fetch Fetch) (*Readers, error) {
	r := &Readers{files: files, fetch: fetch, suspects: map[string]bool{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	var err error
	if r.open, err = simplelru.NewLRU[string, *opened](readersMax, func(_ string, o *opened) { r.drop(o) }); err == nil {
		err = r.blocks.init(blocksBytes)
	}
	if err != nil {
		return nil, dberr.New(dberr.Internal, "make the readers of segments: %w", err)
	}
	return r, nil
}

// Files are what the readers read.
func (r *Readers) Files() *Files { return r.files }

// Close closes what is not in use.
func (r *Readers) Close() {
	r.cancel()
	r.loading.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open.Purge()
}

// drop lets go of a segment that is not kept any longer. mu is held.
func (r *Readers) drop(o *opened) {
	o.kept = false
	if o.users == 0 && o.file != nil {
		_ = o.file.Close() // it was only read
	}
}

// use opens a segment, or finds it open. Call the result when done with it. Whoever comes first has it loaded for all, in a time that
// is nobody's own.
func (r *Readers) use(ctx context.Context, shard uint32, seg *storagev1.Segment) (*segment.Reader, func(), error) {
	r.mu.Lock()
	o, ok := r.open.Get(nameOf(seg))
	if !ok {
		o = &opened{kept: true, loaded: make(chan struct{}), users: 1} // the loader uses it
		r.open.Add(nameOf(seg), o)
		r.loading.Go(func() { r.loadFor(shard, seg, o) })
	}
	o.users++
	r.mu.Unlock()
	release := func() { r.release(nameOf(seg), o) }
	select {
	case <-o.loaded:
	case <-ctx.Done():
		release()
		return nil, nil, dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "open segment %s: %w", seg.GetPath(), ctx.Err())
	}
	if o.err != nil {
		release()
		return nil, nil, o.err
	}
	return o.reader, release, nil
}

// loadFor loads a segment for those who wait.
func (r *Readers) loadFor(shard uint32, seg *storagev1.Segment, o *opened) {
	ctx, cancel := context.WithTimeout(r.ctx, loadTimeout)
	defer cancel()
	file, reader, err := r.load(ctx, shard, seg)
	r.mu.Lock()
	o.file, o.reader, o.err = file, reader, err
	r.mu.Unlock()
	close(o.loaded)
	r.release(nameOf(seg), o)
}

func (r *Readers) release(path string, o *opened) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o.users--
	if o.err != nil && o.kept { // the next one tries again
		if kept, ok := r.open.Peek(path); ok && kept == o {
			r.open.Remove(path)
		}
	}
	if o.users == 0 && !o.kept && o.file != nil {
		_ = o.file.Close() // it was only read
		o.file = nil
	}
}

// load opens a segment's file; one that is missing or damaged is fetched first.
func (r *Readers) load(ctx context.Context, shard uint32, seg *storagev1.Segment) (vfs.File, *segment.Reader, error) {
	file, err := r.OpenFile(ctx, shard, seg)
	if err != nil {
		return nil, nil, unreadable(seg, err)
	}
	reader, err := segment.Open(file, int64(seg.GetBytes()))
	if err != nil {
		return nil, nil, errors.Join(unreadable(seg, err), file.Close())
	}
	return file, reader, nil
}

// OpenFile opens a segment's file, which is what the segment says: it is fetched first when it is not here.
func (r *Readers) OpenFile(ctx context.Context, shard uint32, seg *storagev1.Segment) (vfs.File, error) {
	if seg.GetStorageId() != "" {
		if r.Remote == nil {
			return nil, dberr.New(dberr.Unsupported, "segment %s is in storage '%s', which is not read here", seg.GetPath(), seg.GetStorageId())
		}
		return r.Remote.Open(ctx, seg)
	}
	file, err := r.files.OpenChecked(seg)
	if (dberr.Is(err, dberr.NotFound) || dberr.Is(err, dberr.Corrupt)) && r.fetch != nil {
		if fetchErr := r.fetch(ctx, shard, seg); fetchErr != nil {
			return nil, errors.Join(fetchErr, err)
		}
		file, err = r.files.OpenChecked(seg)
	}
	return file, err
}

// remoteMark is in the names of segments that are not local, and in no path.
const remoteMark = "\x00"

// nameOf tells segments apart, whichever storage they are in.
func nameOf(seg *storagev1.Segment) string {
	if seg.GetStorageId() == "" {
		return seg.GetPath()
	}
	return fmt.Sprintf("%s"+remoteMark+"%d"+remoteMark+"%s", seg.GetStorageId(), seg.GetLocation(), seg.GetPath())
}

func unreadable(seg *storagev1.Segment, err error) error {
	code := dberr.CodeOf(err)
	if code == dberr.NotFound { // of the file, not of what the caller asked for
		code = dberr.Corrupt
	}
	return dberr.New(code, "segment %s: %w", seg.GetPath(), err)
}

// block returns a decoded row group, as table t has it, with the columns asked for (nil for all).
func (r *Readers) block(ctx context.Context, reader *segment.Reader, seg *storagev1.Segment, group int, t *catalog.Table, columns []uint32) (*segment.Rows, error) {
	key := blockKey{path: nameOf(seg), group: group, version: t.SchemaVersion, columns: columnsKey(columns)}
	if rows, ok := r.blocks.get(key); ok {
		return rows, nil
	}
	rows, err := reader.Read(ctx, group, t, columns)
	if err != nil {
		return nil, r.distrust(seg, err)
	}
	r.blocks.put(key, rows)
	return rows, nil
}

// distrust has a segment that cannot be decoded opened anew: its checksum was right when it was opened, so the disk has changed or fails, and
// the next reader compares it again and fetches another copy. Only one that is unreadable then as well is corrupt.
func (r *Readers) distrust(seg *storagev1.Segment, err error) error {
	if !dberr.Is(err, dberr.Corrupt) {
		return unreadable(seg, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.suspects[nameOf(seg)] {
		return unreadable(seg, err)
	}
	r.suspects[nameOf(seg)] = true
	r.open.Remove(nameOf(seg))
	return dberr.New(dberr.Unavailable, "segment %s could not be read and is looked at again: %w", seg.GetPath(), err)
}

// blocks are the decoded row groups that were used last, up to a number of bytes.
type blocks struct {
	mu    sync.Mutex
	kept  *simplelru.LRU[blockKey, *segment.Rows]
	bytes int64
	max   int64
}

type blockKey struct {
	path    string
	group   int
	version uint32
	columns string
}

// columnsKey tells lists of columns apart; all of them are nil.
func columnsKey(ids []uint32) string {
	if ids == nil {
		return "*"
	}
	b := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		b = append(b, byte(id), byte(id>>8), byte(id>>16), byte(id>>24))
	}
	return string(b)
}

// blocksMax bounds them by number; bytes are the real limit.
const blocksMax = 1 << 16

func (b *blocks) init(max int64) (err error) {
	if b.max = max; max == 0 {
		b.max = blocksBytesDefault
	}
	b.kept, err = simplelru.NewLRU[blockKey, *segment.Rows](blocksMax, func(_ blockKey, rows *segment.Rows) { b.bytes -= int64(rows.Bytes) })
	return err
}

func (b *blocks) get(key blockKey) (*segment.Rows, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept.Get(key)
}

func (b *blocks) put(key blockKey, rows *segment.Rows) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kept.Contains(key) {
		return // somebody else decoded it meanwhile
	}
	b.kept.Add(key, rows)
	b.bytes += int64(rows.Bytes)
	for b.bytes > b.max {
		if _, _, ok := b.kept.RemoveOldest(); !ok {
			return
		}
	}
}

// forget lets go of the row groups of files below a folder.
func (b *blocks) forget(whose func(name string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range b.kept.Keys() {
		if whose(key.path) {
			b.kept.Remove(key)
		}
	}
}

// Columns normalizes a list of column ids for reading: ascending and distinct.
func Columns(ids []uint32) []uint32 {
	out := slices.Clone(ids)
	if out == nil {
		out = []uint32{}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
