// Package gateway is the gateway role: the only one that clients reach. It authenticates, admits and
// routes; rows pass through as bytes. It keeps no state but caches, open streams and counters.
package gateway

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/apache/arrow-go/v18/arrow/flight"
	pb "github.com/apache/arrow-go/v18/arrow/flight/gen/flight"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/pause"
	"github.com/kalamdb/kalamdb-go/internal/router"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/telemetry"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/auth"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/clusterhealth"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/export"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/flightsql"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/grpcapi"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/limit"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/liveclient"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/querypool"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/rest"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/ws"
)

// Gateway is the role. Make it with New, then Start.
type Gateway struct {
	cfg             Config
	inside, outside rpcnet.Network
	proxies         edge.Proxies
	metrics         *metrics

	router  *router.Router
	query   *querypool.Pool
	auth    *auth.Service
	guard   *limit.Guard
	perUser *limit.Rate
	live    *liveclient.Client
	sockets *ws.Handler
	api     *grpcapi.Server
	flights *flightsql.Server

	http, ops *edge.Server
	grpc      *rpcnet.Server
	ready     atomic.Bool
	readiness readiness
	loaded    atomic.Pointer[liveclient.Client] // live, for those who ask while the role starts
	failed    chan struct{}
	watched   chan struct{} // closed when the goroutine behind failed has ended
}

// drainMax bounds Stop when its context does not: clients that will not finish are cut.
const drainMax = 15 * time.Second

// New makes the role. Other roles are reached on the inside network, clients come by the outside one.
func New(cfg Config, inside, outside rpcnet.Network) *Gateway {
	g := &Gateway{cfg: cfg, inside: inside, outside: outside, failed: make(chan struct{})}
	g.readiness.g = g
	return g
}

// Name is the role's name.
func (g *Gateway) Name() string { return "gateway" }

// Start returns when the role serves. A storage node must be up: accounts come from there.
func (g *Gateway) Start(ctx context.Context) error {
	if err := g.start(ctx); err != nil {
		return errors.Join(err, g.Stop(context.WithoutCancel(ctx)))
	}
	return nil
}

func (g *Gateway) start(ctx context.Context) (err error) {
	if g.cfg, err = g.cfg.withDefaults(); err != nil {
		return err
	}
	if g.proxies, err = edge.ParseProxies(g.cfg.Security.TrustedProxies); err != nil {
		return err
	}
	if g.metrics, err = newMetrics(g.cfg.Metrics); err != nil {
		return err
	}
	if err := g.identify(ctx); err != nil {
		return err
	}
	if err := g.build(ctx); err != nil {
		return err
	}
	if err := g.listen(); err != nil {
		return err
	}
	g.serve()
	return nil
}

// identify starts what knows accounts.
func (g *Gateway) identify(ctx context.Context) error {
	a := g.cfg.Auth
	way := router.New(router.Config{Network: g.inside, Seeds: g.cfg.Seeds, Logger: g.cfg.Logger})
	service, err := auth.New(auth.Config{Secret: []byte(a.JWTSecret), AccessLifetime: time.Duration(a.JWTLifetime),
		BcryptCost: a.BcryptCost, MaxFailures: a.MaxFailures, LockFor: time.Duration(a.LockFor),
		AllowRemoteSetup: a.AllowRemoteSetup,
		AdmitLogin:       func(client netip.Addr) error { return g.guard.Login(client) }, // made before anybody is served
		Logger:           g.cfg.Logger, Now: g.cfg.Now}, way.View())
	if err != nil {
		return err
	}
	if err := way.Start(ctx); err != nil {
		return err
	}
	g.router = way
	g.query = querypool.New(querypool.Config{Nodes: way, Addr: g.cfg.Query, Now: g.cfg.Now})
	service.Start(ctx)
	g.auth = service
	return nil
}

