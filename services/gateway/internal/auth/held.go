package auth

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/pause"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// held knows the sessions of open streams by user, and ends those whose account changed under them.
// Accounts are read again by one goroutine, never in the catalog's hook, which must not block.
type held struct {
	account func(ctx context.Context, id string) (*catalogv1.User, error)
	log     *slog.Logger

	mu    sync.Mutex
	users map[string]map[*heldSession]struct{}
	dirty map[string]struct{} // users to look at again; only users of held sessions
	wake  chan struct{}

	cancel context.CancelFunc
	done   chan struct{}
}

type heldSession struct {
	sess Session
	end  chan struct{}
	once sync.Once
}

// recheckDelay is the pause before an account that could not be read is tried again.
const recheckDelay = 100 * time.Millisecond

func newHeld(account func(context.Context, string) (*catalogv1.User, error), log *slog.Logger) *held {
	return &held{account: account, log: log, users: map[string]map[*heldSession]struct{}{}, dirty: map[string]struct{}{},
		wake: make(chan struct{}, 1), done: make(chan struct{})}
}

func (h *held) start(ctx context.Context) {
	ctx, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go h.run(ctx)
}

func (h *held) stop() {
	if h.cancel != nil {
		h.cancel()
		<-h.done
	}
}

// add registers a session, and has the account looked at once more: it may have changed between its
// verification and now.
func (h *held) add(sess Session) (end <-chan struct{}, release func()) {
	e := &heldSession{sess: sess, end: make(chan struct{})}
	id := sess.Identity.UserID
	h.mu.Lock()
	if h.users[id] == nil {
		h.users[id] = map[*heldSession]struct{}{}
	}
	h.users[id][e] = struct{}{}
	h.mu.Unlock()
	h.changed(catalogview.Event{UserChanged: id})
	return e.end, func() { h.remove(id, e) }
}

func (h *held) remove(id string, e *heldSession) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.users[id], e)
	if len(h.users[id]) == 0 {
		delete(h.users, id)
	}
}

// changed marks a user, or everybody after a gap in the catalog's events.
func (h *held) changed(ev catalogview.Event) {
	h.mu.Lock()
	switch {
	case ev.UserChanged != "":
		if _, ok := h.users[ev.UserChanged]; ok {
			h.dirty[ev.UserChanged] = struct{}{}
		}
	case ev.TableChanged == nil && ev.TableDropped == 0:
		for id := range h.users {
			h.dirty[id] = struct{}{}
		}
	}
	h.mu.Unlock()
	h.signal()
}

func (h *held) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *held) run(ctx context.Context) {
	defer close(h.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		}
		h.mu.Lock()
		dirty := h.dirty
		h.dirty = map[string]struct{}{}
		h.mu.Unlock()
		for id := range dirty {
			if !h.recheck(ctx, id) {
				return
			}
		}
	}
}

// recheck ends the user's sessions that no longer hold. It returns false when ctx ended.
func (h *held) recheck(ctx context.Context, id string) bool {
	for {
		u, err := h.account(ctx, id)
		if err == nil {
			h.endStale(id, u)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		h.log.WarnContext(ctx, "an account could not be checked again", "user", id, "error", err)
		if pause.For(ctx, recheckDelay) != nil {
			return false
		}
	}
}

func (h *held) endStale(id string, u *catalogv1.User) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for e := range h.users[id] {
		if u == nil || u.GetTokenVersion() != e.sess.version || catalog.Role(u.GetRole()) != e.sess.Identity.Role {
			e.once.Do(func() { close(e.end) })
		}
	}
}
