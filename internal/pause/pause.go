// Package pause waits between attempts, no longer than a context lasts.
package pause

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// For waits for d, or until ctx ends: then it returns why.
func For(ctx context.Context, d time.Duration) error {
	if d <= 0 || ctx.Err() != nil {
		return dberr.FromStatus(ctx.Err())
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return dberr.FromStatus(ctx.Err())
	}
}

// Growing is the pauses between the attempts of one call: the first is Min, each further one twice as long,
// up to Max. Each is drawn from half of that to one and a half, so that callers that failed together do not
// come back together.
type Growing struct {
	Min, Max time.Duration

	last time.Duration // before the draw; 0 until the first pause
}

// Wait is For with the next pause.
func (g *Growing) Wait(ctx context.Context) error { return For(ctx, g.next()) }

func (g *Growing) next() time.Duration {
	g.last = min(max(2*g.last, g.Min), g.Max)
	if g.last <= 0 {
		return 0
	}
	return g.last/2 + rand.N(g.last)
}
