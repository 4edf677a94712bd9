package liveclient

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// silentTicks times tickEvery, 2.5 s, is how long a live node may say nothing: it says something every
	// second, and one delayed sign must not move a whole node's subscriptions.
	silentTicks = 5
	tickEvery   = 500 * time.Millisecond
)

var errSilent = dberr.New(dberr.Unavailable, "the live node says nothing any more")

// silence measures how long nothing was heard on a stream: in ticks, not by the clock. A process that was
// paused made none, and what it has not read yet is still waiting in its socket.
type silence struct {
	promised atomic.Bool  // a sign of life came: older live nodes give none
	ticks    atomic.Int32 // since something was heard, once promised
	cut      atomic.Bool
}

func (s *silence) hear()    { s.ticks.Store(0) }
func (s *silence) promise() { s.promised.Store(true) }

// listen ends the stream when nothing was heard for silentTicks of the ticks.
func (s *stream) listen(ctx context.Context, ticks <-chan time.Time) {
	for {
		select {
		case <-ticks:
		case <-ctx.Done():
			return
		}
		if s.promised.Load() && s.ticks.Add(1) >= silentTicks {
			s.cut.Store(true)
			s.cancel()
			return
		}
	}
}
