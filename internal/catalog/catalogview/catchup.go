package catalogview

import (
	"context"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	// catchUpWait bounds asking for the newest version and waiting for it together. A watch that works is
	// milliseconds behind; behind one that does not, nobody waits long for an error.
	catchUpWait = 2 * time.Second
	// asksMax is how many times in asksWindow one node asks the leader of the catalog, so that statements
	// about tables that never existed, however many, cost the leader next to nothing.
	asksMax    = 10
	asksWindow = time.Second
)

// CatchUp runs f, which looks something up in the view. When f finds that a table, a column or a namespace does not exist,
// or that a table was altered meanwhile, and
// the leader of the catalog is ahead of what f began with, f runs once more as soon as the view has caught up: what one
// node has acknowledged is then there on every other one. f must be able to run twice. While nothing is missing this
// costs nothing.
func (v *View) CatchUp(ctx context.Context, f func() error) error {
	began := v.State().Version
	err := f()
	if !missing(err) || !v.caughtUp(ctx, began) {
		return err
	}
	return f()
}

// missing reports whether an error may come from a view that lags.
func missing(err error) bool {
	if err == nil {
		return false
	}
	code := dberr.CodeOf(err)
	return code == dberr.TableNotFound || code == dberr.NamespaceNotFound || code == dberr.ColumnNotFound || code == dberr.SchemaChanged
}

// caughtUp reports whether there is a newer version than began, and the view has it. When it cannot tell, what was
// found before stands.
func (v *View) caughtUp(ctx context.Context, began uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, catchUpWait)
	defer cancel()
	newest, ok := v.newest.get(ctx, v.askVersion)
	return ok && newest > began && v.WaitVersion(ctx, newest) == nil
}

// askVersion asks the leader. It reads no user: none has an empty name.
func (v *View) askVersion(ctx context.Context) (uint64, error) {
	resp, err := v.client.GetUser(ctx, &catalogv1.GetUserRequest{})
	return resp.GetVersion(), err
}

// versions shares the answers of the leader among those who ask at the same time, and bounds how often it is asked.
type versions struct {
	now func() time.Time

	mu      sync.Mutex
	running *ask // has been sent; it may have been answered before somebody's table was made
	next    *ask // waits for running: whoever comes now shares it
	since   time.Time
	asked   int // since then
}

// ask is one question to the leader.
type ask struct {
	done    chan struct{}
	version uint64
	ok      bool
}

// get returns a version that is as new as this call, or newer.
func (s *versions) get(ctx context.Context, from func(context.Context) (uint64, error)) (uint64, bool) {
	s.mu.Lock()
	a, first := s.next, s.next == nil
	if first {
		if !s.allowed() {
			s.mu.Unlock()
			return 0, false
		}
		a = &ask{done: make(chan struct{})}
		s.next = a
	}
	before := s.running
	s.mu.Unlock()
	if first {
		s.run(ctx, a, before, from)
	}
	select {
	case <-a.done:
		return a.version, a.ok
	case <-ctx.Done():
		return 0, false
	}
}

// run asks for all that share a, so the end of the first one's request does not end it.
func (s *versions) run(ctx context.Context, a, before *ask, from func(context.Context) (uint64, error)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), catchUpWait)
	defer cancel()
	if before != nil {
		<-before.done // in catchUpWait, as here
	}
	s.mu.Lock()
	s.running, s.next = a, nil
	s.mu.Unlock()
	version, err := from(ctx)
	a.version, a.ok = version, err == nil
	close(a.done)
}

// allowed counts one more question, unless there were too many of late.
func (s *versions) allowed() bool {
	now := s.now()
	if since := now.Sub(s.since); since < 0 || since >= asksWindow {
		s.since, s.asked = now, 0
	}
	s.asked++
	return s.asked <= asksMax
}
