package raftgroup

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// transport is Raft's own, with pipelines that do not stand still and without pauses that grow.
type transport struct {
	*raft.NetworkTransport
	stall    *stall
	received chan raft.RPC
	// replicates reports whether entries of a term are still to be sent to a server; closed ends with the group.
	replicates func(server raft.ServerID, term uint64) bool
	// compacted reports whether the log no longer holds the entry behind one.
	compacted func(index uint64) bool
	closed    <-chan struct{}
	// handOver bounds TimeoutNow: while the leader waits for its answer it takes no writes.
	handOver time.Duration
	contacts contacts
}

// TimeoutNow asks a peer to hold an election. Raft would wait for one that is paused or cut off as for any answer, and
// refuse writes until then.
func (t *transport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	done := make(chan error, 1)
	go func() { done <- t.NetworkTransport.TimeoutNow(id, target, req, &raft.TimeoutNowResponse{}) }() // ends by transportTimeout
	select {
	case err := <-done:
		return err
	case <-time.After(t.handOver):
		return dberr.New(dberr.Timeout, "%s did not answer within %v", id, t.handOver)
	case <-t.closed:
		return dberr.New(dberr.Unavailable, "the group is closing")
	}
}

// unreachablePause is the time between two attempts to reach a peer: what a node that was away misses longer than its
// absence.
const unreachablePause = 50 * time.Millisecond

// AppendEntries sends entries until the peer answers, or the sender is no longer to send them. Raft would pause after
// each failure, twice as long each time and up to ten seconds: a node that came back after five seconds got nothing for
// another five, and if a third died meanwhile nobody could write. Heartbeats fail at once: Raft counts them.
//
// It is the same message every time. When the log no longer reaches back to it, Raft has to begin anew, perhaps with a
// snapshot.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	bound(req)
	for {
		err := t.stall.err()
		if err == nil {
			sent := time.Now()
			if err = t.NetworkTransport.AppendEntries(id, target, req, resp); err == nil {
				t.contacts.heard(id, sent, resp.Success)
			}
		}
		if err == nil || heartbeat(req) || !t.replicates(id, req.Term) || t.compacted(req.PrevLogEntry) {
			return err
		}
		select {
		case <-time.After(unreachablePause):
		case <-t.closed:
			return err
		}
	}
}

// appendBytesMax is how many bytes of entries one message carries, at least one entry. Raft counts entries only, a thousand of
// them may be half a gigabyte, and the exchange must end within transportTimeout on a slow link too.
const appendBytesMax = 1 << 20

// bound makes a message one that is safe to send.
//
// It leaves entries beyond appendBytesMax for the next message. Raft goes on behind the last one that is in it.
//
// And it says no more of what is committed than the message vouches for. In v1.7.3 a follower takes everything it has up to
// the leader's commit index for committed, also what the message does not reach: it may have that from a leader of an
// earlier term, and somebody else's entries may stand there. Raft waits between choosing the last entry to send and
// reading the commit index, and many entries may be committed meanwhile. The paper's rule is the smaller of the commit index
// and the index of the last new entry (Ongaro and Ousterhout, 2014, figure 2).
func bound(req *raft.AppendEntriesRequest) {
	bytes := 0
	for i, e := range req.Entries {
		if bytes += sizeOf(e); bytes > appendBytesMax && i > 0 {
			req.Entries = req.Entries[:i]
			break
		}
	}
	vouch(req)
}

// vouch bounds the commit index by the last entry a message reaches.
func vouch(req *raft.AppendEntriesRequest) {
	last := req.PrevLogEntry
	if n := len(req.Entries); n > 0 {
		last = req.Entries[n-1].Index
	}
	req.LeaderCommitIndex = min(req.LeaderCommitIndex, last)
}

// Consumer is where Raft takes what peers send.
func (t *transport) Consumer() <-chan raft.RPC { return t.received }

// receive hands peers' messages to Raft until stop is closed. A leader of a version before vouch existed says too much.
func (t *transport) receive(stop <-chan struct{}) {
	for {
		select {
		case rpc := <-t.NetworkTransport.Consumer():
			if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
				vouch(req)
			}
			select {
			case t.received <- rpc:
			case <-stop:
				return
			}
		case <-stop:
			return
		}
	}
}

// heartbeat tells Raft's heartbeats from what it replicates, which names the entry before.
func heartbeat(req *raft.AppendEntriesRequest) bool {
	return len(req.Entries) == 0 && req.PrevLogEntry == 0 && req.LeaderCommitIndex == 0
}

// AppendEntriesPipeline opens a pipeline to a peer.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := t.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return newPipeline(p, t.stall, func(f raft.AppendFuture) {
		if f.Error() == nil {
			t.contacts.heard(id, f.Start(), f.Response().Success)
		}
	}), nil
}

// pipeline takes answers off the pipeline below as they come. In v1.7.3 the reader of the answers ends as soon as one
// tells of a newer term, while the sender may choose to send once more; the pipeline then waits to hand over the answer
// before, and the sender, who would close it, waits for the pipeline: for ever, and whoever stops the group with them.
type pipeline struct {
	raft.AppendPipeline
	stall *stall
	heard func(raft.AppendFuture) // an answer came
	// toldCommit is the commit index sent last, told the time; by the sender only.
	toldCommit uint64
	told       time.Time

	answers chan raft.AppendFuture
	closed  chan struct{}
	once    sync.Once
}

func newPipeline(below raft.AppendPipeline, stall *stall, heard func(raft.AppendFuture)) *pipeline {
	p := &pipeline{AppendPipeline: below, stall: stall, heard: heard, answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
	go p.pump() // until Close, which the sender calls at its end
	return p
}

// pump holds answers for a reader who is slower, or gone: then no more than the sender sends until it notices.
func (p *pipeline) pump() {
	var held []raft.AppendFuture
	for {
		var to chan raft.AppendFuture
		var next raft.AppendFuture
		if len(held) > 0 {
			to, next = p.answers, held[0]
		}
		select {
		case f := <-p.AppendPipeline.Consumer():
			p.heard(f)
			held = append(held, f)
		case to <- next:
			held = held[1:]
		case <-p.closed:
			return
		}
	}
}

// quietAppendEvery is how often a follower that has everything is told so on its pipeline. A connection that broke meanwhile
// is noticed then: a follower that was restarted waits as long for what it may apply.
const quietAppendEvery = 500 * time.Millisecond

// AppendEntries sends entries, and how far they are committed. Raft calls it every CommitTimeout to twice that also when
// there is nothing to tell: with a hundred groups, that is most of what an idle node does, so it is not sent. That the
// leader is there, heartbeats say.
func (p *pipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if err := p.stall.err(); err != nil {
		return nil, err // it would count as a heartbeat
	}
	bound(req)
	now := time.Now()
	if len(req.Entries) == 0 && req.LeaderCommitIndex == p.toldCommit && now.Sub(p.told) < quietAppendEvery {
		return nil, nil //nolint:nilnil // Raft hears of what was sent by Consumer, and does not look at this
	}
	p.toldCommit, p.told = req.LeaderCommitIndex, now
	return p.AppendPipeline.AppendEntries(req, resp)
}

// Consumer is where answers are read.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close ends the pipeline.
func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.AppendPipeline.Close()
}
