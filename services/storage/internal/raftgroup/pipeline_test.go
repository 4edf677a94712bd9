package raftgroup

import (
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// openPipeline connects a pipeline to a follower that answers with term 2, and returns what the follower gets.
func openPipeline(t *testing.T) (raft.AppendPipeline, <-chan *raft.AppendEntriesRequest) {
	open := func() (*raft.NetworkTransport, raft.ServerAddress) {
		n, err := raft.NewTCPTransport("127.0.0.1:0", nil, 2, 10*time.Second, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Close() })
		return n, n.LocalAddr()
	}
	leader, _ := open()
	follower, addr := open()
	got := make(chan *raft.AppendEntriesRequest, 100)
	go func() {
		for rpc := range follower.Consumer() {
			got <- rpc.Command.(*raft.AppendEntriesRequest)
			rpc.Respond(&raft.AppendEntriesResponse{Term: 2}, nil)
		}
	}()
	p, err := (&transport{stall: newStall(), NetworkTransport: leader}).AppendEntriesPipeline("b", addr)
	if err != nil {
		t.Fatal(err)
	}
	return p, got
}

// A follower is told what it does not know yet, and not all the time what it knows.
func TestAPipelineIsQuietWhenThereIsNothingToTell(t *testing.T) {
	p, got := openPipeline(t)
	send := func(commit uint64, entries ...*raft.Log) {
		t.Helper()
		if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 2, PrevLogEntry: 9, LeaderCommitIndex: commit, Entries: entries}, &raft.AppendEntriesResponse{}); err != nil {
			t.Fatal(err)
		}
	}
	send(5)
	for range 10 {
		send(5)
	}
	send(5, &raft.Log{Index: 10})
	send(6)
	for i, want := range []struct{ entries, commit int }{{0, 5}, {1, 5}, {0, 6}} {
		if req := <-got; len(req.Entries) != want.entries || req.LeaderCommitIndex != uint64(want.commit) {
			t.Errorf("message %d has %d entries, committed up to %d", i, len(req.Entries), req.LeaderCommitIndex)
		}
	}
	for sent := false; !sent; { // after a while it says so again
		send(6)
		select {
		case <-got:
			sent = true
		case <-time.After(time.Millisecond):
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// What Raft does when it steps down: it sends on, and reads no more answers.
func TestAPipelineWhoseAnswersNobodyReads(t *testing.T) {
	p, _ := openPipeline(t)
	sent := make(chan error, 1)
	go func() {
		for i := range 20 {
			if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 100, LeaderCommitIndex: uint64(i + 1)}, &raft.AppendEntriesResponse{}); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	select {
	case err := <-sent:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the pipeline stands still")
	}
	for range 20 {
		if f := <-p.Consumer(); f.Error() != nil || f.Response().Term != 2 {
			t.Fatalf("%v, %v", f.Response(), f.Error())
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}
