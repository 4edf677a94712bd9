package raftgroup

import (
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// disk is what a file system's syncs wait for while it stands still.
type disk struct {
	mu    sync.Mutex
	moves chan struct{} // closed when it does
}

func newDisk() *disk {
	d := &disk{moves: make(chan struct{})}
	close(d.moves)
	return d
}

// freeze makes syncs wait until thaw, which may be called twice.
func (d *disk) freeze() (thaw func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moves = make(chan struct{})
	return sync.OnceFunc(func() { close(d.moves) })
}

// MaybeError waits and never fails.
func (d *disk) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		d.mu.Lock()
		moves := d.moves
		d.mu.Unlock()
		<-moves
	}
	return nil
}

func (*disk) String() string { return "disk" }

// A leader whose disk stands still is succeeded, though it is alive, and follows when its disk moves again.
func TestALeaderWhoseDiskStandsStillIsSucceeded(t *testing.T) {
	p := newParty(t, "n1", "n2", "n3")
	if err := p.propose("n1", "a"); err != nil {
		t.Fatal(err)
	}
	thaw := p.nodes["n1"].disk.freeze()
	t.Cleanup(thaw)
	stuck := make(chan error, 1)
	go func() { stuck <- p.propose("n1", "b") }()
	next := p.leader("n2", "n3")
	p.until("n1 to serve nothing", func() bool { return p.nodes["n1"].group.Term() == 0 })
	if err := p.propose(next, "c"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-stuck:
		t.Fatalf("a write on the disk that stands still: %v", err)
	default:
	}
	thaw()
	if err := <-stuck; err == nil {
		t.Error("the entry that was not stored in time was committed")
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		p.has(n, "ac")
	}
}

// A disk that stands still under every node stops the group, and its leader leads on when nobody could be elected.
func TestALeaderGoesOnWhenNobodyTookItsPlace(t *testing.T) {
	p := newParty(t, "n1", "n2", "n3")
	var thaws []func()
	for _, n := range p.nodes {
		thaw := n.disk.freeze()
		t.Cleanup(thaw)
		thaws = append(thaws, thaw)
	}
	stuck := make(chan error, 1)
	go func() { stuck <- p.propose("n1", "b") }()
	p.until("n1 to serve nothing", func() bool { return p.nodes["n1"].group.Term() == 0 })
	for _, thaw := range thaws {
		thaw()
	}
	<-stuck // committed, or not: that depends on who was elected
	for p.propose(p.leader("n1", "n2", "n3"), "c") != nil {
		if t.Context().Err() != nil {
			t.Fatal("the group does not go on")
		}
	}
}
