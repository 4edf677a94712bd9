package storage

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
)

func createStorage(id, path string) *catalogv1.Command {
	return &catalogv1.Command{Command: &catalogv1.Command_CreateStorage{CreateStorage: &catalogv1.CreateStorage{
		Storage: &catalogv1.Storage{StorageId: id, Type: "filesystem", Locations: []string{path}}}}}
}

func alterStorage(id string, change func(*catalogv1.AlterStorage)) *catalogv1.Command {
	c := &catalogv1.AlterStorage{StorageId: id}
	change(c)
	return &catalogv1.Command{Command: &catalogv1.Command_AlterStorage{AlterStorage: c}}
}

func dropStorage(id string) *catalogv1.Command {
	return &catalogv1.Command{Command: &catalogv1.Command_DropStorage{DropStorage: &catalogv1.DropStorage{StorageId: id}}}
}

// refused sends a command that must not be done.
func (r *role) refused(c *catalogv1.Command, code dberr.Code, words string) {
	r.t.Helper()
	_, err := r.catalog.Apply(r.t.Context(), &catalogv1.ApplyRequest{Command: c})
	if !dberr.Is(err, code) || !strings.Contains(err.Error(), words) {
		r.t.Errorf("got %v (%s), want %s with %q", err, dberr.CodeOf(err), code, words)
	}
}

// setStorage has a table's segments go to a storage from now on.
func (r *role) setStorage(t *catalog.Table, id string) {
	r.t.Helper()
	resp := r.apply(&catalogv1.Command{Command: &catalogv1.Command_AlterTable{AlterTable: &catalogv1.AlterTable{Namespace: t.Namespace, Name: t.Name,
		Change: &catalogv1.AlterTable_SetStorage{SetStorage: id}}}})
	*t = *catalog.TableFromProto(resp.GetTable())
}

// move moves a table's segments to where they belong.
func (r *role) move(t *catalog.Table) (segments uint64) {
	r.t.Helper()
	_, shards := r.node.catalog.Cluster()
	for id := range shards {
		resp, err := r.storage.MoveSegments(r.t.Context(), &storagev1.MoveSegmentsRequest{Shard: id, TableId: t.ID})
		if err != nil {
			r.t.Fatal(err)
		}
		segments += resp.GetSegments()
	}
	return segments
}

// stored lists the files below a storage's folder, without those of the storage itself.
func stored(t *testing.T, folder string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if name, _ := filepath.Rel(folder, path); err == nil && !d.IsDir() && !strings.HasPrefix(name, "_kalamdb/") {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// untilStored waits until a folder has as many files: manifests follow the commit.
func untilStored(t *testing.T, folder string, n int) {
	t.Helper()
	for len(stored(t, folder)) != n {
		time.Sleep(time.Millisecond) // between two looks
	}
}

func (r *role) untilPurged() {
	r.t.Helper()
	for {
		ids, err := r.node.catalog.ToPurge()
		if err != nil {
			r.t.Fatal(err)
		}
		if len(ids) == 0 {
			return
		}
		time.Sleep(time.Millisecond) // between two looks
	}
}

// TestFilesInAStorageGo: of a dropped table, of segments that were merged or moved, and of flushes that never came to an end; nothing else.
func TestFilesInAStorageGo(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "s")
	r := start(t, Config{FS: vfs.NewMem()})
	messages, kept := r.createTable("messages", catalog.UserTable), r.createTable("kept", catalog.UserTable)
	r.apply(createStorage("x", folder))
	r.setStorage(messages, "x")
	r.setStorage(kept, "x")
	r.insert(messages, "ann", 1, 2, 3)
	r.insert(kept, "bob", 1)
	r.flush(messages)
	r.flush(kept)
	untilStored(t, folder, 4)
	_, shards := r.node.catalog.Cluster()
	orphan := fmt.Sprintf("app/kept/bob/batch-00000000000000ff-n0-aaaaaaaa-s%d.parquet", shards-1)
	foreign := []string{"app/kept/bob/notes.txt", "app/kept/bob/batch-00000000000000ff-n0-aaaaaaaa-s999.parquet", "app/other/manifest.json", "batch-1.parquet"}
	for _, name := range append([]string{orphan}, foreign...) {
		name = filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_DropTable{DropTable: &catalogv1.DropTable{Namespace: "app", Name: "messages"}}})
	r.untilPurged()
	for i, want := range []int{0, 3, 0} { // once to see them, once to remove them
		age := time.Duration(0)
		if i == 0 {
			age = time.Hour
		}
		if n, err := r.node.sweepStoragesOnce(t.Context(), age); n != want || err != nil {
			t.Errorf("sweep %d removed %d files, %v; want %d", i, n, err, want)
		}
	}
	inCache := 0
	if err := cold.NewFiles(r.node.dir.fs, r.node.dir.join("remote")).Each(func(string, int64) error { inCache++; return nil }); err != nil || inCache != 1 {
		t.Errorf("%d files are left in the cache, %v; want bob's", inCache, err)
	}
	left := strings.Join(stored(t, folder), " ")
	if strings.Contains(left, "messages") || strings.Contains(left, orphan) || strings.Count(left, " ") != len(foreign)+1 {
		t.Errorf("left: %s", left)
	}
	for _, name := range foreign {
		if !strings.Contains(left, name) {
			t.Errorf("%s, which is not ours, is gone", name)
		}
	}
	r.wantRows(kept, "bob", 1)
}

