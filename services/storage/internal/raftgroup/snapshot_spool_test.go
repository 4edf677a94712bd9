package raftgroup

import (
	"errors"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"
)

var errDiskFull = errors.New("no space left on device")

// spooling is a store with a snapshot of its own, on a disk where one kind of operation fails.
func spooling(t *testing.T, kind errorfs.OpKind) (*snapshots, vfs.FS) {
	t.Helper()
	disk := vfs.NewMem()
	failing := errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == kind {
			return errDiskFull
		}
		return nil
	}))
	s := testSnapshots(t, disk, openLog(t, vfs.NewMem()), &bytesState{})
	s.fs = failing
	k, err := s.Create(raft.SnapshotVersionMax, 3, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil { // without content: the state is the snapshot
		t.Fatal(err)
	}
	return s, disk
}

func wantEmpty(t *testing.T, fs vfs.FS) {
	t.Helper()
	if names := files(t, fs); len(names) != 0 {
		t.Errorf("files left: %v", names)
	}
}

func TestASnapshotThatCannotBeSpooledLeavesNoFile(t *testing.T) {
	for _, kind := range []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpOpen} {
		s, disk := spooling(t, kind)
		if _, _, err := s.Open(s.meta.ID); !errors.Is(err, errDiskFull) {
			t.Errorf("operation %v: error %v", kind, err)
		}
		wantEmpty(t, disk)
	}
}

func TestAReceivedSnapshotThatCannotBeStoredLeavesNoFile(t *testing.T) {
	for _, kind := range []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpFileSync} {
		s, disk := spooling(t, kind)
		k, err := s.Create(raft.SnapshotVersionMax, 9, 1, raft.Configuration{}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(k, "rows") // as Raft does: cancel what could not be written, close the rest
		if err != nil {
			if err := k.Cancel(); err != nil {
				t.Error(err)
			}
		} else {
			err = k.Close()
		}
		if !errors.Is(err, errDiskFull) {
			t.Errorf("operation %v: error %v", kind, err)
		}
		wantEmpty(t, disk)
		if s.meta.Index != 3 {
			t.Errorf("operation %v: the snapshot is at %d, want the one before at 3", kind, s.meta.Index)
		}
	}
}
