package scrub

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const marker = "MARKER-4417"

// open makes a store whose tables are not compressed, so that a search in its bytes finds everything.
func open(t *testing.T, logged bool) (*Store, vfs.FS) {
	t.Helper()
	fs := vfs.NewMem()
	opt := &pebble.Options{FS: fs, DisableWAL: !logged, FormatMajorVersion: pebble.FormatValueSeparation, Cleaner: Cleaner{}}
	if !logged {
		opt.MaxManifestFileSize = 1
	}
	for i := range opt.Levels {
		opt.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
	}
	db, err := pebble.Open("db", opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s := &Store{DB: db, FS: fs, Dir: "db", Logged: logged}
	if !logged {
		s.Scratch = []byte{0x7E}
	}
	return s, fs
}

func (s *Store) has(t *testing.T) (files []string) {
	t.Helper()
	names, err := s.FS.List(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		f, err := s.FS.Open(s.FS.PathJoin(s.Dir, name))
		if err != nil {
			continue // removed meanwhile
		}
		raw, err := io.ReadAll(f)
		_ = f.Close()
		if err == nil && bytes.Contains(raw, []byte(marker)) {
			files = append(files, name)
		}
	}
	return files
}

func (s *Store) must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var span = keycodec.Span{Start: []byte("m"), End: []byte("n")}

// fill writes keys with the marker into several tables, at their bounds, with other keys between.
func (s *Store) fill(t *testing.T) {
	t.Helper()
	write := pebble.Sync
	if !s.Logged {
		write = pebble.NoSync
	}
	for i := range 6 {
		s.must(t, s.DB.Set(fmt.Appendf(nil, "m %s %d", marker, i), []byte(marker), write))
		s.must(t, s.DB.Set(fmt.Appendf(nil, "m %s %d", marker, 0), []byte(marker+"changed"), write))
		s.must(t, s.DB.Flush())
		if i == 2 {
			s.must(t, s.DB.Compact(t.Context(), []byte("a"), []byte("z"), false))
		}
	}
	s.must(t, s.DB.Set([]byte("q"), []byte("else"), write))
	s.must(t, s.DB.Set([]byte("m "+marker+" last"), []byte("in a log or a memtable"), write))
}

func TestWhatWasDeletedLeavesTheDisk(t *testing.T) {
	for _, logged := range []bool{false, true} {
		s, _ := open(t, logged)
		s.fill(t)
		s.must(t, s.DB.DeleteRange(span.Start, span.End, pebble.NoSync))
		found := strings.Join(s.has(t), " ")
		for _, part := range []string{"MANIFEST", ".sst"} {
			if !strings.Contains(found, part) {
				t.Fatalf("the marker is not in %s before: the test shows nothing (%s)", part, found)
			}
		}
		if logged && !strings.Contains(found, ".log") {
			t.Fatalf("the marker is in no log before: %s", found)
		}
		s.must(t, s.Clean(t.Context(), []keycodec.Span{span}))
		found = strings.Join(s.has(t), " ")
		if logged { // its keys say nothing of users, so its lists stay
			found = strings.TrimPrefix(found, "MANIFEST-000001")
		}
		if found != "" {
			t.Errorf("logged %v: still in %s", logged, found)
		}
		if v, closer, err := s.DB.Get([]byte("q")); err != nil || string(v) != "else" {
			t.Errorf("got %q, %v", v, err)
		} else {
			_ = closer.Close()
		}
	}
}

// A view keeps what it sees, so Clean must not say that it is gone.
func TestAViewFromBeforeIsWaitedFor(t *testing.T) {
	s, _ := open(t, false)
	s.fill(t)
	view := s.DB.NewSnapshot()
	s.must(t, s.DB.DeleteRange(span.Start, span.End, pebble.NoSync))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := s.Clean(ctx, []keycodec.Span{span}); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("beside a view: %v", err)
	}
	s.must(t, view.Close())
	later := s.DB.NewSnapshot() // it does not see what was deleted
	s.must(t, s.Clean(t.Context(), []keycodec.Span{span}))
	if found := s.has(t); len(found) > 0 {
		t.Errorf("still in %v", found)
	}
	s.must(t, later.Close())
}

// Whoever reads keeps files.
func TestAReaderFromBeforeIsWaitedFor(t *testing.T) {
	s, _ := open(t, false)
	s.fill(t)
	it, err := s.DB.NewIter(nil)
	s.must(t, err)
	s.must(t, s.DB.DeleteRange(span.Start, span.End, pebble.NoSync))
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := s.Clean(ctx, []keycodec.Span{span}); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("beside a reader: %v", err)
	}
	s.must(t, it.Close())
	s.must(t, s.Clean(t.Context(), []keycodec.Span{span}))
	if found := s.has(t); len(found) > 0 {
		t.Errorf("still in %v", found)
	}
}
