package storages

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/objectstore"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

const (
	// markKey names the file that says whose a location is. Two clusters in one would remove each other's files.
	markKey = "_kalamdb/cluster"
	// markBytesMax bounds what is read of it.
	markBytesMax = 1024
)

// ours are the names of segments in storages; the number is the shard's. Anything else is somebody else's and stays.
var ours = regexp.MustCompile(`^batch-[0-9a-f]{16}-[A-Za-z0-9-]+-s([0-9]+)\.parquet$`)

// Held says what a node knows of the shards it leads.
type Held struct {
	// Leads reports whether this node leads a shard now.
	Leads func(shard uint32) bool
	// Named reports whether a shard that this node leads names a file: the location's text and the key.
	Named func(file string) bool
}

// File is a file's name among those of all storages.
func File(location, key string) string { return location + "/" + key }

// FileOf is a segment's; "" when its storage is not in this node's catalog.
func (s *Storages) FileOf(seg *storagev1.Segment) string {
	st, ok := s.cfg.Catalog.Storage(seg.GetStorageId())
	if !ok || int(seg.GetLocation()) >= len(st.GetLocations()) {
		return ""
	}
	return File(st.GetLocations()[seg.GetLocation()], seg.GetPath())
}

// keepKey makes a file's age begin anew: it is about to be needed.
func (s *Storages) keepKey(seg *storagev1.Segment) {
	s.sweeping.Lock() // a sweep that has found it old goes first
	defer s.sweeping.Unlock()
	delete(s.unneeded, s.FileOf(seg))
}

// Sweep removes files of the shards this node leads that none of them has named for an age, from every location of every storage. What it did
// not list twice, an age apart, stays. It goes on behind a storage that fails.
func (s *Storages) Sweep(ctx context.Context, held Held, age time.Duration) (removed int, err error) {
	var errs []error
	seen := map[string]bool{}
	for _, st := range s.cfg.Catalog.Storages() {
		for i := range st.GetLocations() {
			n, err := s.sweepLocation(ctx, st, uint32(i), held, age, seen)
			removed += n
			errs = append(errs, err)
		}
	}
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	for file := range s.unneeded { // what is not there any more, or belongs to shards that others lead
		if !seen[file] {
			delete(s.unneeded, file)
		}
	}
	return removed, errors.Join(errs...)
}

func (s *Storages) sweepLocation(ctx context.Context, st *catalogv1.Storage, location uint32, held Held, age time.Duration, seen map[string]bool) (removed int, err error) {
	store, release, err := s.use(ctx, st.GetStorageId(), location)
	if err != nil {
		return 0, err
	}
	defer release()
	if err := s.checkMark(ctx, store); err != nil {
		return 0, err
	}
	at := st.GetLocations()[location]
	folders := map[string]bool{} // with segments that stay; they come before the manifest beside them
	err = store.List(ctx, "", func(o objectstore.Object) error {
		file := File(at, o.Key)
		if path.Base(o.Key) == manifest.FileName && !folders[path.Dir(o.Key)] && !seen[file] && held.Leads(0) {
			seen[file] = true
			gone, err := s.oldManifest(ctx, store, file, o, age)
			if gone {
				removed++
			}
			return err
		}
		m := ours.FindStringSubmatch(path.Base(o.Key))
		if m == nil || seen[file] {
			return nil
		}
		shard, err := strconv.ParseUint(m[1], 10, 32)
		if err != nil || !held.Leads(uint32(shard)) || held.Named(file) {
			folders[path.Dir(o.Key)] = true
			return nil
		}
		seen[file] = true
		gone, err := s.old(ctx, store, file, o.Key, age)
		if gone {
			removed++
		}
		return err
	})
	return removed, err
}

// oldManifest removes a manifest that has no segments beside it any more: what it tells of is gone, or a newer one tells of it elsewhere.
func (s *Storages) oldManifest(ctx context.Context, store *objectstore.Store, file string, o objectstore.Object, age time.Duration) (bool, error) {
	raw, err := store.ReadAll(ctx, o.Key, o.Bytes)
	if err != nil || manifest.ParseVersion(raw).ID == 0 { // gone meanwhile, or somebody else's
		return false, nil //nolint:nilerr // the next sweep sees it again
	}
	return s.old(ctx, store, file, o.Key, age)
}

// old notes a file that nobody names, and removes it when that is so for an age.
func (s *Storages) old(ctx context.Context, store *objectstore.Store, file, key string, age time.Duration) (bool, error) {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	now := time.Now()
	since, known := s.unneeded[file]
	if !known {
		s.unneeded[file], since = now, now
	}
	if known && now.Sub(since) >= age {
		delete(s.unneeded, file)
		return true, store.Delete(ctx, key)
	}
	return false, nil
}

// checkMark reports whether a location is this cluster's.
func (s *Storages) checkMark(ctx context.Context, store *objectstore.Store) error {
	raw, err := store.ReadAll(ctx, markKey, markBytesMax)
	if err != nil {
		return err
	}
	if id, _ := s.cfg.Catalog.Cluster(); strings.TrimSpace(string(raw)) != id {
		return dberr.New(dberr.InvalidOperation, "the path belongs to another cluster (its file %s says %.40q): use a path of its own", markKey, raw)
	}
	return nil
}

// mark makes a location this cluster's, unless it is another's.
func (s *Storages) mark(ctx context.Context, store *objectstore.Store) error {
	err := s.checkMark(ctx, store)
	if !dberr.Is(err, dberr.NotFound) {
		return err
	}
	id, _ := s.cfg.Catalog.Cluster()
	if err := putBytes(ctx, store, markKey, []byte(id)); err != nil {
		return err
	}
	return s.checkMark(ctx, store) // two clusters may have come at once
}

func putBytes(ctx context.Context, store *objectstore.Store, key string, data []byte) error {
	sum := sha256.Sum256(data)
	return store.Put(ctx, key, bytes.NewReader(data), objectstore.Sum{Bytes: int64(len(data)), SHA256: sum[:]})
}
