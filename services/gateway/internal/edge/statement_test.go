package edge

import (
	"bytes"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

func TestStatementIDs(t *testing.T) {
	id := func(user, key string) []byte {
		got, err := StatementID(user, key)
		if err != nil || len(got) != 16 {
			t.Fatalf("%x, %v", got, err)
		}
		return got
	}
	if !bytes.Equal(id("ann", "k"), id("ann", "k")) {
		t.Error("the same key gives two ids")
	}
	if bytes.Equal(id("ann", "k"), id("bob", "k")) || bytes.Equal(id("ann", "k"), id("ann", "l")) || bytes.Equal(id("ann", "k"), id("an", "nk")) {
		t.Error("two requests have one id")
	}
	if bytes.Equal(id("ann", ""), id("ann", "")) {
		t.Error("requests without a key have one id")
	}
	id("ann", strings.Repeat("x", IdempotencyKeyMax))
	if _, err := StatementID("ann", strings.Repeat("x", IdempotencyKeyMax+1)); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("a long key: %v", err)
	}
}

func TestConsistency(t *testing.T) {
	for word, want := range map[string]storagev1.Consistency{"": 0, "linearizable": 1, "leader": 2, "stale": 3} {
		if got, err := Consistency(word); err != nil || got != want {
			t.Errorf("%q: %v, %v", word, got, err)
		}
	}
	if _, err := Consistency("Stale"); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("an unknown word: %v", err)
	}
	for _, c := range []struct {
		level storagev1.Consistency
		ms    uint32
		ok    bool
	}{{0, 0, true}, {1, 0, true}, {2, 0, true}, {3, 1, true}, {3, 0, false}, {1, 5, false}, {0, 5, false}, {4, 0, false}} {
		if err := CheckConsistency(c.level, c.ms); (err == nil) != c.ok || (err != nil && !dberr.Is(err, dberr.InvalidArgument)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
