// Package admission bounds how many statements a node runs and how many wait for their turn.
package admission

import (
	"context"
	"sync/atomic"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// retryAfterMS is what a caller that found the queue full is told to wait.
const retryAfterMS = "250"

// Gate lets a bounded number of holders in at a time; others wait in order of arrival.
type Gate struct {
	slots    chan struct{}
	places   int64 // running and waiting together
	occupied atomic.Int64
}

// New makes a gate for running holders and as many waiting ones as given.
func New(running, waiting int) *Gate {
	return &Gate{slots: make(chan struct{}, running), places: int64(running) + int64(waiting)}
}

// Enter waits for a slot and returns the function that gives it back. When the queue is full it
// fails at once with RateLimited, so that overload costs a caller nothing but a retry.
func (g *Gate) Enter(ctx context.Context) (leave func(), err error) {
	if g.occupied.Add(1) > g.places {
		g.occupied.Add(-1)
		return nil, dberr.New(dberr.RateLimited, "this node is busy: %d statements are running (limit statements_max) and %d are waiting (limit statements_waiting_max)",
			cap(g.slots), g.places-int64(cap(g.slots))).With(dberr.FieldRetryAfterMS, retryAfterMS)
	}
	select {
	case g.slots <- struct{}{}:
		return g.leave, nil
	case <-ctx.Done():
		g.occupied.Add(-1)
		return nil, dberr.FromStatus(ctx.Err())
	}
}

func (g *Gate) leave() {
	<-g.slots
	g.occupied.Add(-1)
}

// Running is the number of holders inside.
func (g *Gate) Running() int { return len(g.slots) }

// Waiting is the number of those that wait.
func (g *Gate) Waiting() int { return max(0, int(g.occupied.Load())-len(g.slots)) }
