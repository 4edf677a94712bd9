package raftgroup

import (
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A peer that was away for so long that the log no longer reaches back to it gets no further attempts with the same
// entries: Raft then sends a snapshot.
func TestEntriesAreNotRepeatedOnceTheLogHasMovedOn(t *testing.T) {
	n, err := raft.NewTCPTransport("127.0.0.1:0", nil, 2, time.Second, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Close() }()
	attempts := 0
	tr := &transport{NetworkTransport: n, stall: newStall(), closed: make(chan struct{}),
		replicates: func(raft.ServerID, uint64) bool { return true },
		compacted: func(index uint64) bool {
			attempts++
			return attempts == 3 && index == 7
		}}
	err = tr.AppendEntries("b", "127.0.0.1:1", &raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 7, Entries: []*raft.Log{{Index: 8}}},
		&raft.AppendEntriesResponse{})
	if err == nil || attempts != 3 {
		t.Errorf("%d attempts, %v", attempts, err)
	}
}

// What a follower has beyond a message may be another leader's: nothing is said of it.
func TestAMessageVouchesForWhatItReaches(t *testing.T) {
	for _, c := range []struct{ prev, entries, commit, want int }{
		{7, 0, 5, 5}, {7, 0, 7, 7}, {7, 0, 9, 7}, {7, 3, 9, 9}, {7, 3, 12, 10}, {0, 0, 0, 0}, {0, 2, 9, 2},
	} {
		req := &raft.AppendEntriesRequest{PrevLogEntry: uint64(c.prev), LeaderCommitIndex: uint64(c.commit)}
		for i := range c.entries {
			req.Entries = append(req.Entries, &raft.Log{Index: uint64(c.prev + 1 + i)})
		}
		if bound(req); req.LeaderCommitIndex != uint64(c.want) {
			t.Errorf("%+v: committed up to %d", c, req.LeaderCommitIndex)
		}
	}
}

// A follower is not told more by a leader of an earlier version either.
func TestWhatAPeerSaysTooMuchIsNotHeard(t *testing.T) {
	leader, follower := tcpTransport(t), tcpTransport(t)
	tr := &transport{NetworkTransport: follower, received: make(chan raft.RPC)}
	stop := make(chan struct{})
	defer close(stop)
	go tr.receive(stop)
	heard := make(chan uint64, 1)
	go func() {
		rpc := <-tr.Consumer()
		heard <- rpc.Command.(*raft.AppendEntriesRequest).LeaderCommitIndex
		rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
	}()
	req := &raft.AppendEntriesRequest{PrevLogEntry: 7, LeaderCommitIndex: 12}
	if err := leader.AppendEntries("b", follower.LocalAddr(), req, &raft.AppendEntriesResponse{}); err != nil {
		t.Fatal(err)
	}
	if commit := <-heard; commit != 7 {
		t.Errorf("heard that %d is committed", commit)
	}
}

func TestAMessageCarriesSoManyBytes(t *testing.T) {
	entries := func(sizes ...int) (all []*raft.Log) {
		for i, n := range sizes {
			all = append(all, &raft.Log{Index: uint64(i + 1), Data: make([]byte, n)})
		}
		return all
	}
	for _, c := range []struct {
		sizes []int
		want  int
	}{
		{nil, 0}, {[]int{10, 10}, 2}, {[]int{2 * appendBytesMax}, 1}, {[]int{2 * appendBytesMax, 1}, 1},
		{[]int{appendBytesMax / 2, appendBytesMax / 4, appendBytesMax / 2}, 2},
	} {
		req := &raft.AppendEntriesRequest{Entries: entries(c.sizes...)}
		if bound(req); len(req.Entries) != c.want {
			t.Errorf("%v: %d entries", c.sizes, len(req.Entries))
		}
	}
}

func tcpTransport(t *testing.T) *raft.NetworkTransport {
	t.Helper()
	n, err := raft.NewTCPTransport("127.0.0.1:0", nil, 2, 10*time.Second, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}
