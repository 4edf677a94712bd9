// Package silence notices that the other end of a stream says nothing any more: a process that is paused, or
// behind a network that swallows everything, closes no connection, and gRPC's keepalive takes ten seconds and
// more to find out.
//
// It counts ticks and does not look at the clock. A process that was paused made no ticks, and what it has not
// read yet is still waiting in its socket: that is no silence of the other end.
package silence

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// Ticks times TickEvery, 2.5 s, is how long the other end may say nothing: it says something every second,
	// and one delayed sign of life must not move everything that hangs on a stream.
	Ticks     = 5
	TickEvery = 500 * time.Millisecond
)

// Err is why a silent stream was ended.
var Err = dberr.New(dberr.Unavailable, "the other node says nothing any more")

// Meter measures the silence of one stream. The zero value is ready.
type Meter struct {
	promised atomic.Bool
	ticks    atomic.Int32 // since something was heard, once promised
}

// Hear is called with every message.
func (m *Meter) Hear() { m.ticks.Store(0) }

// Promise is called when a sign of life came. Until then silence means nothing: older nodes give none.
func (m *Meter) Promise() { m.promised.Store(true) }

// Listen returns true when nothing was heard for too many ticks, false when ctx has ended.
func (m *Meter) Listen(ctx context.Context, ticks <-chan time.Time) bool {
	for {
		select {
		case <-ticks:
		case <-ctx.Done():
			return false
		}
		if m.promised.Load() && m.ticks.Add(1) >= Ticks {
			return true
		}
	}
}

// Ticker ticks until it is stopped.
func Ticker() (ticks <-chan time.Time, stop func()) {
	t := time.NewTicker(TickEvery)
	return t.C, t.Stop
}