// build makes the protocols.
func (g *Gateway) build(ctx context.Context) error {
	r := g.cfg.RateLimit
	g.guard = limit.NewGuard(limit.GuardConfig{RequestsPerSecond: r.RequestsPerIPPerSec, LoginsPerSecond: r.LoginsPerIPPerSec,
		Connections: r.ConnectionsPerIP, Ban: time.Duration(r.BanFor), Now: g.cfg.Now})
	g.perUser = limit.NewRate("SQL requests of one user (rate_limit.max_queries_per_sec)", float64(r.QueriesPerSec), r.QueriesPerSec, g.cfg.Now)
	g.live = liveclient.New(liveclient.Config{Nodes: g.router, Addr: g.cfg.Live, Logger: g.cfg.Logger, Now: g.cfg.Now})
	if err := g.live.Start(ctx); err != nil {
		return err
	}
	g.loaded.Store(g.live)
	if err := observeNodes(g.cfg.Metrics, g.live, g.query); err != nil {
		return err
	}
	g.sockets = ws.New(ws.Config{AuthTimeout: time.Duration(g.cfg.WebSocket.AuthTimeout),
		ClientTimeout: time.Duration(g.cfg.WebSocket.ClientTimeout), MessagesPerSecond: r.MessagesPerSec,
		SubscriptionsPerUser: r.SubscriptionsMax, SocketsMax: g.cfg.WebSocket.SocketsMax,
		AllowedOrigins: g.cfg.Security.CORSOrigins, StrictOrigin: g.cfg.Security.StrictWSOrigin, DisableBasic: g.cfg.Auth.DisableBasic, ClusterID: g.router.View().State().ClusterID,
		DrainTime:  time.Duration(g.cfg.WebSocket.DrainTime),
		RemoteAddr: func(r *http.Request) netip.Addr { return edge.Client(r.Context()) },
		Logger:     g.cfg.Logger, Registerer: g.cfg.Metrics, Now: g.cfg.Now},
		ws.Deps{Auth: socketAuth{g.auth}, Planner: queryv1.NewQueryServiceClient(g.query), Live: g.live})
	g.api = grpcapi.New(grpcapi.Config{Auth: g.auth, Query: g.query, Live: g.live, PerUser: g.perUser,
		SubscriptionsPerUser: r.SubscriptionsMax, Logger: g.cfg.Logger})
	g.flights = flightsql.New(flightsql.Config{Auth: g.auth, Query: g.query, Guard: g.guard, PerUser: g.perUser,
		Secret: []byte(g.cfg.Auth.JWTSecret), Logger: g.cfg.Logger, Now: g.cfg.Now})
	return g.sockets.Start(ctx)
}

// listen takes the addresses; nothing is served yet.
func (g *Gateway) listen() error {
	if addr := g.cfg.Listen.OpsAddr; addr != NoListener {
		l, err := g.outside.Listen(addr)
		if err != nil {
			return dberr.New(dberr.Unavailable, "listen for operations: %w", err)
		}
		g.ops = edge.NewServer(l, telemetry.Operations(g.cfg.Metrics, g.Ready), g.cfg.Logger)
	}
	if err := g.listenGRPC(); err != nil {
		return err
	}
	l, err := g.outside.Listen(g.cfg.Listen.HTTPAddr)
	if err != nil {
		return dberr.New(dberr.Unavailable, "listen for HTTP: %w", err)
	}
	g.http = edge.NewServer(g.guard.Listener(l, g.proxies.Trusts), g.handler(), g.cfg.Logger)
	return nil
}

