package live

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/group"
)

// waitingMax bounds the subscriptions of one gateway that wait for the catalog: only those made in the
// moment after their table.
const waitingMax = 256

// planned opens subscriptions once this node's copy of the catalog is as new as the one they were
// planned with. Nearly all are opened at once.
type planned struct {
	l      *Live
	stream *group.Stream

	mu      sync.Mutex
	waiting map[uint64]context.CancelFunc
	wg      sync.WaitGroup
}

// subscribe opens a subscription, perhaps later. The error is one of the stream.
func (p *planned) subscribe(ctx context.Context, req *livev1.Subscribe) error {
	id := req.GetSubscription()
	t, wait, err := p.l.table(req)
	switch {
	case err != nil:
		p.stream.Refuse(id, err)
		return nil
	case !wait:
		return p.open(req, t)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, taken := p.waiting[id]; taken {
		return dberr.New(dberr.InvalidArgument, "subscription %d is in use on this stream", id)
	}
	if len(p.waiting) >= waitingMax {
		p.stream.Refuse(id, dberr.New(dberr.Unavailable, "more than %d subscriptions wait for the catalog", waitingMax))
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.l.cfg.OpenTimeout))
	p.waiting[id] = cancel
	p.wg.Go(func() { p.later(ctx, req) })
	return nil
}

// later waits for the catalog.
func (p *planned) later(ctx context.Context, req *livev1.Subscribe) {
	id := req.GetSubscription()
	t, err := p.l.awaitTable(ctx, req)
	if !p.forget(id) {
		return // unsubscribed meanwhile
	}
	if err == nil {
		err = p.open(req, t)
	}
	if err != nil {
		p.stream.Refuse(id, err)
	}
}

// open opens a subscription, and looks at its table and its user again: a change that was noted before
// the subscription was there did not find it.
func (p *planned) open(req *livev1.Subscribe, t *catalog.Table) error {
	if err := p.stream.Subscribe(req, t); err != nil {
		return err
	}
	if _, _, err := p.l.table(req); err != nil {
		p.stream.End(req.GetSubscription(), err)
	}
	p.l.follow.add(changed{users: map[string]struct{}{req.GetPlan().GetIdentity().GetUserId(): {}}})
	return nil
}

// forget takes id off the waiting list, and reports whether it was there.
func (p *planned) forget(id uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	cancel, ok := p.waiting[id]
	if ok {
		cancel()
		delete(p.waiting, id)
	}
	return ok
}

// wait gives up what still waits.
func (p *planned) wait() {
	p.mu.Lock()
	for id, cancel := range p.waiting {
		cancel()
		delete(p.waiting, id)
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// table finds the version of a table that a subscription was planned for; wait says that the copy of
// the catalog does not have it yet.
func (l *Live) table(req *livev1.Subscribe) (t *catalog.Table, wait bool, err error) {
	plan := req.GetPlan()
	t = l.view.State().Tables[plan.GetTableId()]
	switch {
	case t == nil || t.SchemaVersion < plan.GetSchemaVersion():
		return nil, true, nil
	case t.SchemaVersion > plan.GetSchemaVersion():
		return nil, false, dberr.New(dberr.SchemaChanged, "table %s was altered; subscribe again", t.QualifiedName())
	}
	return t, false, nil
}

func (l *Live) awaitTable(ctx context.Context, req *livev1.Subscribe) (*catalog.Table, error) {
	for {
		next := l.view.State().Version + 1
		t, wait, err := l.table(req)
		if err != nil || !wait {
			return t, err
		}
		if err := l.view.WaitVersion(ctx, next); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				err = dberr.New(dberr.TableNotFound, "table %s.%s does not exist", req.GetPlan().GetNamespace(), req.GetPlan().GetTable())
			}
			return nil, err
		}
	}
}
