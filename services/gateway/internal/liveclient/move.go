package liveclient

import (
	"context"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// giveUpAfterDefault is how long another node is looked for: longer than the election of a storage leader
	// and the start of a process.
	giveUpAfterDefault = 15 * time.Second
	// movesPerRound subscriptions are opened again every movePause: 10,000 a second, so that those of a node
	// with 100,000 take ten seconds and its successors can still serve others.
	movesPerRound = 100
	movePause     = 10 * time.Millisecond
	// movePauseFailed is the pause when no node took any.
	movePauseFailed = 250 * time.Millisecond
)

// lost takes over a subscription whose node is gone, or wants it gone. The subscription is out of its
// stream. err is what its client is told should it have to end.
func (c *Client) lost(sub *Subscription, err error) {
	now := c.cfg.Now()
	if sub.since.IsZero() {
		sub.since = now
	}
	c.mu.Lock()
	stopped := c.run.Err() != nil
	late := now.Sub(sub.since) >= c.cfg.GiveUpAfter
	if !stopped && !late && sub.phase != loading {
		sub.reason = err
		c.moving = append(c.moving, sub)
		c.mu.Unlock()
		c.signal()
		return
	}
	if late && !stopped {
		c.counts.GivenUp++
	}
	c.mu.Unlock()
	sub.end(dberr.Unavailable, 0, "the connection to the live role broke; resume from the position: %w", err)
}

func (c *Client) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// moveLost opens lost subscriptions again until ctx ends, and ends those that are left then.
func (c *Client) moveLost(ctx context.Context) {
	for {
		select {
		case <-c.wake:
			for c.moveSome(ctx) {
			}
		case <-ctx.Done():
			for _, sub := range c.takeMoving(0) {
				sub.end(dberr.Unavailable, 0, "this gateway is stopping; resume from the position: %w", sub.reason)
			}
			return
		}
	}
}

// moveSome is one round. It reports whether there may be more to do.
func (c *Client) moveSome(ctx context.Context) bool {
	batch := c.takeMoving(movesPerRound)
	if len(batch) == 0 {
		return false
	}
	wait := movePauseFailed
	for _, sub := range batch {
		if c.move(ctx, sub) {
			wait = movePause
		}
	}
	pause(ctx, wait)
	return ctx.Err() == nil
}

// move opens one subscription again. False means that it was not possible now.
func (c *Client) move(ctx context.Context, sub *Subscription) bool {
	if sub.isClosed() {
		return true
	}
	err := c.place(ctx, sub)
	switch {
	case err == nil:
		c.mu.Lock()
		c.counts.Moved++
		c.mu.Unlock()
		return true
	case dberr.Is(err, dberr.Canceled):
		return true // closed meanwhile
	}
	c.lost(sub, err)
	return false
}

// takeMoving takes at most n of the lost subscriptions, all with n = 0.
func (c *Client) takeMoving(n int) []*Subscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch := c.moving
	if n > 0 && len(batch) > n {
		batch = batch[:n:n]
	}
	if c.moving = c.moving[len(batch):]; len(c.moving) == 0 {
		c.moving = nil
	}
	return batch
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
