package storage

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/keyring"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

func masterText(fill string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(fill, keyring.KeyBytes)))
}

// What is sealed is opened after a restart, with the same master key or the one that has replaced it, and a node with another one does not start.
func TestMasterKeys(t *testing.T) {
	dir, old, next := t.TempDir(), masterText("a"), masterText("b")
	r := start(t, Config{Dir: dir})
	if _, err := r.node.keys.Seal(t.Context(), "test", []byte("x")); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("without a master key: %v", err)
	}
	r.stop()
	r = start(t, Config{Dir: dir, MasterKey: old})
	sealed, err := r.node.keys.Seal(t.Context(), "test", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	for _, wrong := range []Config{{Dir: dir, MasterKey: next}, {Dir: dir, MasterKey: "c2hvcnQ="}, {Dir: dir, MasterKey: old, PreviousMasterKey: "c2hvcnQ="}} {
		if _, err := tryStart(t, wrong, rpcnet.NewLocal()); err == nil || strings.Contains(err.Error(), "c2hvcnQ") {
			t.Errorf("a wrong master key: %v", err)
		}
	}
	for _, right := range []Config{{Dir: dir, MasterKey: old}, {Dir: dir, MasterKey: next, PreviousMasterKey: old}} {
		r = start(t, right)
		if plain, err := r.node.keys.Open(t.Context(), "test", sealed); err != nil || string(plain) != "x" {
			t.Errorf("%q, %v", plain, err)
		}
		if _, err := r.node.keys.Rewrap(t.Context()); err != nil { // the office does it, too: whoever comes first
			t.Error(err)
		}
		r.stop()
	}
	r = start(t, Config{Dir: dir, MasterKey: next})
	if plain, err := r.node.keys.Open(t.Context(), "test", sealed); err != nil || string(plain) != "x" {
		t.Errorf("%q, %v", plain, err)
	}
}
