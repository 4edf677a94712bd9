package manifestfile

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// world is a state with segments, and a folder for their files.
type world struct {
	t       *testing.T
	db      *pebble.DB
	files   *cold.Files
	table   *catalog.Table // what the catalog has; nil while it is behind
	tooMany int
	keeper  *Keeper
}

func newWorld(t *testing.T) *world {
	t.Helper()
	db, err := pebble.Open("hot", &pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, db: db, files: cold.NewFiles(vfs.NewMem(), "segments")}
	w.keeper = New(Config{Files: w.files, Hot: db, Table: func(uint32) (*catalog.Table, bool) { return w.table, w.table != nil },
		TooMany: func() { w.tooMany++ }, Logger: slog.New(slog.DiscardHandler)})
	return w
}

func (w *world) close() {
	if err := w.db.Close(); err != nil {
		w.t.Error(err)
	}
}

// add adds a segment to ann's partition, and its file.
func (w *world) add(id uint64, name string) {
	w.t.Helper()
	raw, err := proto.Marshal(&storagev1.Segment{Path: "user/ann/app/t/" + name, Bytes: 1, SchemaVersion: 2, CreatedUs: 5000})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.db.Set(keycodec.SegmentKey(nil, 0, 1, "ann", id), raw, nil); err != nil {
		w.t.Fatal(err)
	}
	if err := w.files.Replace("user/ann/app/t/"+name, []byte("x")); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) version() manifest.Version {
	w.t.Helper()
	raw, err := w.files.ReadAll("user/ann/app/t/" + manifest.FileName)
	if err != nil && !dberr.Is(err, dberr.NotFound) {
		w.t.Fatal(err)
	}
	return manifest.ParseVersion(raw)
}

func (w *world) setSchema(version uint32) {
	w.table = (&catalog.Table{ID: 1, Namespace: "app", Name: "t", Kind: catalog.UserTable, SchemaVersion: version}).Index()
}

// A node whose catalog is behind waits for it: what it would write differs from what the others do.
func TestAManifestWaitsForTheCatalog(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	w.add(7, "a.parquet")
	w.keeper.Changed(0, 1, "ann")
	for _, behind := range []func(){func() {}, func() { w.setSchema(1) }} {
		behind()
		if later := w.keeper.round(t.Context()); !later || w.version() != (manifest.Version{}) {
			t.Errorf("with table %v: %v, later %v", w.table, w.version(), later)
		}
	}
	w.setSchema(2)
	if later := w.keeper.round(t.Context()); later || w.version() != (manifest.Version{ID: 7, Count: 1}) {
		t.Errorf("%v, later %v", w.version(), later)
	}
}

func TestRunWritesTheLatestList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { w.keeper.Run(ctx); close(done) }()
		w.setSchema(2)
		for id, name := range []string{"", "a.parquet", "b.parquet"} {
			if name == "" {
				continue
			}
			w.add(uint64(id), name)
			w.keeper.Changed(0, 1, "ann")
			synctest.Wait()
			if got := w.version(); got != (manifest.Version{ID: uint64(id), Count: id}) {
				t.Errorf("after %s: %v", name, got)
			}
		}
		cancel()
		<-done
	})
}

// What is remembered is bounded: beyond it, a check of all is asked for.
func TestTooManyChanges(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	for table := range uint32(changedMax) {
		w.keeper.Changed(0, table, "ann")
	}
	w.keeper.Changed(0, 0, "ann") // known
	if w.tooMany != 0 || len(w.keeper.changed) != changedMax {
		t.Fatalf("%d too many, %d remembered", w.tooMany, len(w.keeper.changed))
	}
	w.keeper.Changed(0, changedMax, "ann")
	if w.tooMany != 1 || len(w.keeper.changed) != changedMax {
		t.Errorf("%d too many, %d remembered", w.tooMany, len(w.keeper.changed))
	}
}

// TestManifestsInStorages: each version is written once, again while the store is away, and by whoever leads; what is old costs no request.
func TestManifestsInStorages(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	w.setSchema(2)
	asked, leads, away := 0, true, error(nil)
	now := time.UnixMicro(0)
	w.keeper.cfg.Now = func() time.Time { return now }
	w.keeper.cfg.Remote = func(_ context.Context, shard uint32, beside *storagev1.Segment, path string, raw []byte) (bool, error) {
		asked++
		if beside.GetStorageId() != "x" || path != "app/t/ann/"+manifest.FileName || manifest.ParseVersion(raw).ID == 0 {
			t.Errorf("asked for %s beside %v", path, beside)
		}
		return leads, away
	}
	add := func(id uint64) {
		raw, err := proto.Marshal(&storagev1.Segment{StorageId: "x", Path: "app/t/ann/a", Bytes: 1, SchemaVersion: 2, CreatedUs: now.UnixMicro()})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.db.Set(keycodec.SegmentKey(nil, 0, 1, "ann", id), raw, nil); err != nil {
			t.Fatal(err)
		}
		w.keeper.Changed(0, 1, "ann")
		w.keeper.round(t.Context())
	}
	want := func(what string, n int) {
		t.Helper()
		if err := w.keeper.Check(t.Context(), 0); (err != nil) != (away != nil && asked > 0) && n > 0 {
			t.Errorf("%s: %v", what, err)
		}
		if asked != n {
			t.Errorf("%s: asked %d times, want %d", what, asked, n)
		}
		asked = 0
	}
	add(1)
	want("a change", 1)
	want("nothing new", 0)
	away = dberr.New(dberr.Unavailable, "away")
	add(2)
	want("a store that is away", 2)
	now = now.Add(2 * recent)
	want("for hours", 1)
	away = nil
	want("and back", 1)
	want("nothing new again", 0)
	leads = false
	add(3)
	want("another leads", 2)
	leads = true
	want("and this one after it", 1)
	want("nothing new, once more", 0)
	clear(w.keeper.sent) // a restart
	now = now.Add(2 * recent)
	want("what is old", 0)
}