// handler routes HTTP requests. Everything passes the guard first.
func (g *Gateway) handler() http.Handler {
	api := rest.New(rest.Config{Auth: g.auth, Query: queryv1.NewQueryServiceClient(g.query), Guard: g.guard, PerUser: g.perUser,
		BodyBytesMax: g.cfg.RateLimit.BodyBytesMax, DisableBasic: g.cfg.Auth.DisableBasic, CookieSecure: g.cfg.Auth.CookieSecure,
		PublicOrigin: g.cfg.Listen.PublicOrigin, Version: g.cfg.Version, BuildDate: g.cfg.BuildDate, Logger: g.cfg.Logger,
		Now: g.cfg.Now, Observe: g.metrics.observeHTTP,
		Export: export.New(export.Config{Query: flight.NewFlightServiceClient(g.query), Tables: g.tables, Now: g.cfg.Now}),
		Cluster: &rest.Cluster{Client: clusterv1.NewClusterServiceClient(g.router.Catalog()), ID: g.router.View().State().ClusterID,
			Self: clusterhealth.Self{ServerID: g.cfg.ServerID, Version: g.cfg.Version, BuildDate: g.cfg.BuildDate}}})
	mux := http.NewServeMux()
	mux.Handle("/v1/ws", g.sockets)
	mux.Handle("/ws", g.sockets)
	mux.Handle("/", edge.CORS{Origins: g.cfg.Security.CORSOrigins}.Wrap(api))
	return edge.Recover(g.cfg.Logger, edge.Identify(g.proxies, g.guard, rest.Refuse, mux))
}

// tables are those there are.
func (g *Gateway) tables() []*catalog.Table {
	return slices.Collect(maps.Values(g.router.View().State().Tables))
}

const (
	// grpcStreamsMax bounds the calls one connection has at once: connections are shared, and a
	// subscription is a call.
	grpcStreamsMax = 4096
	// grpcHeaderBytesMax is far above a token.
	grpcHeaderBytesMax = 16 << 10
	grpcSetupTimeout   = 5 * time.Second
	// grpcPing finds dead clients; grpcPingMin is how often clients may ask for a sign of life.
	grpcPing    = 30 * time.Second
	grpcPingMin = 10 * time.Second
)

// grpcWorkers is how many goroutines are kept for calls: a statement needs a deep stack, and growing one
// for each call took a tenth of the server's time at 64 writers. More calls at a time get goroutines of
// their own.
const grpcWorkers = 64

func (g *Gateway) listenGRPC() error {
	if g.cfg.Listen.GRPCAddr == NoListener {
		return nil
	}
	door := &grpcapi.Door{Auth: g.auth, Guard: g.guard, Proxies: g.proxies, DisableBasic: g.cfg.Auth.DisableBasic,
		Open:   map[string]bool{flightsql.HandshakeMethod: true},
		Logger: g.cfg.Logger, Observe: g.metrics.observeGRPC}
	server, err := rpcnet.NewServer(g.outside, g.cfg.Listen.GRPCAddr, rpcnet.ServerOptions{Logger: g.cfg.Logger,
		Unary: []grpc.UnaryServerInterceptor{door.Unary}, Stream: []grpc.StreamServerInterceptor{door.Stream},
		GRPC: []grpc.ServerOption{
			grpc.Creds(g.guard.Credentials(insecure.NewCredentials(), g.proxies.Trusts)),
			grpc.MaxRecvMsgSize(g.cfg.Security.MessageBytesMax), grpc.MaxConcurrentStreams(grpcStreamsMax),
			grpc.NumStreamWorkers(grpcWorkers),
			grpc.MaxHeaderListSize(grpcHeaderBytesMax), grpc.ConnectionTimeout(grpcSetupTimeout),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: grpcPing}),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: grpcPingMin, PermitWithoutStream: true}),
		}})
	if err != nil {
		return dberr.New(dberr.Unavailable, "listen for gRPC: %w", err)
	}
	kalamv1.RegisterKalamServiceServer(server.Registrar(), g.api)
	pb.RegisterFlightServiceServer(server.Registrar(), g.flights)
	g.grpc = server
	return nil
}

