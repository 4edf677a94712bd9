// Package cluster starts real roles in one process for tests: over a network in memory, on a file
// system in memory.
package cluster

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/host"
	"github.com/kalamdb/kalamdb-go/internal/router"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway"
	"github.com/kalamdb/kalamdb-go/services/live"
	"github.com/kalamdb/kalamdb-go/services/query"
	"github.com/kalamdb/kalamdb-go/services/storage"
)

// stopWithin bounds how long stopping may take.
const stopWithin = 30 * time.Second

// passwordCost is bcrypt's least: tests make many passwords.
const passwordCost = 4

// masterKey wraps the cluster keys of tests: 32 zeros.
const masterKey = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

// Cluster is the roles of one node.
type Cluster struct {
	Network *rpcnet.Local
	FS      vfs.FS
	// Gateway is nil unless the option asked for it.
	Gateway *gateway.Gateway

	query   *rpcnet.Conn
	storage *rpcnet.Conn
	router  *router.Router
}

// Option changes what is started.
type Option func(*options)

type options struct {
	fs      vfs.FS
	storage storage.Config
	live    live.Config
	query   query.Config
	gateway *gateway.Config // nil means none
	nodes   int             // of storage
	log     *slog.Logger
}

// On keeps the data on fs.
func On(fs vfs.FS) Option { return func(o *options) { o.fs = fs } }

// Nodes starts several storage nodes, which replicate everything. Each has a file system of its own in memory.
func Nodes(n int) Option { return func(o *options) { o.nodes = n } }

// Query changes the query role's settings.
func Query(change func(*query.Config)) Option { return func(o *options) { change(&o.query) } }

// Storage changes the storage role's settings.
func Storage(change func(*storage.Config)) Option { return func(o *options) { change(&o.storage) } }

// Live changes the live role's settings.
func Live(change func(*live.Config)) Option { return func(o *options) { change(&o.live) } }

// Gateway also starts a gateway, on free ports of this machine.
func Gateway(cfg gateway.Config) Option {
	cfg.Listen.HTTPAddr, cfg.Listen.GRPCAddr, cfg.Listen.OpsAddr = "127.0.0.1:0", "127.0.0.1:0", gateway.NoListener
	return func(o *options) { o.gateway = &cfg }
}

// Logger shows what the roles log.
func Logger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// Start starts the roles and stops them when the test ends.
func Start(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	o := options{fs: vfs.NewMem(), query: query.Config{PasswordCost: passwordCost}, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	o.storage.MasterKey = masterKey
	for _, opt := range opts {
		opt(&o)
	}
	c := &Cluster{Network: rpcnet.NewLocal(), FS: o.fs}
	o.storage.FS, o.storage.Logger, o.live.Logger, o.query.Logger = o.fs, o.log, o.log, o.log
	seeds := []string{"storage"}
	roles := []host.Role{storage.New(o.storage, c.Network), live.New(o.live, c.Network), query.New(o.query, c.Network)}
	if o.nodes > 1 {
		seeds = startStorage(t, o, c.Network)
		o.live.Seeds, o.query.Seeds = seeds, seeds
		roles = []host.Role{live.New(o.live, c.Network), query.New(o.query, c.Network)}
	}
	if o.gateway != nil {
		o.gateway.Logger = o.log
		c.Gateway = gateway.New(*o.gateway, c.Network, rpcnet.TCP{})
		roles = append(roles, c.Gateway)
	}
	run(t, o.log, roles...)
	c.query, c.storage = dial(t, c.Network, "query"), dial(t, c.Network, seeds[0])
	c.router = router.New(router.Config{Network: c.Network, Seeds: seeds, Logger: o.log})
	if err := c.router.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.router.Stop)
	return c
}

// run starts roles and stops them when the test ends.
func run(t testing.TB, log *slog.Logger, roles ...host.Role) {
	t.Helper()
	h, err := host.Start(t.Context(), log, roles...)
	if err != nil {
		t.Error(err) // also from goroutines of ours
		return
	}
	t.Cleanup(func() {
		if err := h.Stop(context.WithoutCancel(t.Context()), stopWithin); err != nil {
			t.Errorf("stop the cluster: %v", err)
		}
	})
}

// startStorage starts storage nodes at once, as they wait for each other, and returns their addresses.
func startStorage(t testing.TB, o options, network rpcnet.Network) []string {
	t.Helper()
	var addresses []string
	for n := range o.nodes {
		addresses = append(addresses, fmt.Sprintf("storage-%d", n+1))
	}
	var starting sync.WaitGroup
	for n, addr := range addresses {
		cfg := o.storage
		cfg.FS, cfg.NodeID, cfg.Addr, cfg.Join, cfg.BootstrapExpect = vfs.NewMem(), uint16(n+1), addr, addresses, o.nodes
		starting.Go(func() { run(t, o.log, storage.New(cfg, network)) })
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return addresses
}

func dial(t testing.TB, n rpcnet.Network, addr string) *rpcnet.Conn {
	t.Helper()
	conn, err := rpcnet.Dial(n, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Query calls the query role.
func (c *Cluster) Query() queryv1.QueryServiceClient { return queryv1.NewQueryServiceClient(c.query) }

// Storage calls the storage role, of several nodes the first.
func (c *Cluster) Storage() storagev1.StorageServiceClient {
	return storagev1.NewStorageServiceClient(c.storage)
}

// QueryConn is a connection to the query role, for its Flight service.
func (c *Cluster) QueryConn() *rpcnet.Conn { return c.query }

// Flush moves the rows of all tables into segments, and returns how many.
func (c *Cluster) Flush(t testing.TB) (rows uint64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch, err := catalogv1.NewCatalogServiceClient(c.storage).Watch(ctx, &catalogv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := watch.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range first.GetSnapshot().GetTables() {
		if table.GetKind() == catalogv1.TableKind_TABLE_KIND_STREAM {
			continue
		}
		for shard := range first.GetSnapshot().GetShards() {
			resp, err := storagev1.NewStorageServiceClient(c.router.Shard(shard)).Flush(ctx, &storagev1.FlushRequest{Shard: shard, TableId: table.GetId()})
			if err != nil {
				t.Fatal(err)
			}
			rows += resp.GetRows()
		}
	}
	return rows
}
