package storages

import (
	"context"
	"encoding/hex"
	"errors"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
)

const (
	// cachedFilesMax bounds the files of the cache by number; bytes are the real limit.
	cachedFilesMax = 1 << 20
	// fetchTries is how often a file is fetched that turns out to be another one.
	fetchTries = 2
)

// cache keeps fetched files on disk, the ones used last, named by what is in them.
type cache struct {
	files *cold.Files
	max   int64

	mu    sync.Mutex
	kept  *simplelru.LRU[string, int64] // path → bytes
	bytes int64
}

func newCache(files *cold.Files, max int64) (*cache, error) {
	c := &cache{files: files, max: max}
	var err error
	if c.kept, err = simplelru.NewLRU[string, int64](cachedFilesMax, func(path string, n int64) { c.evicted(path, n) }); err != nil {
		return nil, dberr.New(dberr.Internal, "make the cache of segments: %w", err)
	}
	err = files.Each(func(path string, bytes int64) error {
		c.add(path, bytes)
		return nil
	})
	return c, err
}

// evicted removes a file. Who has it open goes on reading it. mu is held.
func (c *cache) evicted(path string, n int64) {
	c.bytes -= n
	_ = c.files.Remove(path) // what stays is found at the next start
}

// cached is a segment as the cache names it.
func cached(seg *storagev1.Segment) *storagev1.Segment {
	c := proto.CloneOf(seg)
	name := hex.EncodeToString(seg.GetSha256())
	if len(name) < 2 {
		name = "none"
	}
	c.Path = name[:2] + "/" + name
	return c
}

// add counts a file that is there, and makes room for it.
func (c *cache) add(path string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.kept.Peek(path); ok {
		c.bytes -= old
	}
	c.kept.Add(path, n)
	c.bytes += n
	for c.bytes > c.max && c.kept.Len() > 1 {
		c.kept.RemoveOldest()
	}
}

// openFile opens a file of the cache that is what the segment says.
func (c *cache) openFile(seg *storagev1.Segment) (vfs.File, error) {
	file, err := c.files.OpenChecked(seg)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.kept.Get(seg.GetPath()) // it was used
	} else if dberr.Is(err, dberr.Corrupt) {
		c.kept.Remove(seg.GetPath())
	}
	return file, err
}

// adopt takes a file that was written elsewhere on this disk.
func (c *cache) adopt(from *cold.Files, path string, seg *storagev1.Segment) error {
	in := cached(seg)
	if err := c.files.Adopt(from, path, in.GetPath()); err != nil {
		return err
	}
	c.add(in.GetPath(), int64(seg.GetBytes()))
	return nil
}

// CachePath is the name of a segment's file in the cache.
func CachePath(seg *storagev1.Segment) string { return cached(seg).GetPath() }

// SweepCache removes files from the cache that nobody needs any more: what was erased or dropped must not stay on a disk. Who still reads a
// segment that was replaced fetches it once more.
func (s *Storages) SweepCache(needed func(path string) bool) (removed int) {
	c := s.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, path := range c.kept.Keys() {
		if !needed(path) {
			c.kept.Remove(path)
			removed++
		}
	}
	return removed
}

// Open opens a segment's file, from the cache, or fetches it first. It is what the segment says.
func (s *Storages) Open(ctx context.Context, seg *storagev1.Segment) (vfs.File, error) {
	in := cached(seg)
	var err error
	for range fetchTries {
		var file vfs.File
		if file, err = s.cache.openFile(in); err == nil {
			return file, nil
		}
		if !dberr.Is(err, dberr.NotFound) && !dberr.Is(err, dberr.Corrupt) {
			return nil, err
		}
		_, err, _ = s.fetching.Do(in.GetPath(), func() (any, error) { return nil, s.fetch(ctx, seg, in) })
		if err != nil && !dberr.Is(err, dberr.Corrupt) {
			return nil, err
		}
	}
	if err == nil { // evicted at once, twice
		return s.cache.openFile(in)
	}
	return nil, err
}

func (s *Storages) fetch(ctx context.Context, seg, in *storagev1.Segment) error {
	if err := s.transfers.Acquire(ctx, 1); err != nil {
		return dberr.FromStatus(err)
	}
	defer s.transfers.Release(1)
	store, release, err := s.use(ctx, seg.GetStorageId(), seg.GetLocation())
	if err != nil {
		return err
	}
	defer release()
	file, err := s.cache.files.Create(in.GetPath())
	if err != nil {
		return err
	}
	if err := store.Fetch(ctx, seg.GetPath(), sumOf(seg), file); err != nil {
		return errors.Join(err, file.Abort())
	}
	if err := file.Commit(in); err != nil {
		return err
	}
	s.cache.add(in.GetPath(), int64(seg.GetBytes()))
	return nil
}
