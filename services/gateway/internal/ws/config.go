// Package ws serves live queries over WebSocket, in both generations of the wire: the one that begins
// with {"type":"authenticate"} (spec 4.1, called N here) and the seed's, whose messages have a top-level
// "subscriptions" (spec 4.2, called S). The client's first message decides.
//
// A socket at rest costs one goroutine that waits for the client, and nothing per subscription but
// its place in a list. Rows arrive encoded from the live role and are spliced into frames. What a
// client does not read waits in a queue bounded in frames and bytes; past that its subscription ends
// with an error that names the position to resume from, and a socket that takes nothing is cut.
package ws

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/liveclient"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/ws/wsconn"
)

// Session is a verified credential.
type Session struct {
	Identity catalog.Identity
	// ExpiresAt ends the socket; zero means never.
	ExpiresAt time.Time
	// Done is closed when the account is dropped, changes its role or password, or logs out. Nil
	// means never.
	Done <-chan struct{}
	// Release is called once when the socket has ended. It may be nil.
	Release func()
}

// Authenticator verifies credentials. Its errors' texts are shown to the client.
type Authenticator interface {
	Bearer(ctx context.Context, token string, remote netip.Addr) (Session, error)
	Basic(ctx context.Context, user, password string, remote netip.Addr) (Session, error)
}

// Planner binds the SQL of subscriptions: the query role.
type Planner interface {
	PlanSubscription(ctx context.Context, in *queryv1.PlanSubscriptionRequest, opts ...grpc.CallOption) (*queryv1.PlanSubscriptionResponse, error)
}

// Config are the settings. The zero value gets the defaults; a negative limit means none.
type Config struct {
	// AuthTimeout is how long a new client may take to log in (default 3 s).
	AuthTimeout time.Duration
	// ClientTimeout is how long a client may be silent (default 10 s).
	ClientTimeout time.Duration
	// WriteTimeout is how long one write may wait for a client that does not read (default 10 s).
	WriteTimeout time.Duration
	// MessageBytesMax bounds one client message, before and after decompression (default 1 MiB).
	MessageBytesMax int
	// MessagesPerSecond a client may send (default 50, with as much burst).
	MessagesPerSecond int
	// SubscriptionsPerUser over all sockets of this gateway (default 10), SubscriptionsPerSocket on
	// one (default 100), SeedSubscriptionsPerSocket on one that speaks S (default 10).
	SubscriptionsPerUser       int
	SubscriptionsPerSocket     int
	SeedSubscriptionsPerSocket int
	// SeedSocketsPerUser bounds the sockets of one user that speak S (default 5).
	SeedSocketsPerUser int
	// SocketsMax bounds all sockets (default 50,000).
	SocketsMax int
	// AllowedOrigins may open sockets from a browser besides the server's own host, as "https://host"
	// or "https://host:port". "*" allows all.
	AllowedOrigins []string
	// StrictOrigin refuses clients that send no Origin, that is everything but browsers, and compares
	// the scheme too.
	StrictOrigin bool
	// DisableBasic refuses user and password; tokens remain.
	DisableBasic bool
	// DrainTime is over how long Stop closes sockets, so that their clients do not all come back at once; zero
	// closes them together.
	DrainTime time.Duration
	// ClusterID is part of the version domain that resumable positions belong to.
	ClusterID string
	// RemoteAddr finds a client's address behind trusted proxies; by default the peer's.
	RemoteAddr func(*http.Request) netip.Addr

	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// Deps are the parts a Handler talks to.
type Deps struct {
	Auth    Authenticator
	Planner Planner
	Live    *liveclient.Client
}

const (
	authTimeoutDefault     = 3 * time.Second
	clientTimeoutDefault   = 10 * time.Second
	messageBytesMaxDefault = 1 << 20
	messagesPerSecDefault  = 50
	subsPerUserDefault     = 10
	subsPerSocketDefault   = 100
	seedSubsDefault        = 10
	seedSocketsDefault     = 5
	socketsMaxDefault      = 50_000

	// batchRowsMax is the spec's limit of one batch of initial rows, and the default.
	batchRowsMax = 1000
	// planTimeout bounds binding one subscription.
	planTimeout = 5 * time.Second
	// loginTimeout bounds verifying one credential; a password costs 0.2 s and may have to queue.
	loginTimeout = 5 * time.Second
	// drainStep is the pause between two groups of sockets that Stop closes.
	drainStep = 20 * time.Millisecond
	// sweepInterval is how often sockets are checked for silence, expiry and revocation: a quarter of
	// the second in which a revoked session must end.
	sweepInterval = 250 * time.Millisecond
	// queueFramesMax bounds what waits for one socket: a client that reads is never that far behind.
	queueFramesMax = 1024
	// queueBytesMax bounds it in bytes: a few full batches of initial rows. One frame is always taken.
	queueBytesMax = 4 << 20
	// writeBytes is how much is gathered for one system call.
	writeBytes = 64 << 10
	// compressFrom is the smallest JSON payload that is sent compressed (spec 4.1).
	compressFrom = 512
	// idBytesMax bounds a subscription id: it is kept, and repeated in every frame.
	idBytesMax = 128
)

func (c Config) withDefaults() Config {
	setDefault(&c.AuthTimeout, authTimeoutDefault)
	setDefault(&c.ClientTimeout, clientTimeoutDefault)
	setDefault(&c.MessageBytesMax, messageBytesMaxDefault)
	setDefault(&c.MessagesPerSecond, messagesPerSecDefault)
	setDefault(&c.SubscriptionsPerUser, subsPerUserDefault)
	setDefault(&c.SubscriptionsPerSocket, subsPerSocketDefault)
	setDefault(&c.SeedSubscriptionsPerSocket, seedSubsDefault)
	setDefault(&c.SeedSocketsPerUser, seedSocketsDefault)
	setDefault(&c.SocketsMax, socketsMaxDefault)
	if c.RemoteAddr == nil {
		c.RemoteAddr = peerAddr
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func setDefault[T int | time.Duration](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

// over reports whether n exceeds a limit; a negative limit means none.
func over(n, limit int) bool { return limit >= 0 && n > limit }

func peerAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

func (c *Config) connConfig() *wsconn.Config { return &wsconn.Config{WriteTimeout: c.WriteTimeout} }
