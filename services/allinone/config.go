package allinone

import (
	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/host"
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
	Logging   host.Logging      `toml:"logging"`
}

// Sections are all of them: a file for this program holds nothing else.
var Sections = []string{"server", "storage", "query", "live", "rate_limit", "security", "auth", "websocket", "logging"}

// Refused are the settings of nodes of a cluster: ignoring them would leave somebody with as many servers that
// do not know each other.
var Refused = []config.Refused{{Section: "cluster",
	Variables: []string{"KALAMDB_CLUSTER_JOIN", "KALAMDB_CLUSTER_PEERS"},
	Reason: "kalamdb is one server by itself and joins no cluster; " +
		"start kalamdb-storage, kalamdb-query, kalamdb-live and kalamdb-gateway with these settings"}}

// Server adds the number of the node.
type Server struct {
	host.Server
	NodeID uint16 `toml:"node_id" env:"KALAMDB_NODE_ID,KALAMDB_CLUSTER_NODE_ID" doc:"number of this node, 0 to 511; part of every generated id"`
}

// Storage adds the place of the data to the storage role's settings.
type Storage struct {
	DataPath string `toml:"data_path" env:"KALAMDB_DATA_DIR" doc:"folder that holds everything the server stores"`
	storage.Config
}

// Auth adds root's first password to the gateway's settings.
type Auth struct {
	gateway.Auth
	RootAllowRemote  bool   `toml:"root_allow_remote" doc:"at the first start, let root log in from other machines"`
	RootPasswordFile string `toml:"root_password_file" env:"KALAMDB_ROOT_PASSWORD_FILE" fileof:"root_password" doc:"file that holds auth.root_password"`
	RootPassword     string `toml:"root_password" env:"KALAMDB_ROOT_PASSWORD" secret:"true" doc:"root's password at the first start; empty makes a random one"`
}

// Defaults are the settings of a server that nobody configured.
func Defaults() Config {
	g := gateway.Defaults()
	return Config{
		Server:    Server{Server: host.DefaultServer()},
		Storage:   Storage{DataPath: "./data"},
		RateLimit: g.RateLimit, Security: g.Security, WebSocket: g.WebSocket,
		Auth:    Auth{Auth: g.Auth},
		Logging: host.DefaultLogging(),
	}
}

// roles expands the configuration into one for each role.
func (c *Config) roles() (storage.Config, live.Config, query.Config, gateway.Config) {
	s := c.Storage.Config
	s.Dir, s.NodeID = c.Storage.DataPath, c.Server.NodeID
	q := c.Query
	q.NodeID, q.PasswordCost, q.Settings = c.Server.NodeID, c.Auth.BcryptCost, config.Keys(c)
	g := gateway.Config{RateLimit: c.RateLimit, Security: c.Security, Auth: c.Auth.Auth, WebSocket: c.WebSocket,
		Listen: gateway.Listen{HTTPAddr: c.Server.HTTPAddr(), GRPCAddr: c.Server.GRPCAddr(), OpsAddr: c.Server.OpsAddr(),
			PublicOrigin: c.Server.PublicOrigin},
		DrainDelay: c.Server.DrainDelay}
	s.Role = "allinone"
	return s, c.Live, q, g
}
