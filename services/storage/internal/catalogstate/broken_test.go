package catalogstate

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// failing is a state whose failure is kept.
func failing(t *testing.T) (s *State, dir string, failure *error) {
	t.Helper()
	dir, failure = t.TempDir(), new(error)
	s, err := Open(Config{Path: filepath.Join(dir, "catalog.db"), Fail: func(err error) { *failure = err }, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, dir, failure
}

// Raft counts an entry as applied that the catalog refused: a snapshot then would make the next start skip it.
func TestNothingIsDurableBehindAnEntryThatWasNotApplied(t *testing.T) {
	s, _, failure := failing(t)
	if err := s.MakeDurable(0); err != nil {
		t.Fatal(err)
	}
	got := s.Apply([]*raft.Log{{Index: 1, Term: 1, Type: raft.LogCommand, Data: []byte{0xFF}}})
	if r := got[0].(*Result); !dberr.Is(r.Err, dberr.Unavailable) || !dberr.Is(*failure, dberr.Corrupt) {
		t.Fatalf("result %v, failure %v", r.Err, *failure)
	}
	if err := s.MakeDurable(0); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("MakeDurable: %v", err)
	}
}

func TestARestoreThatCannotReplaceTheFileStopsTheNode(t *testing.T) {
	from := openState(t)
	var whole bytes.Buffer
	if err := from.state.WriteSnapshot(&whole); err != nil {
		t.Fatal(err)
	}
	s, dir, failure := failing(t)
	if err := s.Restore(bytes.NewReader(whole.Bytes()[:100])); err == nil || *failure != nil {
		t.Fatalf("what is no catalog: %v, failure %v; the old file is whole", err, *failure)
	}
	// A directory that is not empty cannot be replaced by a file, whoever asks.
	path := filepath.Join(dir, "catalog.db")
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Restore(bytes.NewReader(whole.Bytes())); err == nil || *failure == nil {
		t.Errorf("restore: %v, failure %v", err, *failure)
	}
	if err := s.MakeDurable(0); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("MakeDurable afterwards: %v", err)
	}
}
