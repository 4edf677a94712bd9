package raftgroup

import (
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// What Raft does when it steps down: it sends on, and reads no more answers.
func TestAPipelineWhoseAnswersNobodyReads(t *testing.T) {
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
	go func() {
		for rpc := range follower.Consumer() {
			rpc.Respond(&raft.AppendEntriesResponse{Term: 2}, nil)
		}
	}()
	p, err := (&transport{stall: newStall(), NetworkTransport: leader}).AppendEntriesPipeline("b", addr)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		for range 20 {
			if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 1}, &raft.AppendEntriesResponse{}); err != nil {
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
