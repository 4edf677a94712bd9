package shard

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// FreezeMax is how long a shard decides no writes for a cut. Then it thaws by itself: whoever froze it may be gone.
const FreezeMax = time.Second

// freezes is what a cut is doing with a shard: one at a time.
type freezes struct {
	mu sync.Mutex
	// cut holds it; empty: nobody. term is the one in which it was frozen.
	cut   string
	term  uint64
	timer *time.Timer
}

// View is a shard's state at a cut. Close it.
type View struct {
	Snapshot *pebble.Snapshot
	// Position is the highest _seq in it.
	Position uint64
}

// Freeze returns when every write that was begun here is applied. Those that follow wait, until View, Thaw, or FreezeMax.
func (s *Shard) Freeze(ctx context.Context, cut string) error {
	if cut == "" {
		return dberr.New(dberr.InvalidArgument, "a cut has a name")
	}
	term, err := s.office()
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, FreezeMax)
	defer cancel()
	// Each write holds a place from before it reads until it is applied: with all places, nothing is under way, and nothing begins.
	if err := s.inFlight.Acquire(wait, inFlightMax); err != nil {
		return dberr.New(dberr.Unavailable, "shard %d could not be frozen: the writes under way did not end within %v (FreezeMax)", s.cfg.ID, FreezeMax)
	}
	f := &s.freezes
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut, f.term = cut, term // whoever held all places before has let go of them
	f.timer = time.AfterFunc(FreezeMax, func() { s.Thaw(cut) })
	return nil
}

// Thaw ends a freeze, if it still lasts.
func (s *Shard) Thaw(cut string) {
	f := &s.freezes
	f.mu.Lock()
	defer f.mu.Unlock()
	s.thawLocked(cut)
}

func (s *Shard) thawLocked(cut string) {
	f := &s.freezes
	if f.cut == "" || f.cut != cut {
		return
	}
	f.cut = ""
	f.timer.Stop()
	s.inFlight.Release(inFlightMax)
}

// View keeps the state of a shard that a cut has frozen, and thaws it. It is refused when the freeze is over, or it is not certain that
// nobody else has led the shard since: writes may then be missing that others were made after.
func (s *Shard) View(ctx context.Context, cut string) (*View, error) {
	v, term, err := s.frozenView(cut)
	if err != nil {
		return nil, err
	}
	// Confirmed by a majority behind the moment at which all shards were frozen: nobody else has led in between.
	err = s.ReadBarrier(ctx)
	if err == nil && s.term.Load() != term {
		err = s.NotLeader()
	}
	if err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

func (s *Shard) frozenView(cut string) (*View, uint64, error) {
	f := &s.freezes
	f.mu.Lock() // it cannot thaw meanwhile
	defer f.mu.Unlock()
	if cut == "" || f.cut != cut {
		return nil, 0, dberr.New(dberr.Unavailable, "shard %d has thawed: the other shards took longer than %v (FreezeMax)", s.cfg.ID, FreezeMax)
	}
	v := &View{Snapshot: s.NewSnapshot()}
	term := f.term
	s.thawLocked(cut)
	applied, err := readApplied(v.Snapshot, s.cfg.ID)
	if err != nil {
		return nil, 0, errors.Join(err, v.Close())
	}
	v.Position = applied.Seq
	return v, term, nil
}

// Close lets go of it.
func (v *View) Close() error {
	if err := v.Snapshot.Close(); err != nil {
		return readFailed(err)
	}
	return nil
}
