// Package live is the live role: it holds subscriptions, hands them the rows they begin with and then
// every change, each once and in order. Its state is soft: a client resumes at its position on any
// live node. See DESIGN.md.
package live

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/router"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/group"
	"github.com/kalamdb/kalamdb-go/services/live/internal/snapshot"
)

// callers are the roles that may call: gateways for subscriptions, query nodes for system.live.
var callers = []string{"gateway", "query"}

// Live is the role. Make it with New, then Start.
type Live struct {
	cfg     Config
	network rpcnet.Network

	router *router.Router
	view   *catalogview.View
	hub    *group.Hub
	follow *follower
	drain  *drainer
	server *rpcnet.Server
	loaded atomic.Pointer[group.Hub] // hub, for those who ask while the role starts
	// calls are the goroutines that send and receive for streams. They end with their stream, which
	// may be after its handler.
	calls sync.WaitGroup
}

// New makes the role on a network.
func New(cfg Config, network rpcnet.Network) *Live { return &Live{cfg: cfg, network: network} }

// Name is the role's name.
func (l *Live) Name() string { return "live" }

// Start returns when the role serves. A storage node must be up: the first copy of the catalog comes from
// there.
func (l *Live) Start(ctx context.Context) error {
	if err := l.start(ctx); err != nil {
		return errors.Join(err, l.Stop(ctx))
	}
	return nil
}

func (l *Live) start(ctx context.Context) (err error) {
	if l.cfg, err = l.cfg.withDefaults(); err != nil {
		return err
	}
	way := router.New(router.Config{Network: l.network, Seeds: l.cfg.Seeds, Logger: l.cfg.Logger})
	hub := group.New(l.cfg.hub(), way, snapshot.NewReader(way))
	if err := register(l.cfg.Metrics, hub); err != nil {
		return err
	}
	view := way.View()
	follow := newFollower(view, hub, l.cfg.Logger)
	drain := newDrainer(view, hub, l.cfg)
	view.OnChange(follow.note)
	view.OnChange(drain.note)
	if err := way.Start(ctx); err != nil {
		return err
	}
	l.router, l.view, l.hub, l.follow, l.drain = way, view, hub, follow, drain
	l.loaded.Store(hub)
	hub.Start(ctx)
	follow.start(ctx)
	drain.start(ctx)
	server, err := rpcnet.NewServer(l.network, l.cfg.Addr, rpcnet.ServerOptions{Logger: l.cfg.Logger, Roles: callers})
	if err != nil {
		return err
	}
	l.server = server
	livev1.RegisterLiveServiceServer(server.Registrar(), &service{l: l})
	server.Serve()
	return nil
}

// Stop ends every subscription as Unavailable with its position, spread over the drain time, sends these
// last messages until ctx ends, and frees everything.
func (l *Live) Stop(ctx context.Context) error {
	if l.drain != nil {
		l.drain.stop(ctx)
	}
	if l.follow != nil {
		l.follow.stop()
	}
	if l.hub != nil {
		l.hub.Stop()
	}
	if l.server != nil {
		l.server.Stop(ctx)
	}
	if l.router != nil {
		l.router.Stop()
	}
	return l.waitCalls(ctx)
}

// Load is the number of subscriptions, for the node's reports. It may be called at any time.
func (l *Live) Load() uint64 {
	if l == nil || l.loaded.Load() == nil {
		return 0
	}
	return uint64(l.loaded.Load().Stats().Subscriptions)
}

// waitCalls waits for the goroutines of streams. Only a gateway that neither reads nor hangs up can
// keep one beyond its handler.
func (l *Live) waitCalls(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		l.calls.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return dberr.New(dberr.Timeout, "stop the live role: a gateway holds its stream: %w", ctx.Err())
	}
}
