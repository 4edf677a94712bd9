package live

import (
	"context"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/group"
)

// drainer moves subscriptions away when the catalog says that this node drains, and when it stops. It is
// gateways that move them: each subscription ends as Unavailable at its position, and its gateway opens it
// again on another node.
type drainer struct {
	view *catalogview.View
	hub  *group.Hub
	id   string
	over time.Duration

	signals chan struct{} // one token: the catalog's nodes may have changed
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

func newDrainer(view *catalogview.View, hub *group.Hub, cfg Config) *drainer {
	return &drainer{view: view, hub: hub, id: cfg.ServerID, over: time.Duration(cfg.DrainTime), signals: make(chan struct{}, 1)}
}

// note is the catalog's hook; it does not block.
func (d *drainer) note(ev catalogview.Event) {
	if ev.Topology || ev.Reset {
		select {
		case d.signals <- struct{}{}:
		default:
		}
	}
}

func (d *drainer) start(ctx context.Context) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d.cancel = cancel
	d.done.Go(func() { d.follow(run) })
}

// follow drains for as long as the catalog says so.
func (d *drainer) follow(ctx context.Context) {
	for {
		if d.wanted() {
			d.hub.Refuse(true)
			d.hub.Drain(ctx, d.over)
		} else {
			d.hub.Refuse(false)
		}
		select {
		case <-ctx.Done():
			return
		case <-d.signals:
		}
	}
}

// wanted reports whether this node is to hold no subscriptions.
func (d *drainer) wanted() bool {
	if d.id == "" {
		return false
	}
	n, ok := d.view.State().Server(d.id)
	return ok && (n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_DRAINING || n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_LEFT)
}

// stop drains once more, for at most half of the time that ctx leaves: the rest is for the last messages.
func (d *drainer) stop(ctx context.Context) {
	if d.cancel == nil {
		return
	}
	d.cancel()
	d.done.Wait()
	over := d.over
	if end, ok := ctx.Deadline(); ok {
		over = max(min(over, time.Until(end)/2), 0)
	}
	d.hub.Refuse(true)
	d.hub.Drain(ctx, over)
}
