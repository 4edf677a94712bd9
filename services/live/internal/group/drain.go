package group

import (
	"context"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// drainStep is the pause between two groups of subscriptions that are ended: short enough that few end at
// the same time.
const drainStep = 20 * time.Millisecond

const movedText = "this node is stopping; resume from position"

// Refuse makes the hub take no new subscriptions, or take them again.
func (h *Hub) Refuse(on bool) { h.refusing.Store(on) }

// Drain ends all subscriptions as Unavailable, each with the position to resume from elsewhere, spread
// evenly over a time. It returns when they have ended, or ctx has; Refuse comes first.
func (h *Hub) Drain(ctx context.Context, over time.Duration) {
	all := h.all()
	if len(all) == 0 {
		return
	}
	steps := max(int(over/drainStep), 1)
	share := (len(all) + steps - 1) / steps
	tick := time.NewTicker(drainStep)
	defer tick.Stop()
	for {
		n := min(share, len(all))
		for _, s := range all[:n] {
			s.End(dberr.Unavailable, movedText)
		}
		if all = all[n:]; len(all) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
