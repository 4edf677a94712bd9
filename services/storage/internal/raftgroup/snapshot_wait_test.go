package raftgroup

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

// slowState is on a disk that stands still.
type slowState struct {
	sharedState
	begun, goOn chan struct{}
}

func (s *slowState) MakeDurable(uint64) error {
	close(s.begun)
	<-s.goOn
	return nil
}

func TestASnapshotDoesNotKeepItsCaller(t *testing.T) {
	fs := vfs.NewMem()
	state := &slowState{begun: make(chan struct{}), goOn: make(chan struct{})}
	leads := make(chan uint64, 8)
	g, err := Open(t.Context(), Config{Group: 7, State: state, Log: openLog(t, fs), Mux: listen(t, rpcnet.NewLocal(), "n1"), FS: fs,
		SpoolDir: "spool", Bootstrap: true, OnLead: func(term uint64) { leads <- term }, OnFollow: func() {}, Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	<-leads
	if err := g.Propose([]byte("x")).Error(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-state.begun; cancel() }()
	if err := g.Snapshot(ctx); !dberr.Is(err, dberr.Canceled) {
		t.Errorf("the caller has gone: %v", err)
	}
	close(state.goOn)
	stop, done := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
	defer done()
	if err := g.Stop(stop); err != nil {
		t.Error(err)
	}
}
