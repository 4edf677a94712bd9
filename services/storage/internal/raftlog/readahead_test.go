package raftlog

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

// A sequential reader must see what a single read sees, also after the tail was cut and rewritten.
func TestReadingOnFollowsTheLog(t *testing.T) {
	db, err := Open("log", Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s, err := db.Group(7)
	if err != nil {
		t.Fatal(err)
	}
	store := func(from, to, term uint64) {
		t.Helper()
		for i := from; i <= to; i++ {
			if err := s.StoreLog(&raft.Log{Index: i, Term: term, Data: fmt.Appendf(nil, "%d/%d", term, i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func(i uint64) string {
		t.Helper()
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil {
			return err.Error()
		}
		if l.Index != i {
			t.Fatalf("entry %d came as %d", i, l.Index)
		}
		return string(l.Data)
	}
	store(1, 1500, 1)
	for i := uint64(1); i <= 1500; i++ {
		if got, want := read(i), fmt.Sprintf("1/%d", i); got != want {
			t.Fatalf("entry %d: %s, want %s", i, got, want)
		}
	}
	if got := read(1501); got != raft.ErrLogNotFound.Error() {
		t.Fatalf("behind the end: %s", got)
	}
	read(998)
	read(999) // holds what follows now
	if err := s.DeleteRange(1000, 1500); err != nil {
		t.Fatal(err)
	}
	if got := read(1000); got != raft.ErrLogNotFound.Error() {
		t.Fatalf("a removed entry: %s", got)
	}
	store(1000, 1100, 2)
	for i := uint64(990); i <= 1100; i++ {
		want := fmt.Sprintf("1/%d", i)
		if i >= 1000 {
			want = fmt.Sprintf("2/%d", i)
		}
		if got := read(i); got != want {
			t.Fatalf("entry %d after the rewrite: %s, want %s", i, got, want)
		}
	}
}
