package ws

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/ws/wsconn"
)

// Handler upgrades requests and owns the sockets. Make it with New, then Start.
type Handler struct {
	cfg     Config
	conn    *wsconn.Config
	deps    Deps
	metrics *metrics
	gzips   compressors

	sweeping sync.Mutex // held during a sweep; it comes before mu

	mu       sync.Mutex // guards what follows
	run      context.Context
	cancel   context.CancelFunc
	stopping bool
	sockets  map[*socket]struct{}
	reserved int // sockets that are being made
	users    map[string]*usage

	goroutines sync.WaitGroup
}

// usage counts what one user has open.
type usage struct{ subscriptions, seedSockets int }

// New makes a handler.
func New(cfg Config, deps Deps) *Handler {
	h := &Handler{cfg: cfg.withDefaults(), deps: deps, sockets: map[*socket]struct{}{}, users: map[string]*usage{}}
	h.conn = h.cfg.connConfig()
	h.metrics = newMetrics(cfg.Registerer)
	h.gzips = newCompressors()
	return h
}

// Start begins to serve.
func (h *Handler) Start(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.run, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	h.goroutines.Go(func() { h.sweepUntil(h.run) })
	return nil
}

// Stop closes all sockets with 1001 and waits for them; when ctx ends it cuts them.
func (h *Handler) Stop(ctx context.Context) error {
	h.mu.Lock()
	cancel := h.cancel
	h.stopping = true
	open := h.openSockets()
	h.mu.Unlock()
	if cancel == nil {
		return nil
	}
	h.closeAll(ctx, open)
	cancel()
	done := make(chan struct{})
	go func() {
		h.goroutines.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	open = h.openSockets()
	h.mu.Unlock()
	for _, s := range open {
		s.conn.Abort()
	}
	<-done // aborted connections end at once
	return dberr.New(dberr.Timeout, "stop WebSockets: %w", ctx.Err())
}

// closeAll closes sockets with 1001, spread evenly over the drain time, of which at most half of what ctx
// leaves is taken.
func (h *Handler) closeAll(ctx context.Context, open []*socket) {
	over := h.cfg.DrainTime
	if end, ok := ctx.Deadline(); ok {
		over = min(over, time.Until(end)/2)
	}
	steps := max(int(over/drainStep), 1)
	share := (len(open) + steps - 1) / steps
	for len(open) > 0 {
		n := min(share, len(open))
		for _, s := range open[:n] {
			s.close(wsconn.CloseGoingAway, "the server is stopping")
		}
		if open = open[n:]; len(open) == 0 {
			return
		}
		t := time.NewTimer(drainStep)
		select {
		case <-t.C:
		case <-ctx.Done():
			share = len(open) // no time left
		}
		t.Stop()
	}
}

// openSockets copies the set. Callers hold mu.
func (h *Handler) openSockets() []*socket {
	list := make([]*socket, 0, len(h.sockets))
	for s := range h.sockets {
		list = append(list, s)
	}
	return list
}

// ServeHTTP upgrades a request. It returns once the socket is open; from then on the socket's own
// goroutine serves it, and everything the HTTP server held for the request is free again.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h.checkOrigin(r); err != nil {
		refuse(w, err)
		return
	}
	if err := h.reserve(); err != nil {
		refuse(w, err)
		return
	}
	s := newSocket(h, r)
	if err := s.logInByRequest(r); err != nil {
		h.unreserve()
		refuse(w, err)
		return
	}
	var err error
	if s.conn, err = wsconn.Accept(w, r, h.conn); err != nil {
		s.releaseSession()
		h.unreserve()
		h.cfg.Logger.Debug("a WebSocket upgrade failed", "remote", s.remote, "error", err)
		return
	}
	h.adopt(s)
}

// reserve counts a socket in before it exists, so that Stop waits for it.
func (h *Handler) reserve() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.run == nil || h.stopping {
		return dberr.New(dberr.Unavailable, "this gateway is not serving WebSockets")
	}
	if over(len(h.sockets)+h.reserved+1, h.cfg.SocketsMax) {
		return dberr.New(dberr.Unavailable, "this gateway serves at most %d WebSockets", h.cfg.SocketsMax)
	}
	h.reserved++
	h.goroutines.Add(1)
	return nil
}

func (h *Handler) unreserve() {
	h.mu.Lock()
	h.reserved--
	h.mu.Unlock()
	h.goroutines.Done()
}

// adopt starts a socket whose place was reserved.
func (h *Handler) adopt(s *socket) {
	h.mu.Lock()
	h.reserved--
	h.sockets[s] = struct{}{}
	stopping := h.stopping
	h.mu.Unlock()
	h.metrics.sockets.Inc()
	if stopping { // Stop has not seen this one
		s.close(wsconn.CloseGoingAway, "the server is stopping")
	}
	go func() {
		defer h.goroutines.Done()
		s.serve()
	}()
}

// abandon is adopt's counterpart.
func (h *Handler) abandon(s *socket) {
	h.mu.Lock()
	delete(h.sockets, s)
	h.mu.Unlock()
	h.metrics.sockets.Dec()
}

// use changes a user's counts by the given amounts, unless that exceeds a limit.
func (h *Handler) use(user string, subscriptions, seedSockets int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.users[user]
	if u == nil {
		u = &usage{}
	}
	switch {
	case subscriptions > 0 && over(u.subscriptions+subscriptions, h.cfg.SubscriptionsPerUser):
		return dberr.New(dberr.LimitExceeded, "at most %d subscriptions per user are allowed", h.cfg.SubscriptionsPerUser)
	case seedSockets > 0 && over(u.seedSockets+seedSockets, h.cfg.SeedSocketsPerUser):
		return dberr.New(dberr.LimitExceeded, "at most %d connections per user are allowed", h.cfg.SeedSocketsPerUser)
	}
	u.subscriptions += subscriptions
	u.seedSockets += seedSockets
	if *u == (usage{}) {
		delete(h.users, user)
	} else {
		h.users[user] = u
	}
	return nil
}

// release undoes use.
func (h *Handler) release(user string, subscriptions, seedSockets int) {
	_ = h.use(user, -subscriptions, -seedSockets) // lowering a count exceeds nothing
}

// running is the context of work done for sockets; it ends with the handler.
func (h *Handler) running() context.Context {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.run
}

func (h *Handler) sweepUntil(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.sweep()
		case <-ctx.Done():
			return
		}
	}
}

// sweep looks at every socket once. Timers of their own would cost each socket more than the look.
func (h *Handler) sweep() {
	h.sweeping.Lock()
	defer h.sweeping.Unlock()
	now := h.cfg.Now()
	h.mu.Lock()
	open := h.openSockets()
	h.mu.Unlock()
	for _, s := range open {
		s.check(now)
	}
}

// refuse answers a request that is not upgraded.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch dberr.CodeOf(err) {
	case dberr.InvalidArgument:
		status = http.StatusBadRequest
	case dberr.Unauthenticated, dberr.TokenExpired, dberr.AccountLocked:
		status = http.StatusUnauthorized
	case dberr.PermissionDenied:
		status = http.StatusForbidden
	case dberr.RateLimited, dberr.LimitExceeded:
		status = http.StatusTooManyRequests
	case dberr.Unavailable, dberr.Timeout, dberr.Canceled:
		status = http.StatusServiceUnavailable
	}
	var e envelope
	e.open()
	e.key("error")
	e.text(strings.ToLower(nCode(err)))
	e.key("message")
	e.text(clientMessage(err))
	e.close()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(e.buf) // the client may be gone; there is nobody else to tell
}
