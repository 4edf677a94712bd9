package allinone

import (
	"net"
	"strconv"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/services/gateway"
	"github.com/kalamdb/kalamdb-go/services/live"
	"github.com/kalamdb/kalamdb-go/services/query"
	"github.com/kalamdb/kalamdb-go/services/storage"
)

// Config is the whole server's configuration. Each section is the settings of one role or concern; see
// internal/config for how files, variables and flags name the keys.
type Config struct {
	Server    Server            `toml:"server"`
	Storage   Storage           `toml:"storage"`
	Query     query.Config      `toml:"query"`
	Live      live.Config       `toml:"live"`
	RateLimit gateway.RateLimit `toml:"rate_limit"`
	Security  gateway.Security  `toml:"security"`
	Auth      Auth              `toml:"auth"`
	WebSocket gateway.WebSocket `toml:"websocket"`
	Logging   Logging           `toml:"logging"`
}

// Server says where clients reach the process.
type Server struct {
	Host            string          `toml:"host" doc:"address clients connect to; 127.0.0.1 serves this machine only"`
	Port            uint16          `toml:"port" doc:"port of HTTP and WebSocket"`
	GRPCPort        uint16          `toml:"grpc_port" env:"KALAMDB_GRPC_PORT" doc:"port of gRPC and Arrow Flight SQL"`
	OpsPort         uint16          `toml:"ops_port" env:"KALAMDB_OPS_PORT" doc:"port of metrics, readiness and pprof, on 127.0.0.1 only"`
	PublicOrigin    string          `toml:"public_origin" doc:"what clients reach the server as, e.g. https://db.example"`
	NodeID          uint16          `toml:"node_id" env:"KALAMDB_NODE_ID,KALAMDB_CLUSTER_NODE_ID" doc:"number of this node, 0 to 511; part of every generated id"`
	ShutdownTimeout config.Duration `toml:"shutdown_timeout" doc:"how long a clean stop may take before what still runs is cut"`
}

// Storage adds the place of the data to the storage role's settings.
type Storage struct {
	DataPath string `toml:"data_path" env:"KALAMDB_DATA_DIR" doc:"folder that holds everything the server stores"`
	storage.Config
}

// Auth adds root's first password to the gateway's settings.
type Auth struct {
	gateway.Auth
	RootPassword string `toml:"root_password" env:"KALAMDB_ROOT_PASSWORD" secret:"true" doc:"root's password at the first start; empty makes a random one"`
}

// Logging says what is logged and how.
type Logging struct {
	Level  string `toml:"level" env:"KALAMDB_LOG_LEVEL" doc:"debug, info, warn or error"`
	Format string `toml:"format" env:"KALAMDB_LOG_FORMAT" doc:"text or json"`
}

// Defaults are the settings of a server that nobody configured.
func Defaults() Config {
	g := gateway.Defaults()
	return Config{
		Server: Server{Host: "127.0.0.1", Port: 8080, GRPCPort: 8081, OpsPort: 8082,
			ShutdownTimeout: config.Duration(30 * time.Second)},
		Storage:   Storage{DataPath: "./data"},
		RateLimit: g.RateLimit, Security: g.Security, WebSocket: g.WebSocket,
		Auth:    Auth{Auth: g.Auth},
		Logging: Logging{Level: "info", Format: "text"},
	}
}

// roles expands the configuration into one for each role.
func (c *Config) roles() (storage.Config, live.Config, query.Config, gateway.Config) {
	s := c.Storage.Config
	s.Dir, s.NodeID = c.Storage.DataPath, c.Server.NodeID
	q := c.Query
	q.NodeID, q.PasswordCost, q.Settings = c.Server.NodeID, c.Auth.BcryptCost, config.Keys(c)
	g := gateway.Config{RateLimit: c.RateLimit, Security: c.Security, Auth: c.Auth.Auth, WebSocket: c.WebSocket,
		Listen: gateway.Listen{HTTPAddr: address(c.Server.Host, c.Server.Port), GRPCAddr: address(c.Server.Host, c.Server.GRPCPort),
			OpsAddr: address("127.0.0.1", c.Server.OpsPort), PublicOrigin: c.Server.PublicOrigin}}
	return s, c.Live, q, g
}

func address(host string, port uint16) string { return net.JoinHostPort(host, strconv.Itoa(int(port))) }
