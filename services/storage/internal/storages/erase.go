package storages

import (
	"context"
	"errors"
	"path"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/objectstore"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// RemoveSegments removes the files of segments, and the manifests beside them, at once. What is not there is no error.
func (s *Storages) RemoveSegments(ctx context.Context, segments []*storagev1.Segment) error {
	for _, seg := range segments {
		store, release, err := s.use(ctx, seg.GetStorageId(), seg.GetLocation())
		if err != nil {
			return err
		}
		err = store.Delete(ctx, seg.GetPath())
		if err == nil {
			err = store.Delete(ctx, path.Join(path.Dir(seg.GetPath()), manifest.FileName))
		}
		if release(); err != nil {
			return err
		}
	}
	return nil
}

// RemoveUser removes whatever lies in the folders that a user has for tables, named or not, in every location of every storage: segments that
// were merged and wait for the sweep, and those that were never named. Nothing may be written for the user any more; what is on its way
// when it is called is waited for. Folders of templates that were changed, and of tables that were dropped, are left to the sweep.
func (s *Storages) RemoveUser(ctx context.Context, shard uint32, user string, tables []*catalog.Table) (removed int, err error) {
	if err := s.transfers.Acquire(ctx, transfersMax); err != nil {
		return 0, dberr.FromStatus(err)
	}
	s.transfers.Release(transfersMax)
	var errs []error
	for _, st := range s.cfg.Catalog.Storages() {
		for i := range st.GetLocations() {
			n, err := s.removeUserFrom(ctx, st, uint32(i), shard, user, tables)
			removed += n
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}

func (s *Storages) removeUserFrom(ctx context.Context, st *catalogv1.Storage, location, shard uint32, user string, tables []*catalog.Table) (removed int, err error) {
	store, release, err := s.use(ctx, st.GetStorageId(), location)
	if err != nil {
		return 0, err
	}
	defer release()
	if err := s.checkMark(ctx, store); err != nil {
		return 0, err
	}
	for _, t := range tables {
		if t.Kind != catalog.UserTable {
			continue
		}
		dir := expand(st.GetUserTablesTemplate(), shard, t, user)
		err := store.List(ctx, dir+"/", func(o objectstore.Object) error {
			name := strings.TrimPrefix(o.Key, dir+"/")
			if name != manifest.FileName && !ours.MatchString(name) { // somebody else's, or a folder below
				return nil
			}
			removed++
			return store.Delete(ctx, o.Key)
		})
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// Clear empties the cache, and removes what this node has written for storages and not put there yet: whose write it was finds it gone, and
// writes it again.
func (s *Storages) Clear() error {
	s.cache.mu.Lock()
	s.cache.kept.Purge()
	s.cache.mu.Unlock()
	var errs []error
	err := s.cache.files.Each(func(p string, _ int64) error { // what the list did not know
		errs = append(errs, s.cache.files.Remove(p))
		return nil
	})
	return errors.Join(append(errs, err, s.cfg.Local.RemoveFolder(cold.Outgoing))...)
}
