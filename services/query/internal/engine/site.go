package engine

/*
#include "bridge.h"
*/
import "C"

import (
	"runtime/cgo"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// growthMax bounds the text that the functions of one statement have made and may still hold: DuckDB
	// allocates such text outside of its memory limit, so repeat('x', 1000000000) would take a gigabyte for
	// each row.
	growthMax = 64 << 20
	// keptGrowthMax is how much of it a prepared statement may hold, as folded constants, to be kept.
	keptGrowthMax = 64 << 10
	// pollRows is how many rows of a chunk a function works on between two looks at the context: DuckDB
	// looks between chunks only.
	pollRows = 64
)

// site is one place of a statement that calls a function of ours, in one thread. DuckDB holds what a
// site made until the site makes the next chunk.
type site struct {
	run  *run
	held int64
	// folded: the plan keeps what is made, which is a constant to it.
	folded bool
}

//export kalamScalarInit
func kalamScalarInit(function C.uintptr_t, connection C.uint64_t) C.uintptr_t {
	s := &site{}
	if f, ok := cgo.Handle(function).Value().(*scalar); ok && f.in != nil {
		if c := f.in.connection(uint64(connection)); c != nil && c.run != nil {
			s.run, s.folded = c.run, c.run.planning.Load()
		}
	}
	return C.uintptr_t(cgo.NewHandle(s))
}

//export kalamScalarClose
func kalamScalarClose(h C.uintptr_t) {
	if s, ok := cgo.Handle(h).Value().(*site); ok && s.run != nil {
		s.next()
	}
	cgo.Handle(h).Delete()
}

// next begins a chunk: what the last one made is gone.
func (s *site) next() {
	if !s.folded {
		s.run.growth.Add(-s.held)
		s.held = 0
	}
}

// take fails when n more bytes of text would be too much.
func (s *site) take(n int) error {
	if n < 0 || n > growthMax || s.run.growth.Load()+int64(n) > growthMax {
		return dberr.New(dberr.LimitExceeded, "the statement's text functions would make more than %d MiB of text at once (limit growth_max)",
			growthMax>>20)
	}
	s.held += int64(n)
	s.run.growth.Add(int64(n))
	return nil
}

// room is how much take allows.
func (s *site) room() int64 { return growthMax - s.run.growth.Load() }

// poll fails once the statement has ended.
func (s *site) poll(row int) error {
	if row%pollRows != 0 || s.run.ctx.Err() == nil {
		return nil
	}
	return ended(s.run.ctx, "the statement was stopped")
}
