// Command live is a live node: it holds subscriptions and hands out changes.
package main

import (
	"context"

	"github.com/kalamdb/kalamdb-go/internal/host"
	"github.com/kalamdb/kalamdb-go/internal/membership"
	"github.com/kalamdb/kalamdb-go/internal/telemetry"
	"github.com/kalamdb/kalamdb-go/services/live"
)

// version is set by the Makefile.
var version = "dev"

// settings are the sections a live node reads.
type settings struct {
	Server  host.Server       `toml:"server"`
	Cluster membership.Config `toml:"cluster"`
	Live    live.Config       `toml:"live"`
	Logging host.Logging      `toml:"logging"`
}

func main() {
	s := settings{Server: host.DefaultServer(), Cluster: membership.Defaults(), Logging: host.DefaultLogging()}
	host.Main(host.Program{Name: "kalamdb-live", Version: version, Settings: &s, Server: &s.Server, Logging: &s.Logging,
		Own: []string{"cluster", "live", "logging"}, Roles: s.roles})
}

func (s *settings) roles(_ context.Context, tel *telemetry.Telemetry) ([]host.Role, error) {
	if err := s.Cluster.Prepare("live"); err != nil {
		return nil, err
	}
	network, err := s.Cluster.Network("live")
	if err != nil {
		return nil, err
	}
	membership.RegisterMetrics(network, tel.Registry)
	var node *live.Live
	load := func() uint64 { return node.Load() }
	m := membership.NewMember(&s.Cluster, network, "live", version, load, tel.Logger)
	role := host.NewLazy("live", func() (host.Role, error) {
		c := s.Live
		c.Addr, c.Seeds, c.ServerID = s.Cluster.ListenAddr, s.Cluster.Join, m.ServerID()
		c.Logger, c.Metrics = tel.Logger, tel.Registry
		node = live.New(c, network)
		return node, nil
	})
	return []host.Role{m.Enter(), role, m.Announce()}, nil
}
