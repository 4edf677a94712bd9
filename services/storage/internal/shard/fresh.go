package shard

import (
	"context"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// readIndexTimeout bounds asking the leader where it is: a leader that does not answer within it is being
// replaced.
const readIndexTimeout = 5 * time.Second

// ReadAs returns once reading the local state is as consistent as wanted. maxAge is for
// CONSISTENCY_STALE: the state read then holds everything that was acknowledged before maxAge ago.
func (s *Shard) ReadAs(ctx context.Context, want storagev1.Consistency, maxAge time.Duration) error {
	switch want {
	case storagev1.Consistency_CONSISTENCY_UNSPECIFIED, storagev1.Consistency_CONSISTENCY_LINEARIZABLE:
		return s.ReadBarrier(ctx)
	case storagev1.Consistency_CONSISTENCY_LEADER:
		return s.checkServing()
	case storagev1.Consistency_CONSISTENCY_STALE:
		return s.readStale(ctx, maxAge)
	}
	return dberr.New(dberr.InvalidArgument, "unknown consistency %d", want)
}

// ReadIndex confirms that this node leads and returns the index up to which a replica must have applied to
// hold everything acknowledged before the call. It counts commands: entries of Raft's own apply nothing.
func (s *Shard) ReadIndex(ctx context.Context) (uint64, error) {
	if err := s.ReadBarrier(ctx); err != nil {
		return 0, err
	}
	return s.Applied(), nil
}

// readStale asks the leader where it is, unless somebody did within maxAge, and waits until this replica is
// there too.
func (s *Shard) readStale(ctx context.Context, maxAge time.Duration) error {
	if err := s.notFailed(); err != nil {
		return err
	}
	index, err := s.fresh.index(ctx, s, maxAge)
	if err != nil {
		return err
	}
	return s.WaitApplied(ctx, index)
}

// confirmationsMax is how many answers of the leader are kept: a read takes the newest one that this replica has
// caught up with already, before it waits.
const confirmationsMax = 4

// freshness is what a replica knows of its leader's progress. One question serves all reads that wait.
type freshness struct {
	mu sync.Mutex
	// known are the leader's last answers, in the order of asking.
	known []confirmation
	round *readRound // under way
}

// confirmation is what the leader answered to a question asked at a time.
type confirmation struct {
	asked time.Time
	index uint64
}

type readRound struct {
	asked time.Time
	done  chan struct{}
	// index and err are set before done is closed.
	index uint64
	err   error
}

// index returns an index the leader confirmed at most maxAge ago, or later: one that is applied, if there is one.
func (f *freshness) index(ctx context.Context, s *Shard, maxAge time.Duration) (uint64, error) {
	now := s.cfg.Steady()
	oldest := now.Add(-maxAge)
	for {
		round, index, ok := f.join(ctx, s, oldest, now.Add(-maxAge/2))
		if ok {
			return index, nil
		}
		if round == nil {
			return 0, dberr.New(dberr.Unavailable, "shard %d is closing on this node", s.cfg.ID)
		}
		select {
		case <-round.done:
		case <-ctx.Done():
			return 0, dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "wait for the leader of shard %d: %w", s.cfg.ID, ctx.Err())
		}
		if !round.asked.Before(oldest) {
			return round.index, round.err
		}
	}
}

// join returns an answer that is new enough, or the round under way, or a new one. A round that began before
// oldest does not answer the read, which then takes part in the next. When no answer is newer than aging, the
// leader is asked without waiting, so that those who read all the time never wait.
func (f *freshness) join(ctx context.Context, s *Shard, oldest, aging time.Time) (round *readRound, index uint64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	applied := s.Applied()
	for i := len(f.known) - 1; i >= 0 && !f.known[i].asked.Before(oldest); i-- {
		if !ok || index > applied {
			index, ok = f.known[i].index, true
		}
	}
	if ok && !f.known[len(f.known)-1].asked.Before(aging) {
		return nil, index, true
	}
	if f.round == nil {
		r := &readRound{asked: s.cfg.Steady(), done: make(chan struct{})}
		if s.spawn(func() { f.ask(context.WithoutCancel(ctx), s, r) }) {
			f.round = r
		}
	}
	return f.round, index, ok
}

// ask asks for all who wait, so none of them can cancel it; the shard's end does.
func (f *freshness) ask(ctx context.Context, s *Shard, r *readRound) {
	ctx, cancel := context.WithTimeout(ctx, readIndexTimeout)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if s.Leads() || s.cfg.ReadIndex == nil {
			r.index, r.err = s.ReadIndex(ctx)
		} else {
			r.index, r.err = s.cfg.ReadIndex(ctx)
		}
	}()
	select {
	case <-answered:
	case <-s.ended:
	}
	cancel()
	<-answered
	f.mu.Lock()
	f.round = nil
	if r.err == nil {
		f.known = append(f.known, confirmation{r.asked, r.index})
		if len(f.known) > confirmationsMax {
			f.known = f.known[1:]
		}
	}
	f.mu.Unlock()
	close(r.done)
}

// progress wakes those who wait for entries to be applied.
type progress struct {
	mu      sync.Mutex
	changed chan struct{} // nil when nobody waits
}

func (p *progress) wait() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.changed
}

func (p *progress) advance() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// WaitApplied returns once the entry at index is applied here.
func (s *Shard) WaitApplied(ctx context.Context, index uint64) error {
	for s.Applied() < index {
		changed := s.progress.wait()
		if s.Applied() >= index {
			return nil
		}
		select {
		case <-changed:
		case <-s.cfg.Failed:
			return errFailed
		case <-s.ended:
			return dberr.New(dberr.Unavailable, "shard %d is closing on this node", s.cfg.ID)
		case <-ctx.Done():
			return dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "wait for entry %d of shard %d: %w", index, s.cfg.ID, ctx.Err())
		}
	}
	return nil
}
