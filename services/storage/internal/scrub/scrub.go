// Package scrub removes from the disk what a Pebble store has deleted. Deleting writes a tombstone only: what it hides stays in tables below
// it, in write-ahead logs, and, as far as it was a key, in the bounds of tables that MANIFEST files list.
package scrub

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const (
	// patience is how long one call waits for views of the store and for readers of its files to end; then it fails as Unavailable.
	patience = 20 * time.Second
	// lookPause is between two looks whether they have.
	lookPause = 20 * time.Millisecond
)

// Store is a Pebble store and where it is.
type Store struct {
	DB  *pebble.DB
	FS  vfs.FS
	Dir string
	// Logged: the store has a write-ahead log. Without one a file of that kind stands empty.
	Logged bool
	// Scratch is a key that nobody reads, which may be written so that there is something to flush. Set it where keys say something of users:
	// the files that list bounds of tables are replaced as well then.
	Scratch []byte
}

// Cleaner deletes files, and tells Pebble that it wants what is in them: so write-ahead logs are deleted as well, and not kept
// to be written over.
type Cleaner struct {
	pebble.DeleteCleaner
	contents
}

// contents has the method by which Pebble knows such cleaners; nothing else of it is used.
type contents struct{ pebble.ArchiveCleaner }

// Clean removes what was deleted within the spans before the call from the disk. Each span rewrites every table that overlaps with it.
func (s *Store) Clean(ctx context.Context, spans []keycodec.Span) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*patience, dberr.New(dberr.Unavailable, "cleaning the store took longer than %s", 10*patience))
	defer cancel()
	var logs map[string]bool
	var err error
	if s.Logged {
		logs, err = s.list(".log", "")
	}
	if err == nil {
		err = s.DB.Flush()
	}
	if err == nil {
		err = s.awaitViews(ctx)
	}
	for _, span := range spans {
		if err == nil {
			err = s.DB.Compact(ctx, span.Start, span.End, false)
		}
	}
	if err == nil {
		err = s.replaceManifest(ctx)
	}
	if err == nil {
		err = s.awaitFiles(ctx, logs)
	}
	if err != nil {
		return dberr.New(dberr.Unavailable, "remove what was deleted from the disk: %w", err)
	}
	return nil
}

// list are the names of files with an ending and a beginning.
func (s *Store) list(suffix, prefix string) (map[string]bool, error) {
	names, err := s.FS.List(s.Dir)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for _, name := range names {
		if name = path.Base(name); strings.HasSuffix(name, suffix) && strings.HasPrefix(name, prefix) {
			found[name] = true
		}
	}
	return found, nil
}

// awaitViews waits until no view (a pebble.Snapshot) is open that is older than what has been flushed: compactions keep what such a view
// sees.
func (s *Store) awaitViews(ctx context.Context) error {
	levels, err := s.DB.SSTables()
	if err != nil {
		return err
	}
	flushed := uint64(0)
	for _, level := range levels {
		for i := range level {
			flushed = max(flushed, uint64(level[i].LargestSeqNum))
		}
	}
	return await(ctx, "a view of the store from before is still in use", func() (bool, error) {
		m := s.DB.Metrics()
		return m.Snapshots.Count == 0 || uint64(m.Snapshots.EarliestSeqNum) > flushed, nil
	})
}

// await looks until it is so, for as long as patience allows.
func await(ctx context.Context, otherwise string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(lookPause)
	defer tick.Stop()
	for {
		if ok, err := so(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return dberr.New(dberr.Unavailable, "%s: %w", otherwise, ctx.Err())
		}
	}
}

// replaceManifest writes to the store until it has begun a list of tables that knows nothing from before, and has removed the others.
// Pebble begins one when as many tables came and went as there are (MaxManifestFileSize is 1), and keeps the one before.
func (s *Store) replaceManifest(ctx context.Context) error {
	if s.Scratch == nil {
		return nil
	}
	old, err := s.list("", "MANIFEST-")
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if gone, err := s.gone(old); gone || err != nil {
			return err
		}
		if err := errors.Join(s.DB.Set(s.Scratch, nil, pebble.NoSync), s.DB.Flush()); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// gone reports whether none of the files is there.
func (s *Store) gone(names map[string]bool) (bool, error) {
	for name := range names {
		_, err := s.FS.Stat(s.FS.PathJoin(s.Dir, name))
		if err == nil {
			return false, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		delete(names, name)
	}
	return true, nil
}

// awaitFiles waits until the logs and the tables that are not part of the store any more are gone: whoever reads them keeps them.
func (s *Store) awaitFiles(ctx context.Context, logs map[string]bool) error {
	tables, err := s.list(".sst", "")
	if err != nil {
		return err
	}
	err = await(ctx, "somebody still reads files of the store from before", func() (bool, error) {
		levels, err := s.DB.SSTables()
		if err != nil {
			return false, err
		}
		for _, level := range levels {
			for i := range level {
				delete(tables, tableName(level[i].BackingSSTNum.String()))
			}
		}
		noTables, err := s.gone(tables)
		if err != nil || !noTables {
			return false, err
		}
		return s.gone(logs)
	})
	if err != nil {
		return dberr.New(dberr.CodeOf(err), "%d tables and %d logs, as %s: %w", len(tables), len(logs), oneOf(tables, logs), err)
	}
	return nil
}

// oneOf names one file of some.
func oneOf(lists ...map[string]bool) string {
	for _, list := range lists {
		for name := range list {
			return name
		}
	}
	return "none"
}

func tableName(number string) string { return number + ".sst" }
