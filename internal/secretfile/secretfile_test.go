package secretfile

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func TestGetMakesOnceAndPutReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	first, made, err := Get(path, 18)
	if err != nil || !made || len(first) != 24 {
		t.Fatalf("%q, %v, %v", first, made, err)
	}
	if again, made, err := Get(path, 18); err != nil || made || again != first {
		t.Fatalf("%q, %v, %v", again, made, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if err := Put(path, "other"); err != nil {
		t.Fatal(err)
	}
	if now, _, err := Get(path, 18); err != nil || now != "other" {
		t.Fatalf("%q, %v", now, err)
	}
	for range 2 { // the second finds nothing
		if err := Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if other, made, err := Get(path, 18); err != nil || !made || other == first {
		t.Fatalf("%q, %v, %v", other, made, err)
	}
}

func TestFilesThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Get(empty, 18); !dberr.Is(err, dberr.Corrupt) {
		t.Error(err)
	}
	if _, _, err := Get(dir, 18); !dberr.Is(err, dberr.Internal) {
		t.Error(err)
	}
	if err := Put(filepath.Join(dir, "absent", "file"), "x"); !dberr.Is(err, dberr.Internal) {
		t.Error(err)
	}
}
