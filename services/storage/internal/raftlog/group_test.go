package raftlog

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
)

func TestAGroupGoesWithoutTouchingTheOthers(t *testing.T) {
	fs := vfs.NewCrashableMem()
	db, err := Open("raft", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	ids := []uint32{0, 1, 2, 256, math.MaxUint32}
	for _, id := range ids {
		s, err := db.Group(id)
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(s.StoreLog(&raft.Log{Index: 5, Term: 1, Data: []byte("x")}), s.SetUint64([]byte("CurrentTerm"), 7), s.SetSnapshot([]byte("{}")))
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, gone := range []uint32{1, math.MaxUint32} {
		if err := db.Doom(gone); err != nil {
			t.Fatal(err)
		}
	}
	crashed, err := Open("raft", Options{FS: fs.CrashClone(vfs.CrashCloneCfg{})})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []*DB{db, crashed} {
		groups, err := d.Groups()
		doomed, err2 := d.Doomed()
		if err := errors.Join(err, err2); err != nil || !slices.Equal(groups, []uint32{0, 2, 256}) || !slices.Equal(doomed, []uint32{1, math.MaxUint32}) {
			t.Errorf("groups %v, doomed %v, %v", groups, doomed, err)
		}
		if err := errors.Join(d.Forget(1), d.Forget(math.MaxUint32)); err != nil {
			t.Fatal(err)
		}
		if doomed, err := d.Doomed(); err != nil || len(doomed) != 0 {
			t.Errorf("doomed %v, %v", doomed, err)
		}
		s, err := d.Group(2)
		if err != nil {
			t.Fatal(err)
		}
		if term, err := s.GetUint64([]byte("CurrentTerm")); term != 7 || err != nil {
			t.Errorf("group 2: term %d, %v", term, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
