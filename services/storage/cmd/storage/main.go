// Command storage is a storage node: it holds replicas of shards and of the catalog.
package main

import (
	"context"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/host"
	"github.com/kalamdb/kalamdb-go/internal/membership"
	"github.com/kalamdb/kalamdb-go/internal/telemetry"
	"github.com/kalamdb/kalamdb-go/services/storage"
)

// version is set by the Makefile.
var version = "dev"

// settings are the sections a storage node reads.
type settings struct {
	Server  host.Server       `toml:"server"`
	Cluster membership.Config `toml:"cluster"`
	Storage storageSettings   `toml:"storage"`
	Logging host.Logging      `toml:"logging"`
}

// storageSettings adds the place of the data.
type storageSettings struct {
	DataPath string `toml:"data_path" env:"KALAMDB_DATA_DIR" doc:"folder that holds everything the node stores"`
	storage.Config
}

func main() {
	s := settings{Server: host.DefaultServer(), Cluster: membership.Defaults(), Logging: host.DefaultLogging(),
		Storage: storageSettings{DataPath: "./data"}}
	host.Main(host.Program{Name: "kalamdb-storage", Version: version, Settings: &s, Server: &s.Server, Logging: &s.Logging,
		Own: []string{"cluster", "storage", "logging"}, Roles: s.roles})
}

func (s *settings) roles(_ context.Context, tel *telemetry.Telemetry) ([]host.Role, error) {
	if err := s.Cluster.Prepare("storage"); err != nil {
		return nil, err
	}
	network, err := s.Cluster.Network("storage")
	if err != nil {
		return nil, err
	}
	membership.RegisterMetrics(network, tel.Registry)
	c := s.Storage.Config
	c.Dir, c.NodeID, c.Version, c.Zone = s.Storage.DataPath, s.Cluster.NodeID, version, s.Cluster.Zone
	c.Addr, c.AdvertiseAddr = s.Cluster.ListenAddr, s.Cluster.AdvertiseAddr
	c.RaftAddr, c.RaftAdvertiseAddr = s.Cluster.RaftListenAddr, s.Cluster.RaftAdvertiseAddr
	c.Join, c.BootstrapExpect, c.ReplicationFactor = s.Cluster.Join, s.Cluster.BootstrapExpect, s.Cluster.ReplicationFactor
	c.OfflineAfter, c.ReplaceAfter, c.HeartbeatInterval = s.Cluster.OfflineAfter, s.Cluster.ReplaceAfter, s.Cluster.HeartbeatInterval
	c.Logger, c.Metrics, c.Now, c.Steady = tel.Logger, tel.Registry, clock, time.Now
	return []host.Role{storage.New(c, network)}, nil
}
