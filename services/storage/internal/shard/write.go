package shard

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
)

// Pending is a write that is decided and on its way into the log.
type Pending struct {
	shard    *Shard
	keys     []string
	bytes    int64
	first    uint64 // the _seq of its first row
	affected []int  // rows per TableWrite
	stored   [][]byte
	returns  bool

	once sync.Once
	done chan struct{}
	// err, and the position, are set before done is closed.
	err      error
	position uint64
}

// proposal is a future whose failure must reach its Pending.
type proposal struct {
	future  raft.ApplyFuture
	pending *Pending
}

// Begin decides a write and puts it into the log. Writes begun one after the other are logged in that
// order. What Begin refuses has had no effect.
func (s *Shard) Begin(ctx context.Context, req *storagev1.WriteRequest) (*Pending, error) {
	if err := s.checkServing(); err != nil {
		return nil, err
	}
	// Read before deciding: if leadership is lost and won again from here on, the entry is refused.
	term := s.term.Load()
	p := planner{shard: s.cfg.ID, shards: s.cfg.Shards, tables: s.cfg.Tables,
		fill: s.filler(req.GetIdentity().GetUserId())}
	if err := p.run(req); err != nil {
		return nil, err
	}
	pend, err := s.admit(ctx, &p.plan)
	if err != nil {
		return nil, err
	}
	pend.returns = req.GetReturnRows()
	d := decider{shard: s.cfg.ID, db: s.cfg.DB}
	if err := d.run(&p.plan, len(req.GetWrites())); err != nil {
		pend.finish(err)
		return nil, err
	}
	pend.affected, pend.stored = d.affected, d.stored
	if len(d.out) == 0 { // nothing to write: everything was skipped
		pend.position = s.Position()
		pend.finish(nil)
		return pend, nil
	}
	cmd := command.Command{Kind: command.Write, Term: term, User: p.plan.user, Rows: d.out}
	if err := s.log(pend, &cmd); err != nil {
		return nil, err
	}
	return pend, nil
}

// admit waits for room and for the keys of a plan.
func (s *Shard) admit(ctx context.Context, p *plan) (*Pending, error) {
	pend := &Pending{shard: s, done: make(chan struct{}), bytes: min(int64(p.bytes), inFlightBytesMax)}
	if err := s.inFlight.Acquire(ctx, 1); err != nil {
		return nil, busy(err)
	}
	if err := s.bytes.Acquire(ctx, pend.bytes); err != nil {
		s.inFlight.Release(1)
		return nil, busy(err)
	}
	keys := p.keys()
	if err := s.keys.acquire(ctx, keys); err != nil {
		pend.finish(err)
		return nil, err
	}
	pend.keys = keys
	return pend, nil
}

func busy(err error) error {
	return dberr.New(dberr.CodeOf(dberr.FromStatus(err)), "wait for earlier writes of the shard: %w", err)
}

// log encodes a command, gives it its _seq and its place in the log.
func (s *Shard) log(pend *Pending, cmd *command.Command) error {
	encoded := command.Append(nil, cmd)
	if len(encoded) > commandBytesMax {
		err := tooLarge()
		pend.finish(err)
		return err
	}
	s.propose.Lock()
	if s.closed {
		s.propose.Unlock()
		err := dberr.New(dberr.Unavailable, "this node is stopping")
		pend.finish(err)
		return err
	}
	defer s.propose.Unlock()
	n := max(len(cmd.Rows), 1)
	pend.first = s.seq.NextN(n)
	pend.position = snowflake.At(pend.first, n-1)
	command.SetFirstSeq(encoded, pend.first)
	s.waiting.Lock()
	s.pending[pend.first] = pend
	s.waiting.Unlock()
	s.failing <- proposal{s.group.Propose(encoded), pend}
	return nil
}

// answerFailures tells writes whose entry failed. Those that succeed have been answered by apply
// before, without waiting for this goroutine.
func (s *Shard) answerFailures() {
	for p := range s.failing {
		err := p.future.Error()
		if err == nil {
			err, _ = p.future.Response().(error)
		} else {
			err = s.proposeFailed(err)
		}
		if _, ours := s.take(p.pending.first); ours {
			p.pending.finish(err)
		}
	}
}

func (s *Shard) proposeFailed(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return s.group.NotLeader()
	case errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return dberr.New(dberr.Unavailable, "this node is giving up shard %d: %w", s.cfg.ID, err)
	}
	return dberr.New(dberr.Unavailable, "shard %d lost its leader while the write was under way: whether it was written is unknown: %w", s.cfg.ID, err)
}

// take removes a pending write from those that wait for apply.
func (s *Shard) take(first uint64) (*Pending, bool) {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	p, ok := s.pending[first]
	delete(s.pending, first)
	return p, ok
}

// finish answers the write and frees what it held, once.
func (p *Pending) finish(err error) {
	p.once.Do(func() {
		p.err = err
		p.shard.keys.release(p.keys)
		p.shard.bytes.Release(p.bytes)
		p.shard.inFlight.Release(1)
		close(p.done)
	})
}

// Wait returns once the write is durable and applied, or has failed. When ctx ends first the write goes
// on: whether it succeeds is then not known here.
func (p *Pending) Wait(ctx context.Context) (*storagev1.WriteResponse, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "the write was sent, whether it was written is unknown: %w", ctx.Err())
	case <-p.shard.cfg.Failed:
		return nil, errFailed
	}
	if p.err != nil {
		return nil, p.err
	}
	return p.response(), nil
}

func (p *Pending) response() *storagev1.WriteResponse {
	resp := &storagev1.WriteResponse{Durability: storagev1.Durability_DURABILITY_QUORUM, Position: p.position,
		Results: make([]*storagev1.TableWriteResult, len(p.affected))}
	row := 0
	for i, n := range p.affected {
		r := &storagev1.TableWriteResult{RowsAffected: uint64(n)}
		if n > 0 {
			r.Seqs = make([]uint64, n)
		}
		for k := range n {
			r.Seqs[k] = snowflake.At(p.first, row+k)
		}
		if p.returns {
			r.Rows = p.stored[row : row+n]
		}
		row += n
		resp.Results[i] = r
	}
	return resp
}

// Write is Begin and Wait.
func (s *Shard) Write(ctx context.Context, req *storagev1.WriteRequest) (*storagev1.WriteResponse, error) {
	p, err := s.Begin(ctx, req)
	if err != nil {
		return nil, err
	}
	return p.Wait(ctx)
}

// Purge removes a dropped table's rows and index entries from the shard, for good: entries of the table
// that come later in the log are refused.
func (s *Shard) Purge(ctx context.Context, table uint32) error {
	if err := s.checkServing(); err != nil {
		return err
	}
	pend, err := s.admit(ctx, &plan{})
	if err != nil {
		return err
	}
	if err := s.log(pend, &command.Command{Kind: command.Purge, Term: s.term.Load(), Table: table}); err != nil {
		return err
	}
	_, err = pend.Wait(ctx)
	return err
}
