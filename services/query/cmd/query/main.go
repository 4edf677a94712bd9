// Command query is a query node: it parses, plans and runs SQL for the gateways.
package main

import (
	"context"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/host"
	"github.com/kalamdb/kalamdb-go/internal/membership"
	"github.com/kalamdb/kalamdb-go/internal/telemetry"
	"github.com/kalamdb/kalamdb-go/services/query"
)

// version is set by the Makefile.
var version = "dev"

// settings are the sections a query node reads.
type settings struct {
	Server  host.Server       `toml:"server"`
	Cluster membership.Config `toml:"cluster"`
	Query   query.Config      `toml:"query"`
	Logging host.Logging      `toml:"logging"`
}

func main() {
	s := settings{Server: host.DefaultServer(), Cluster: membership.Defaults(), Logging: host.DefaultLogging()}
	host.Main(host.Program{Name: "kalamdb-query", Version: version, Settings: &s, Server: &s.Server, Logging: &s.Logging,
		Own: []string{"cluster", "query", "logging"}, Roles: s.roles})
}

func (s *settings) roles(_ context.Context, tel *telemetry.Telemetry) ([]host.Role, error) {
	if err := s.Cluster.Prepare("query"); err != nil {
		return nil, err
	}
	network, err := s.Cluster.Network("query")
	if err != nil {
		return nil, err
	}
	membership.RegisterMetrics(network, tel.Registry)
	m := membership.NewMember(&s.Cluster, network, "query", version, nil, tel.Logger)
	role := host.NewLazy("query", func() (host.Role, error) {
		c := s.Query
		c.Addr, c.Seeds, c.NodeID, c.Settings = s.Cluster.ListenAddr, s.Cluster.Join, m.NodeID(), config.Keys(s)
		c.Logger, c.Metrics = tel.Logger, tel.Registry
		return query.New(c, network), nil
	})
	return []host.Role{m.Enter(), role, m.Announce()}, nil
}
