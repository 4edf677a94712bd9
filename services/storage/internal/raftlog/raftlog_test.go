package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func open(t *testing.T, fs vfs.FS) *DB {
	t.Helper()
	db, err := Open("log", Options{FS: fs, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

type quiet struct{}

func (quiet) Infof(string, ...any)         {}
func (quiet) Errorf(string, ...any)        {}
func (quiet) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

func group(t *testing.T, db *DB, id uint32) *Store {
	t.Helper()
	s, err := db.Group(id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func entry(index uint64, data string) *raft.Log {
	return &raft.Log{Index: index, Term: 3, Type: raft.LogCommand, Data: []byte(data),
		AppendedAt: time.Unix(1_700_000_000, 42)}
}

func bounds(t *testing.T, s *Store, first, last uint64) {
	t.Helper()
	f, _ := s.FirstIndex()
	l, _ := s.LastIndex()
	if f != first || l != last {
		t.Fatalf("log is [%d,%d], want [%d,%d]", f, l, first, last)
	}
}

func TestEntriesComeBackAfterReopening(t *testing.T) {
	fs := vfs.NewCrashableMem()
	db := open(t, fs)
	a, b := group(t, db, 1), group(t, db, 2)
	withExt := entry(1, "one")
	withExt.Extensions = []byte("ext")
	if err := a.StoreLogs([]*raft.Log{withExt, entry(2, ""), entry(3, "three")}); err != nil {
		t.Fatal(err)
	}
	if err := b.StoreLog(entry(100, "other group")); err != nil {
		t.Fatal(err)
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, crashed)
	defer db.Close()
	a, b = group(t, db, 1), group(t, db, 2)
	bounds(t, a, 1, 3)
	bounds(t, b, 100, 100)
	bounds(t, group(t, db, 3), 0, 0)
	var l raft.Log
	if err := a.GetLog(1, &l); err != nil {
		t.Fatal(err)
	}
	if l.Index != 1 || l.Term != 3 || string(l.Data) != "one" || string(l.Extensions) != "ext" || !l.AppendedAt.Equal(withExt.AppendedAt) {
		t.Fatalf("got %+v", l)
	}
	if err := a.GetLog(4, &l); !errors.Is(err, raft.ErrLogNotFound) {
		t.Fatalf("missing entry: %v", err)
	}
}

func TestDeleteRangeAtBothEnds(t *testing.T) {
	db := open(t, vfs.NewMem())
	defer db.Close()
	s, other := group(t, db, 1), group(t, db, 2)
	for i := uint64(1); i <= 10; i++ {
		if err := errors.Join(s.StoreLog(entry(i, "x")), other.StoreLog(entry(i, "y"))); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ lo, hi, first, last uint64 }{{1, 4, 5, 10}, {8, 10, 5, 7}, {5, 7, 0, 0}} {
		if err := s.DeleteRange(c.lo, c.hi); err != nil {
			t.Fatal(err)
		}
		bounds(t, s, c.first, c.last)
	}
	if err := s.StoreLog(entry(50, "after a snapshot")); err != nil {
		t.Fatal(err)
	}
	bounds(t, s, 50, 50)
	bounds(t, other, 1, 10)
}

func TestStableValuesBelongToTheirGroup(t *testing.T) {
	db := open(t, vfs.NewMem())
	defer db.Close()
	a, b := group(t, db, 1), group(t, db, 2)
	if err := errors.Join(a.SetUint64([]byte("term"), 9), a.Set([]byte("vote"), []byte("n1")), a.SetSnapshot([]byte("meta"))); err != nil {
		t.Fatal(err)
	}
	if v, err := a.GetUint64([]byte("term")); v != 9 || err != nil {
		t.Fatalf("%d, %v", v, err)
	}
	if v, err := a.Snapshot(); string(v) != "meta" || err != nil {
		t.Fatalf("%q, %v", v, err)
	}
	if v, err := b.GetUint64([]byte("term")); v != 0 || err != nil {
		t.Fatalf("other group: %d, %v", v, err)
	}
	if v, err := b.Get([]byte("vote")); v != nil || err != nil {
		t.Fatalf("other group: %q, %v", v, err)
	}
	if _, err := a.GetUint64([]byte("vote")); !dberr.Is(err, dberr.Corrupt) {
		t.Fatalf("a value that is no number: %v", err)
	}
}

// TestAcknowledgedEntriesSurviveACrash stores from several groups while the machine dies.
func TestAcknowledgedEntriesSurviveACrash(t *testing.T) {
	for seed := range uint64(8) {
		fs := vfs.NewCrashableMem()
		db := open(t, fs)
		var mu sync.Mutex
		stored := map[uint32]uint64{}
		var wg sync.WaitGroup
		for g := range uint32(4) {
			s := group(t, db, g)
			wg.Go(func() {
				for i := uint64(1); i <= 50; i++ {
					if err := s.StoreLog(entry(i, "data")); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					stored[g] = i
					mu.Unlock()
				}
			})
		}
		mu.Lock()
		acked := map[uint32]uint64{}
		for g, i := range stored {
			acked[g] = i
		}
		mu.Unlock()
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed * 12), RNG: rand.New(rand.NewPCG(seed, 1))})
		wg.Wait()
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		after := open(t, crashed)
		for g, i := range acked {
			if last, _ := group(t, after, g).LastIndex(); last < i {
				t.Errorf("seed %d: group %d ends at %d, %d was acknowledged", seed, g, last, i)
			}
		}
		if err := after.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	l := entry(1, "data")
	l.Extensions = []byte("ext")
	f.Add(append(append(appendHeader(nil, l), l.Extensions...), l.Data...))
	f.Add([]byte{entryVersion, 0})
	f.Fuzz(func(t *testing.T, src []byte) {
		var l raft.Log
		if err := decodeEntry(src, &l); err != nil {
			return
		}
		again := append(append(appendHeader(nil, &l), l.Extensions...), l.Data...)
		var l2 raft.Log
		if err := decodeEntry(again, &l2); err != nil || !bytes.Equal(l.Data, l2.Data) || !bytes.Equal(l.Extensions, l2.Extensions) || l.Term != l2.Term {
			t.Fatalf("%+v became %+v (%v)", l, l2, err)
		}
	})
}
