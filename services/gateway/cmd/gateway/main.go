// Command gateway is a gateway: the only kind of node that clients reach.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/kalamdb/kalamdb-go/internal/host"
	"github.com/kalamdb/kalamdb-go/internal/membership"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/telemetry"
	"github.com/kalamdb/kalamdb-go/services/gateway"
)

// version is set by the Makefile.
var version = "dev"

// settings are the sections a gateway reads.
type settings struct {
	Server    host.Server       `toml:"server"`
	Cluster   membership.Config `toml:"cluster"`
	RateLimit gateway.RateLimit `toml:"rate_limit"`
	Security  gateway.Security  `toml:"security"`
	Auth      authSettings      `toml:"auth"`
	WebSocket gateway.WebSocket `toml:"websocket"`
	Logging   host.Logging      `toml:"logging"`
}

// authSettings adds root's first password.
type authSettings struct {
	gateway.Auth
	RootPassword     string `toml:"root_password" env:"KALAMDB_ROOT_PASSWORD" secret:"true" doc:"root's password in a new cluster; empty makes a random one"`
	RootPasswordFile string `toml:"root_password_file" env:"KALAMDB_ROOT_PASSWORD_FILE" fileof:"root_password" doc:"file that holds auth.root_password"`
	RootAllowRemote  bool   `toml:"root_allow_remote" doc:"in a new cluster, let root log in from other machines than the gateway's"`
	RootPasswordOut  string `toml:"root_password_out" doc:"where a random root password is written, readable by this account only"`
}

func main() {
	g := gateway.Defaults()
	s := settings{Server: host.DefaultServer(), Cluster: membership.Defaults(), Logging: host.DefaultLogging(),
		RateLimit: g.RateLimit, Security: g.Security, WebSocket: g.WebSocket, Auth: authSettings{Auth: g.Auth, RootPasswordOut: "root-password"}}
	host.Main(host.Program{Name: "kalamdb-gateway", Version: version, Settings: &s, Server: &s.Server, Logging: &s.Logging,
		Own: []string{"cluster", "rate_limit", "security", "auth", "websocket", "logging"}, Roles: s.roles, OwnOperations: true})
}

func (s *settings) roles(_ context.Context, tel *telemetry.Telemetry) ([]host.Role, error) {
	if err := s.Cluster.Prepare("gateway"); err != nil {
		return nil, err
	}
	if s.Cluster.APIAddr == "" {
		s.Cluster.APIAddr = "http://" + s.Server.HTTPAddr()
	}
	network, err := s.Cluster.Network("gateway")
	if err != nil {
		return nil, err
	}
	membership.RegisterMetrics(network, tel.Registry)
	var node *gateway.Gateway
	load := func() uint64 { return node.Load() }
	m := membership.NewMember(&s.Cluster, network, "gateway", version, load, tel.Logger)
	role := host.NewLazy("gateway", func() (host.Role, error) {
		c := gateway.Config{RateLimit: s.RateLimit, Security: s.Security, Auth: s.Auth.Auth, WebSocket: s.WebSocket,
			Listen: gateway.Listen{HTTPAddr: s.Server.HTTPAddr(), GRPCAddr: s.Server.GRPCAddr(), OpsAddr: s.Server.OpsAddr(),
				PublicOrigin: s.Server.PublicOrigin},
			Seeds: s.Cluster.Join, ServerID: m.ServerID(), Version: version, DrainDelay: s.Server.DrainDelay,
			Logger: tel.Logger, Metrics: tel.Registry}
		node = gateway.New(c, network, rpcnet.TCP{})
		return &greeting{node}, nil
	})
	root := membership.NewRoot(membership.RootConfig{AllowRemote: s.Auth.RootAllowRemote, Password: s.Auth.RootPassword, File: s.Auth.RootPasswordOut,
		Cost: s.Auth.BcryptCost, Out: os.Stdout}, m.Catalog())
	return []host.Role{m.Enter(), root, role, m.Announce()}, nil
}

// greeting tells where clients may connect.
type greeting struct{ *gateway.Gateway }

// Greeting is printed when the gateway serves.
func (g *greeting) Greeting() string {
	return fmt.Sprintf("KalamDB %s is ready: HTTP and WebSocket on %s, gRPC and Flight SQL on %s.", version, g.HTTPAddr(), g.GRPCAddr())
}
