package secretfile

import (
	"os"
	"path/filepath"
	"strings"
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

func TestGiven(t *testing.T) {
	dir := t.TempDir()
	write := func(text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, "given")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		text, want string
		mode       os.FileMode
		exposed    bool
	}{
		{"word", "word", 0o600, false},
		{"word\n", "word", 0o640, false},
		{" two words \r\n\n", " two words ", 0o644, true},
		{strings.Repeat("x", givenBytesMax), strings.Repeat("x", givenBytesMax), 0o604, true},
	} {
		got, exposed, err := Given(write(c.text, c.mode))
		if err != nil || got != c.want || exposed != c.exposed {
			t.Errorf("%.20q with mode %o: %.20q, %v, %v", c.text, c.mode, got, exposed, err)
		}
	}
	for _, text := range []string{"", "\n", strings.Repeat("x", givenBytesMax+1)} {
		if _, _, err := Given(write(text, 0o600)); !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, "absent")} {
		if _, _, err := Given(path); !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
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
