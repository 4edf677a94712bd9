package storages

import (
	"context"
	"errors"
	"path"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/objectstore"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// RemoveUser removes all that a user has in storages: what is in the folders of the user's segments, and in those that the templates make
// of the tables now, named or not: also segments that were merged and wait for the sweep, and those that were never named. A user's folder
// has nobody else's files. Nothing may be written for the user any more; what is on its way when it is called is waited for.
func (s *Storages) RemoveUser(ctx context.Context, shard uint32, user string, tables []*catalog.Table, segments []*storagev1.Segment) (removed int, err error) {
	if err := s.transfers.Acquire(ctx, transfersMax); err != nil {
		return 0, dberr.FromStatus(err)
	}
	s.transfers.Release(transfersMax)
	for at, folders := range s.foldersOf(shard, user, tables, segments) {
		n, err := s.removeFolders(ctx, at, folders)
		if removed += n; err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// foldersOf are the folders that a user has or may have, by where they are.
func (s *Storages) foldersOf(shard uint32, user string, tables []*catalog.Table, segments []*storagev1.Segment) map[place]map[string]bool {
	folders := map[place]map[string]bool{}
	add := func(at place, folder string) {
		if folders[at] == nil {
			folders[at] = map[string]bool{}
		}
		folders[at][folder] = true
	}
	for _, seg := range segments {
		add(place{seg.GetStorageId(), seg.GetLocation()}, path.Dir(seg.GetPath()))
	}
	for _, st := range s.cfg.Catalog.Storages() {
		for i := range st.GetLocations() {
			for _, t := range tables {
				if t.Kind == catalog.UserTable {
					add(place{st.GetStorageId(), uint32(i)}, placeIn(st, shard, t, user).Dir)
				}
			}
		}
	}
	return folders
}

func (s *Storages) removeFolders(ctx context.Context, at place, folders map[string]bool) (removed int, err error) {
	store, release, err := s.use(ctx, at.id, at.location)
	if err != nil {
		return 0, err
	}
	defer release()
	if err := s.checkMark(ctx, store); err != nil {
		return 0, err
	}
	for folder := range folders {
		var keys []string // a list must not change while it is paged through
		err := store.List(ctx, folder+"/", func(o objectstore.Object) error {
			if name := path.Base(o.Key); path.Dir(o.Key) == folder && (ours.MatchString(name) || name == manifest.FileName) {
				keys = append(keys, o.Key)
			}
			return nil
		})
		if err != nil {
			return removed, err
		}
		for _, key := range keys {
			if err := store.Delete(ctx, key); err != nil {
				return removed, err
			}
			removed++
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
