package live

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/pause"
	"github.com/kalamdb/kalamdb-go/services/live/internal/group"
)

const (
	// changedUsersMax bounds the users whose change is not yet acted on; past it everybody is looked at.
	changedUsersMax = 10_000
	// recheckAgain is the pause after the catalog could not be asked.
	recheckAgain = time.Second
)

// follower ends subscriptions that the catalog no longer allows: their table was dropped or altered,
// their user dropped or given another role. The catalog's events only note what to look at.
type follower struct {
	view *catalogview.View
	hub  *group.Hub
	log  *slog.Logger

	mu      sync.Mutex
	pending changed
	signals chan struct{} // one token: pending may hold something

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// changed is what to look at.
type changed struct {
	users  map[string]struct{}
	tables map[uint32]struct{}
	all    bool
}

func newFollower(view *catalogview.View, hub *group.Hub, log *slog.Logger) *follower {
	return &follower{view: view, hub: hub, log: log, signals: make(chan struct{}, 1)}
}

func (f *follower) start(ctx context.Context) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f.cancel = cancel
	f.done.Go(func() { f.run(run) })
}

func (f *follower) stop() {
	if f.cancel != nil {
		f.cancel()
		f.done.Wait()
	}
}

// note is the catalog's hook; it does not block.
func (f *follower) note(ev catalogview.Event) {
	c := changed{all: ev.Reset}
	switch {
	case ev.UserChanged != "":
		c.users = map[string]struct{}{ev.UserChanged: {}}
	case ev.TableDropped != 0:
		c.tables = map[uint32]struct{}{ev.TableDropped: {}}
	case ev.TableChanged != nil:
		c.tables = map[uint32]struct{}{ev.TableChanged.ID: {}}
	}
	f.add(c)
}

func (f *follower) add(c changed) {
	f.mu.Lock()
	p := &f.pending
	if p.users == nil {
		p.users, p.tables = map[string]struct{}{}, map[uint32]struct{}{}
	}
	for u := range c.users {
		p.users[u] = struct{}{}
	}
	for t := range c.tables {
		p.tables[t] = struct{}{}
	}
	if p.all = p.all || c.all || len(p.users) > changedUsersMax; p.all {
		clear(p.users)
		clear(p.tables)
	}
	f.mu.Unlock()
	select {
	case f.signals <- struct{}{}:
	default:
	}
}

func (f *follower) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.signals:
		}
		f.mu.Lock()
		c := f.pending
		f.pending = changed{}
		f.mu.Unlock()
		if err := f.act(ctx, c); err != nil && ctx.Err() == nil {
			f.log.WarnContext(ctx, "subscriptions could not be compared with the catalog, trying again", "error", err)
			f.add(c)
			_ = pause.For(ctx, recheckAgain) // the loop looks at ctx
		}
	}
}

func (f *follower) act(ctx context.Context, c changed) error {
	tables := f.view.State().Tables
	if c.all {
		return f.hub.Recheck(ctx, tables, f.view)
	}
	for id := range c.tables {
		if t := tables[id]; t != nil {
			f.hub.TableChanged(t)
		} else {
			f.hub.TableDropped(id)
		}
	}
	for id := range c.users {
		if err := f.hub.UserChanged(ctx, id, tables, f.view); err != nil {
			return err
		}
	}
	return nil
}
