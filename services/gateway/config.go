package gateway

import (
	"crypto/rand"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kalamdb/kalamdb-go/internal/authn"
	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Where the role listens when the settings do not say: this machine only.
const (
	defaultHTTPAddr = "127.0.0.1:8080"
	defaultGRPCAddr = "127.0.0.1:8081"
	defaultOpsAddr  = "127.0.0.1:8082"
	// NoListener as an address switches a listener off.
	NoListener = "none"
)

// Listen says where the role serves clients.
type Listen struct {
	HTTPAddr     string `toml:"http_addr" env:"KALAMDB_HTTP_ADDR" doc:"address of HTTP and WebSocket"`
	GRPCAddr     string `toml:"grpc_addr" env:"KALAMDB_GRPC_ADDR" doc:"address of gRPC and Arrow Flight SQL, or none"`
	OpsAddr      string `toml:"ops_addr" env:"KALAMDB_OPS_ADDR" doc:"address of metrics, readiness and pprof, or none"`
	PublicOrigin string `toml:"public_origin" doc:"what clients reach the server as, e.g. https://db.example"`
}

// RateLimit are the limits of spec 3.8 and 5.6. Zero switches a limit off, except for messages,
// subscriptions and body bytes, where it means the usual value. Defaults has the usual values of all.
type RateLimit struct {
	QueriesPerSec       int             `toml:"max_queries_per_sec" doc:"SQL requests of one user per second; 0 = no limit"`
	MessagesPerSec      int             `toml:"max_messages_per_sec" doc:"WebSocket messages of one connection per second"`
	SubscriptionsMax    int             `toml:"max_subscriptions_per_user" doc:"open subscriptions of one user"`
	LoginsPerIPPerSec   int             `toml:"max_auth_requests_per_ip_per_sec" env:"KALAMDB_RATE_LIMIT_AUTH_REQUESTS_PER_IP_PER_SEC" doc:"logins from one address per second; 0 = no limit"`
	ConnectionsPerIP    int             `toml:"max_connections_per_ip" doc:"open connections from one address; 0 = no limit"`
	RequestsPerIPPerSec int             `toml:"max_requests_per_ip_per_sec" doc:"requests from one address per second; 0 = no limit"`
	BodyBytesMax        int64           `toml:"request_body_limit_bytes" doc:"largest HTTP request body"`
	BanFor              config.Duration `toml:"ban_duration" doc:"how long an address that ignores the limits is refused; 0s = never"`
}

// Security are the settings that decide who may speak to the server.
type Security struct {
	CORSOrigins     []string `toml:"cors_allowed_origins" doc:"web origins that may call the API; empty = none"`
	TrustedProxies  []string `toml:"trusted_proxy_ranges" env:"KALAMDB_TRUSTED_PROXY_RANGES" doc:"addresses and CIDR ranges of reverse proxies"`
	StrictWSOrigin  bool     `toml:"strict_ws_origin_check" doc:"refuse WebSocket clients that send no Origin"`
	MessageBytesMax int      `toml:"max_grpc_message_size" doc:"largest gRPC message"`
}

// Auth are the settings of accounts and tokens.
type Auth struct {
	JWTSecret        string          `toml:"jwt_secret" env:"KALAMDB_JWT_SECRET" secret:"true" doc:"signs tokens; at least 32 bytes unless only this machine is served; empty = random per start"`
	JWTSecretFile    string          `toml:"jwt_secret_file" env:"KALAMDB_JWT_SECRET_FILE" fileof:"jwt_secret" doc:"file that holds auth.jwt_secret"`
	JWTLifetime      config.Duration `toml:"jwt_expiry" env:"KALAMDB_JWT_EXPIRY_HOURS=h" doc:"lifetime of access tokens; refresh tokens live seven times as long"`
	BcryptCost       int             `toml:"bcrypt_cost" doc:"cost of new password hashes"`
	MaxFailures      int             `toml:"max_failed_logins" doc:"failed logins that lock an account"`
	LockFor          config.Duration `toml:"lock_duration" doc:"how long a locked account stays locked"`
	AllowRemoteSetup bool            `toml:"allow_remote_setup" env:"KALAMDB_ALLOW_REMOTE_SETUP" doc:"allow the first setup from another machine"`
	CookieSecure     bool            `toml:"cookie_secure" env:"KALAMDB_COOKIE_SECURE" doc:"send the console's cookies over https only"`
	DisableBasic     bool            `toml:"disable_basic" doc:"accept tokens only, over HTTP, WebSocket and gRPC; logging in, which gives one, still takes user and password"`
}

// WebSocket are the timeouts of sockets.
type WebSocket struct {
	ClientTimeout config.Duration `toml:"client_timeout" env:"KALAMDB_WEBSOCKET_CLIENT_TIMEOUT_SECS=s" doc:"silence after which a socket is closed"`
	AuthTimeout   config.Duration `toml:"auth_timeout" env:"KALAMDB_WEBSOCKET_AUTH_TIMEOUT_SECS=s" doc:"time a new socket has to log in"`
	SocketsMax    int             `toml:"sockets_max" doc:"open sockets of this gateway"`
	DrainTime     config.Duration `toml:"drain_time" doc:"over how long sockets are closed when the gateway stops"`
}

// Config of the gateway role. The zero value serves this machine on the usual ports without rate limits;
// Defaults adds those.
type Config struct {
	Listen    Listen    `toml:"listen"`
	RateLimit RateLimit `toml:"rate_limit"`
	Security  Security  `toml:"security"`
	Auth      Auth      `toml:"auth"`
	WebSocket WebSocket `toml:"websocket"`

	// Seeds are storage nodes, one of which must answer; Query and Live are the nodes of these roles while the
	// catalog names none. Empty means "storage", "query" and "live", the names inside one process.
	Seeds []string `toml:"-"`
	Query string   `toml:"-"`
	Live  string   `toml:"-"`
	// ServerID is this process in the catalog's list of nodes; empty when it belongs to no cluster.
	ServerID string `toml:"-"`
	// DrainDelay is how long the gateway goes on serving after it has said that it is not ready any more: load
	// balancers need a while to notice.
	DrainDelay config.Duration `toml:"-"`
	// Version and BuildDate are shown by /health.
	Version   string `toml:"-"`
	BuildDate string `toml:"-"`

	Now    func() time.Time `toml:"-"`
	Logger *slog.Logger     `toml:"-"`
	// Metrics is where metrics are registered, and what /metrics shows; nil means a registry of its own.
	Metrics *prometheus.Registry `toml:"-"`
}

// Defaults are the settings of a server that meets strangers.
func Defaults() Config {
	return Config{
		Listen: Listen{HTTPAddr: defaultHTTPAddr, GRPCAddr: defaultGRPCAddr, OpsAddr: defaultOpsAddr},
		RateLimit: RateLimit{QueriesPerSec: 100, MessagesPerSec: 50, SubscriptionsMax: 10, LoginsPerIPPerSec: 20,
			ConnectionsPerIP: 100, RequestsPerIPPerSec: 200, BodyBytesMax: 10 << 20, BanFor: config.Duration(300 * time.Second)},
		Security: Security{MessageBytesMax: defaultMessageBytes},
		Auth: Auth{JWTLifetime: config.Duration(24 * time.Hour), BcryptCost: authn.PasswordCost, MaxFailures: 5,
			LockFor: config.Duration(15 * time.Minute)},
		WebSocket: WebSocket{ClientTimeout: config.Duration(10 * time.Second), AuthTimeout: config.Duration(3 * time.Second),
			SocketsMax: 50_000},
	}
}

// defaultMessageBytes is the largest command the storage role logs.
const defaultMessageBytes = 64 << 20

func (c Config) withDefaults() (Config, error) {
	setText(&c.Listen.HTTPAddr, defaultHTTPAddr)
	setText(&c.Listen.GRPCAddr, defaultGRPCAddr)
	setText(&c.Listen.OpsAddr, defaultOpsAddr)
	setText(&c.Query, "query")
	setText(&c.Live, "live")
	if c.Security.MessageBytesMax == 0 {
		c.Security.MessageBytesMax = defaultMessageBytes
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	if len(c.Seeds) > 0 && c.Auth.JWTSecret == "" {
		return c, dberr.New(dberr.InvalidArgument,
			"auth.jwt_secret is not set: gateways of a cluster need the same one, as each must accept the tokens of the others")
	}
	if len(c.Seeds) == 0 {
		c.Seeds = []string{"storage"}
	}
	if c.Auth.JWTSecret == "" && local(c.Listen.HTTPAddr) && local(c.Listen.GRPCAddr) {
		c.Auth.JWTSecret = rand.Text() + rand.Text() // tokens then end with the process
	}
	return c, c.validate()
}

func setText(dst *string, value string) {
	if *dst == "" {
		*dst = value
	}
}

func (c Config) validate() error {
	for _, addr := range []string{c.Listen.HTTPAddr, c.Listen.GRPCAddr} {
		if !local(addr) && len(c.Auth.JWTSecret) < authn.SecretBytesMin {
			return dberr.New(dberr.InvalidArgument,
				"auth.jwt_secret must have at least %d bytes (it has %d) to serve %s, which other machines can reach",
				authn.SecretBytesMin, len(c.Auth.JWTSecret), addr)
		}
	}
	r := c.RateLimit
	if r.QueriesPerSec < 0 || r.LoginsPerIPPerSec < 0 || r.ConnectionsPerIP < 0 || r.RequestsPerIPPerSec < 0 || r.BodyBytesMax < 0 || r.BanFor < 0 {
		return dberr.New(dberr.InvalidArgument, "the settings of rate_limit may not be negative")
	}
	if c.DrainDelay < 0 || c.WebSocket.DrainTime < 0 {
		return dberr.New(dberr.InvalidArgument, "the times of draining may not be negative")
	}
	return nil
}

// local reports whether only this machine can reach an address. Names without a port are listeners
// inside the process.
func local(addr string) bool {
	if addr == NoListener {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil || strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
