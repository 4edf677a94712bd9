package keyring

import (
	"bytes"
	"context"
	"encoding/base64"
	"strings"
	"sync"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// memory is a store that loses every race for the first key to others.
type memory struct {
	mu    sync.Mutex
	key   WrappedKey
	sets  int
	first func() WrappedKey
}

func (m *memory) ClusterKey() WrappedKey {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.key
}

func (m *memory) SetClusterKey(_ context.Context, k WrappedKey, replaced []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sets++
	if m.first != nil {
		m.key, m.first = m.first(), nil
	}
	if bytes.Equal(m.key.Wrapped, replaced) {
		m.key = k
	}
	return nil
}

func master(t *testing.T, fill byte) Master {
	t.Helper()
	m, err := Local(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, KeyBytes)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWhatIsSealedIsOpenedForItsPurposeOnly(t *testing.T) {
	store := &memory{}
	ring := New(master(t, 1), nil, store)
	ctx := t.Context()
	if _, err := ring.Open(ctx, "a", make([]byte, 64)); !dberr.Is(err, dberr.Corrupt) {
		t.Errorf("without a cluster key: %v", err)
	}
	for _, plain := range []string{"", "secret", strings.Repeat("x", 1<<16)} {
		sealed, err := ring.Seal(ctx, "a", []byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		if len(sealed) != len(plain)+Overhead || plain != "" && bytes.Contains(sealed, []byte(plain)) {
			t.Errorf("%d bytes for %d", len(sealed), len(plain))
		}
		if again, err := New(master(t, 1), nil, store).Open(ctx, "a", sealed); err != nil || string(again) != plain {
			t.Errorf("%d bytes, %v", len(again), err)
		}
		if _, err := ring.Open(ctx, "b", sealed); !dberr.Is(err, dberr.Corrupt) {
			t.Errorf("for another purpose: %v", err)
		}
		for _, i := range []int{0, 1, len(sealed) - 1} {
			damaged := bytes.Clone(sealed)
			damaged[i] ^= 1
			if _, err := ring.Open(ctx, "a", damaged); !dberr.Is(err, dberr.Corrupt) {
				t.Errorf("byte %d changed: %v", i, err)
			}
		}
	}
	if store.sets != 1 {
		t.Errorf("%d cluster keys were made", store.sets)
	}
}

func TestTheFirstClusterKeyWins(t *testing.T) {
	other := &memory{}
	sealed, err := New(master(t, 1), nil, other).Seal(t.Context(), "a", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	ring := New(master(t, 1), nil, &memory{first: other.ClusterKey})
	mine, err := ring.Seal(t.Context(), "a", []byte("y"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range [][]byte{sealed, mine} {
		if _, err := ring.Open(t.Context(), "a", s); err != nil {
			t.Error(err)
		}
	}
}

func TestAnotherMasterKey(t *testing.T) {
	store, ctx := &memory{}, t.Context()
	old := master(t, 1)
	sealed, err := New(old, nil, store).Seal(ctx, "a", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	wrong := New(master(t, 2), nil, store)
	if err := wrong.Check(ctx); !dberr.Is(err, dberr.InvalidOperation) || !strings.Contains(err.Error(), old.ID()) {
		t.Errorf("check: %v", err)
	}
	if _, err := wrong.Open(ctx, "a", sealed); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("open: %v", err)
	}
	if _, err := New(nil, nil, store).Seal(ctx, "a", nil); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("without one: %v", err)
	}
	before := store.ClusterKey()
	next := New(master(t, 2), old, store)
	if err := next.Check(ctx); err != nil {
		t.Fatal(err)
	}
	if done, err := next.Rewrap(ctx); err != nil || !done {
		t.Fatalf("%v, %v", done, err)
	}
	if done, err := next.Rewrap(ctx); err != nil || done {
		t.Errorf("once more: %v, %v", done, err)
	}
	if plain, err := wrong.Open(ctx, "a", sealed); err != nil || string(plain) != "x" { // the new master key alone is enough now
		t.Errorf("%q, %v", plain, err)
	}
	if _, err := wrong.OpenForeign(ctx, before, "a", sealed); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("a key of the old master key: %v", err)
	}
	if plain, err := next.OpenForeign(ctx, before, "a", sealed); err != nil || string(plain) != "x" {
		t.Errorf("%q, %v", plain, err)
	}
}

func TestLocal(t *testing.T) {
	key := bytes.Repeat([]byte{0xfb}, KeyBytes) // has + and / in base64
	std, err := Local(base64.StdEncoding.EncodeToString(key))
	if err != nil {
		t.Fatal(err)
	}
	url, err := Local(base64.RawURLEncoding.EncodeToString(key))
	if err != nil || url.ID() != std.ID() || std.ID() == master(t, 1).ID() {
		t.Errorf("%v, %s, %s", err, url.ID(), std.ID())
	}
	for _, text := range []string{"", "c2hvcnQ=", "not base64, and a secret all the same!!!!!!!!", base64.StdEncoding.EncodeToString(make([]byte, 33))} {
		if _, err := Local(text); !dberr.Is(err, dberr.InvalidArgument) || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzOpenWith(f *testing.F) {
	aead, err := AEAD(make([]byte, KeyBytes))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{}, "a")
	f.Add(SealWith(aead, "a", []byte("x")), "a")
	f.Fuzz(func(t *testing.T, sealed []byte, purpose string) {
		plain, err := OpenWith(aead, purpose, sealed)
		if err != nil && !dberr.Is(err, dberr.Corrupt) || err == nil && len(plain)+Overhead != len(sealed) {
			t.Errorf("%d bytes of %d, %v", len(plain), len(sealed), err)
		}
	})
}