func (g *Gateway) serve() {
	if g.ops != nil {
		g.ops.Serve()
	}
	if g.grpc != nil {
		g.grpc.Serve()
	}
	g.http.Serve()
	g.watched = make(chan struct{})
	go func() { // ends when the HTTP server does, at the latest in Stop
		defer close(g.watched)
		<-g.http.Done()
		if g.http.Err() != nil {
			g.ready.Store(false)
		}
		close(g.failed)
	}()
	g.ready.Store(true)
}

// Failed is closed when the role no longer serves; Err says why.
func (g *Gateway) Failed() <-chan struct{} { return g.failed }

// Err is valid once Failed is closed; nil after Stop.
func (g *Gateway) Err() error { return g.http.Err() }

// HTTPAddr is where HTTP and WebSocket are served.
func (g *Gateway) HTTPAddr() net.Addr { return g.http.Addr() }

// GRPCAddr is where gRPC and Flight SQL are served, nil when they are not.
func (g *Gateway) GRPCAddr() net.Addr {
	if g.grpc == nil {
		return nil
	}
	return g.grpc.Addr()
}

// OpsAddr is where metrics and readiness are served, nil when they are not.
func (g *Gateway) OpsAddr() net.Addr {
	if g.ops == nil {
		return nil
	}
	return g.ops.Addr()
}

// Load is the number of subscriptions, for the node's reports. It may be called at any time.
func (g *Gateway) Load() uint64 {
	if g == nil || g.loaded.Load() == nil {
		return 0
	}
	_, open, _ := g.loaded.Load().Stats()
	return uint64(open)
}

// Stop leaves the load balancers and gives them the drain delay to notice, closes WebSockets with 1001 and
// subscriptions resumably, lets requests finish until ctx ends, and cuts the rest.
func (g *Gateway) Stop(ctx context.Context) error {
	delay := time.Duration(g.cfg.DrainDelay)
	if !g.ready.Swap(false) {
		delay = 0 // nobody was sent here
	}
	if end, ok := ctx.Deadline(); ok {
		delay = min(delay, time.Until(end)/2)
	}
	_ = pause.For(ctx, delay) // what follows is bounded by ctx
	ctx, cancel := context.WithTimeout(ctx, drainMax)
	defer cancel()
	var errs []error
	if g.sockets != nil {
		errs = append(errs, g.sockets.Stop(ctx))
	}
	if g.live != nil {
		errs = append(errs, g.live.Stop(ctx)) // ends Subscribe calls, for which the next step would wait
	}
	errs = append(errs, g.stopListeners(ctx)...)
	if g.auth != nil {
		g.auth.Stop()
	}
	if g.router != nil {
		g.router.Stop()
	}
	return errors.Join(errs...)
}

func (g *Gateway) stopListeners(ctx context.Context) (errs []error) {
	if g.http != nil {
		errs = append(errs, g.http.Stop(ctx))
	}
	if g.watched != nil {
		<-g.watched
	}
	if g.grpc != nil {
		g.grpc.Stop(ctx)
		g.api.Wait()
		g.flights.Wait()
	}
	if g.ops != nil {
		errs = append(errs, g.ops.Stop(ctx))
	}
	return errs
}

// socketAuth gives WebSockets sessions that end when the account changes.
type socketAuth struct{ auth *auth.Service }

func (a socketAuth) Bearer(ctx context.Context, token string, remote netip.Addr) (ws.Session, error) {
	return a.hold(a.auth.Bearer(ctx, token, remote))
}

func (a socketAuth) Basic(ctx context.Context, user, password string, remote netip.Addr) (ws.Session, error) {
	return a.hold(a.auth.Basic(ctx, user, password, remote))
}

func (a socketAuth) hold(sess auth.Session, err error) (ws.Session, error) {
	if err != nil {
		return ws.Session{}, err
	}
	done, release := a.auth.Hold(sess)
	return ws.Session{Identity: sess.Identity, ExpiresAt: sess.ExpiresAt, Done: done, Release: release}, nil
}