// TestAFolderBelongsToOneCluster: two in one would remove each other's files.
func TestAFolderBelongsToOneCluster(t *testing.T) {
	folder := t.TempDir()
	a, b := start(t, Config{FS: vfs.NewMem()}), start(t, Config{FS: vfs.NewMem()})
	a.apply(createStorage("x", folder))
	b.refused(createStorage("x", folder), dberr.InvalidOperation, "belongs to another cluster")
	a.apply(createStorage("again", folder))
}

// TestWhereAStorageIsMayChange: what was written before stays where it is and readable.
func TestWhereAStorageIsMayChange(t *testing.T) {
	one, two, dir := t.TempDir(), t.TempDir(), t.TempDir()
	r := start(t, Config{Dir: dir})
	messages := r.createTable("messages", catalog.UserTable)
	r.apply(createStorage("x", one))
	r.setStorage(messages, "x")
	r.insert(messages, "ann", 1)
	r.flush(messages)
	untilStored(t, one, 2)
	r.apply(alterStorage("x", func(c *catalogv1.AlterStorage) { c.Path = &two }))
	r.insert(messages, "ann", 2)
	r.flush(messages)
	untilStored(t, two, 2)
	r.stop()
	if err := os.RemoveAll(filepath.Join(dir, "remote")); err != nil { // the cache
		t.Fatal(err)
	}
	r = start(t, Config{Dir: dir})
	r.wantRows(messages, "ann", 2)
	if n := r.move(messages); n != 1 {
		t.Errorf("%d segments were in the former folder", n)
	}
	r.wantRows(messages, "ann", 2)
}

// TestTheCacheIsChecked: a file that was damaged there is fetched again; one that is damaged in the store yields an error and no rows.
func TestTheCacheIsChecked(t *testing.T) {
	folder, dir := t.TempDir(), t.TempDir()
	r := start(t, Config{Dir: dir})
	messages := r.createTable("messages", catalog.UserTable)
	r.apply(createStorage("x", folder))
	r.setStorage(messages, "x")
	r.insert(messages, "ann", 1, 2)
	r.flush(messages)
	r.stop()
	flip := func(below string) {
		for _, name := range stored(t, below) {
			if strings.HasSuffix(name, "manifest.json") {
				continue
			}
			name = filepath.Join(below, name)
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			raw[len(raw)/2] ^= 1
			if err := os.WriteFile(name, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	flip(filepath.Join(dir, "remote"))
	r = start(t, Config{Dir: dir})
	r.wantRows(messages, "ann", 2)
	r.stop()
	flip(filepath.Join(dir, "remote"))
	flip(folder)
	r = start(t, Config{Dir: dir})
	if n, err := r.count(messages, "ann"); !dberr.Is(err, dberr.Corrupt) {
		t.Errorf("read %d rows of a damaged file, %v", n, err)
	}
}

// TestAStorageWithSegmentsStays: also when its table has gone elsewhere, until the segments have, too.
func TestAStorageWithSegmentsStays(t *testing.T) {
	r := start(t, Config{FS: vfs.NewMem()})
	messages := r.createTable("messages", catalog.UserTable)
	r.apply(createStorage("x", t.TempDir()))
	r.setStorage(messages, "x")
	r.insert(messages, "ann", 1)
	r.insert(messages, "bob", 1)
	r.flush(messages)
	r.refused(dropStorage("x"), dberr.InvalidOperation, "1 table(s) still using it")
	r.setStorage(messages, "local")
	r.refused(dropStorage("x"), dberr.InvalidOperation, "are still in it")
	if n := r.move(messages); n != 2 {
		t.Errorf("%d segments were moved", n)
	}
	if n := r.move(messages); n != 0 {
		t.Errorf("%d segments were moved again", n)
	}
	r.wantRows(messages, "ann", 1)
	r.apply(dropStorage("x"))
	for _, e := range segmentsOf(t, r.node) {
		if e.GetStorageId() != "" || !r.node.segments.Files.Has(e.Segment) {
			t.Errorf("a segment is at %v", e)
		}
	}
}

// TestAllNodesMustReachAStorage: a folder that one node may not use is none.
func TestAllNodesMustReachAStorage(t *testing.T) {
	c := newCluster(t, 3)
	c.nodes[3].cfg.PathsAllowed = []string{"/nowhere"}
	c.start(1, 2, 3)
	_, err := catalogv1.NewCatalogServiceClient(c.router.Catalog()).Apply(t.Context(), &catalogv1.ApplyRequest{Command: createStorage("x", t.TempDir())})
	if !dberr.Is(err, dberr.InvalidOperation) && !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), "storage.paths_allowed") {
		t.Errorf("got %v", err)
	}
}
