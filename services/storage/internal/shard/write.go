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
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
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
	// wrote are the tables of the command, of user or shared: what a transaction may have read.
	wrote []uint32
	user  string
	// remembered says that the request was done before this attempt of it.
	remembered bool
	// joined is the other attempt of the same request that this one waits for.
	joined *Pending
	// attempt is set when the request has an id; remember, when its answer is to be kept in memory.
	attempt  *attempt
	remember bool

	once sync.Once
	done chan struct{}
	// err, the position and the index in the log are set before done is closed.
	err      error
	position uint64
	index    uint64
}

// proposal is a future whose failure must reach its Pending.
type proposal struct {
	future  raft.ApplyFuture
	pending *Pending
}

// Begin decides a write and puts it into the log. Writes begun one after the other are logged in that
// order. What Begin refuses has had no effect. A request whose id was done before, or is under way, is not
// decided again: it is answered as that one.
func (s *Shard) Begin(ctx context.Context, req *storagev1.WriteRequest) (*Pending, error) {
	return s.begin(ctx, req, nil)
}

func (s *Shard) begin(ctx context.Context, req *storagev1.WriteRequest, reads []tableRead) (*Pending, error) {
	if err := s.checkServing(); err != nil {
		return nil, err
	}
	if err := s.WaitCatalog(ctx, req.GetCatalogVersion()); err != nil {
		return nil, err
	}
	// Read before deciding: if leadership is lost and won again from here on, the entry is refused.
	term := s.term.Load()
	switch len(req.GetRequestId()) {
	case 0:
		return s.decide(ctx, req, reads, term, nil)
	case command.RequestIDBytes:
		return s.beginOnce(ctx, req, reads, term)
	}
	return nil, dberr.New(dberr.InvalidArgument, "a request id of %d bytes, it must have %d", len(req.GetRequestId()), command.RequestIDBytes)
}

// beginOnce begins a request unless it was begun before.
func (s *Shard) beginOnce(ctx context.Context, req *storagev1.WriteRequest, reads []tableRead, term uint64) (*Pending, error) {
	own, joined, known, err := s.requests.enter(ctx, requestID(req.GetRequestId()))
	if err != nil {
		return nil, err
	}
	if joined != nil {
		return &Pending{shard: s, joined: joined, returns: req.GetReturnRows(), remembered: true}, nil
	}
	done, err := s.find(own.id, known)
	if err == nil && done == nil {
		p, err := s.decide(ctx, req, reads, term, own)
		if err != nil {
			s.requests.leave(own, nil)
			return nil, err
		}
		s.requests.logged(own, p)
		return p, nil
	}
	s.requests.leave(own, nil)
	if err != nil {
		return nil, err
	}
	return s.replay(req, done)
}

// decide plans and decides a write, and logs it.
func (s *Shard) decide(ctx context.Context, req *storagev1.WriteRequest, reads []tableRead, term uint64, at *attempt) (*Pending, error) {
	p := planner{shard: s.cfg.ID, shards: s.cfg.Shards, tables: s.cfg.Tables, open: s.checkOpen,
		fill: s.filler(req.GetIdentity().GetUserId())}
	if err := p.run(req); err != nil {
		return nil, err
	}
	pend, err := s.admit(ctx, &p.plan)
	if err != nil {
		return nil, err
	}
	pend.returns, pend.attempt = req.GetReturnRows(), at
	d := decider{shard: s.cfg.ID, db: s.cfg.DB, highest: s.highest,
		cold: &coldRows{ctx: ctx, shard: s.cfg.ID, db: s.cfg.DB, readers: s.cfg.Cold, changes: &s.segmentChanges}}
	if err := d.run(&p.plan, len(req.GetWrites())); err != nil {
		err = s.confirmed(ctx, s.unlessReadsChanged(err, reads))
		pend.finish(err)
		return nil, err
	}
	pend.affected, pend.stored = d.affected, d.stored
	if len(d.out) == 0 && (at == nil || !req.GetFence()) { // nothing to write: everything was skipped
		pend.position = s.Position()
		err := s.confirmed(ctx, s.unlessReadsChanged(nil, reads))
		pend.finish(err)
		return pend, err
	}
	pend.wrote, pend.user = p.plan.tables(), p.plan.user
	cmd := command.Command{Kind: command.Write, Term: term, User: p.plan.user, Rows: d.out}
	if at != nil {
		if pend.remember = s.format() < command.VersionRequests; !pend.remember {
			cmd.RequestID, cmd.Counts = at.id[:], pend.counts()
		}
	}
	if err := s.log(pend, &cmd, reads); err != nil {
		return nil, err
	}
	return pend, nil
}

// confirmed is for an answer that comes from what is stored here and puts nothing into the log: it is right only if
// nobody else leads meanwhile, as somebody might who has changed it.
func (s *Shard) confirmed(ctx context.Context, answer error) error {
	if err := s.ReadBarrier(ctx); err != nil {
		return err
	}
	return answer
}

// format is the highest version of entries that every replica reads.
func (s *Shard) format() uint32 {
	if s.cfg.FormatVersion == nil {
		return command.Newest
	}
	return s.cfg.FormatVersion()
}

func (p *Pending) counts() []uint32 {
	counts := make([]uint32, len(p.affected))
	for i, n := range p.affected {
		counts[i] = uint32(n)
	}
	return counts
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

// log encodes a command, gives it its _seq and its place in the log, unless what it depends on has been changed by
// commands with places before.
func (s *Shard) log(pend *Pending, cmd *command.Command, reads []tableRead) error {
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
	err := s.checkErasing(cmd)
	if err == nil {
		err = s.checkReads(reads)
	}
	if err != nil {
		pend.finish(err)
		return err
	}
	n := max(len(cmd.Rows), len(cmd.Added), 1) // each segment has a _seq of its own, too
	pend.first = s.seq.NextN(n)
	pend.position = snowflake.At(pend.first, n-1)
	command.SetFirstSeq(encoded, pend.first)
	s.waiting.Lock()
	s.pending[pend.first] = pend
	s.waiting.Unlock()
	s.failing <- proposal{s.group.Load().Propose(encoded), pend}
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
		return s.NotLeader()
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
		var done *keycodec.Request
		if p.remember && err == nil {
			done = &keycodec.Request{FirstSeq: p.first, Counts: p.counts()}
		}
		p.shard.requests.leave(p.attempt, done)
		p.shard.keys.release(p.keys)
		p.shard.bytes.Release(p.bytes)
		p.shard.inFlight.Release(1)
		close(p.done)
	})
}

// Wait returns once the write is durable and applied, or has failed. When ctx ends first the write goes
// on: whether it succeeds is then not known here.
func (p *Pending) Wait(ctx context.Context) (*storagev1.WriteResponse, error) {
	of := p
	if p.joined != nil {
		of = p.joined
	}
	select {
	case <-of.done:
	case <-ctx.Done():
		return nil, dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "the write was sent, whether it was written is unknown: %w", ctx.Err())
	case <-p.shard.cfg.Failed:
		return nil, errFailed
	}
	if of.err != nil {
		return nil, of.err
	}
	return of.response(p.returns), nil
}

func (p *Pending) response(returns bool) *storagev1.WriteResponse {
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
		if returns {
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
	if err := s.log(pend, &command.Command{Kind: command.Purge, Term: s.term.Load(), Table: table}, nil); err != nil {
		return err
	}
	_, err = pend.Wait(ctx)
	return err
}
