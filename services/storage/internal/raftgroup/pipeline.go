package raftgroup

import (
	"sync"

	"github.com/hashicorp/raft"
)

// transport is Raft's own, with pipelines that do not stand still.
type transport struct{ *raft.NetworkTransport }

// AppendEntriesPipeline opens a pipeline to a peer.
func (t transport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := t.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return newPipeline(p), nil
}

// pipeline takes answers off the pipeline below as they come. In v1.7.3 the reader of the answers ends as soon as one
// tells of a newer term, while the sender may choose to send once more; the pipeline then waits to hand over the answer
// before, and the sender, who would close it, waits for the pipeline: for ever, and whoever stops the group with them.
type pipeline struct {
	raft.AppendPipeline
	answers chan raft.AppendFuture
	closed  chan struct{}
	once    sync.Once
}

func newPipeline(below raft.AppendPipeline) *pipeline {
	p := &pipeline{AppendPipeline: below, answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
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
			held = append(held, f)
		case to <- next:
			held = held[1:]
		case <-p.closed:
			return
		}
	}
}

// Consumer is where answers are read.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close ends the pipeline.
func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.AppendPipeline.Close()
}
