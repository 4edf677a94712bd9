// Package query is the query role: it parses, binds, plans and executes SQL. It keeps no state but
// caches; rows are read from and written to the storage role.
package query

import (
	"context"
	"errors"
	"time"

	flightv1 "github.com/apache/arrow-go/v18/arrow/flight/gen/flight"

	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/router"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/account"
	"github.com/kalamdb/kalamdb-go/services/query/internal/admission"
	"github.com/kalamdb/kalamdb-go/services/query/internal/clusteradmin"
	"github.com/kalamdb/kalamdb-go/services/query/internal/ddl"
	"github.com/kalamdb/kalamdb-go/services/query/internal/dml"
	"github.com/kalamdb/kalamdb-go/services/query/internal/engine"
	"github.com/kalamdb/kalamdb-go/services/query/internal/exec"
	"github.com/kalamdb/kalamdb-go/services/query/internal/fleet"
	"github.com/kalamdb/kalamdb-go/services/query/internal/listing"
	"github.com/kalamdb/kalamdb-go/services/query/internal/maintenance"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/statement"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storageclient"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storageddl"
	"github.com/kalamdb/kalamdb-go/services/query/internal/subscriptionplan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// callers are the roles that may call: a statement carries the identity that a gateway has verified.
var callers = []string{"gateway"}

// Query is the role. Make it with New, then Start.
type Query struct {
	cfg     Config
	network rpcnet.Network
	started time.Time

	router        *router.Router
	view          *catalogview.View
	engine        *engine.Engine
	gate          *admission.Gate
	metrics       *metrics
	executor      *statement.Executor
	subscriptions *subscriptionplan.Planner
	streams       *dml.RowStreams
	server        *rpcnet.Server
}

// New makes the role on a network.
func New(cfg Config, network rpcnet.Network) *Query { return &Query{cfg: cfg, network: network} }

// Name is the role's name.
func (q *Query) Name() string { return "query" }

// Start returns when the role serves. The storage role must be up: the first copy of the catalog comes
// from there.
func (q *Query) Start(ctx context.Context) error {
	err := q.start(ctx)
	if err != nil {
		return errors.Join(err, q.Stop(ctx))
	}
	return nil
}

func (q *Query) start(ctx context.Context) (err error) {
	if q.cfg, err = q.cfg.withDefaults(); err != nil {
		return err
	}
	q.started = q.cfg.Now()
	q.router = router.New(router.Config{Network: q.network, Seeds: q.cfg.Seeds, Logger: q.cfg.Logger})
	if err := q.router.Start(ctx); err != nil {
		return err
	}
	q.view = q.router.View()
	if err := q.build(); err != nil {
		return err
	}
	return q.serve()
}

// build makes the parts, innermost first.
func (q *Query) build() error {
	ids, err := snowflake.New(snowflake.IDEpoch, queryNodeBit|q.cfg.NodeID, q.cfg.Now)
	if err != nil {
		return err
	}
	nextID := func() int64 { return int64(ids.Next()) }
	q.engine, err = engine.New(engine.Config{MemoryBytes: q.cfg.EngineMemoryBytes, Threads: q.cfg.EngineThreads,
		Connections: q.cfg.EngineConnections, StatementTimeout: time.Duration(q.cfg.StatementTimeout),
		SnowflakeID: nextID, Now: q.cfg.Now, Logger: q.cfg.Logger})
	if err != nil {
		return err
	}
	q.gate = admission.New(q.cfg.StatementsMax, q.cfg.StatementsWaitingMax)
	if q.metrics, err = newMetrics(q.cfg.Metrics, q.gate); err != nil {
		return err
	}
	client := storageclient.New(q.router)
	storage, live := fleet.New(q.router, q.cfg.Seeds[0], "storage"), fleet.New(q.router, q.cfg.Live, "live")
	tables := systemtable.New(systemtable.Config{Catalog: q.view, Users: q.view.Client(), Storage: storage, Live: live, Manifests: client.ListManifests,
		Cluster: clusterv1.NewClusterServiceClient(q.router.Catalog()), Own: q.own, NodeID: uint32(q.cfg.NodeID),
		Settings: q.cfg.Settings})
	runner, err := exec.New(exec.Config{Catalog: q.view, Systems: tables, Engine: q.engine, Storage: client, Logger: q.cfg.Logger})
	if err != nil {
		return err
	}
	limits := statement.Limits{Parse: sqlfront.Limits{TextBytes: q.cfg.SQLBytesMax}, RowsMax: q.cfg.RowsMax,
		ResultBytesMax: q.cfg.ResultBytesMax, Timeout: time.Duration(q.cfg.StatementTimeout),
		TransactionTimeout: time.Duration(q.cfg.TransactionTimeout)}
	q.subscriptions = &subscriptionplan.Planner{Catalog: q.view, Limits: limits.Parse}
	q.streams = &dml.RowStreams{Catalog: q.view, Storage: client, DefaultNamespace: statement.DefaultNamespace}
	q.executor, err = statement.New(statement.Config{Limits: limits, Gate: q.gate, Catalog: q.view, Live: live,
		Runner: runner, DDL: &ddl.DDL{Catalog: q.view, Now: q.cfg.Now},
		Accounts:      &account.Accounts{Catalog: q.view, Now: q.cfg.Now, PasswordCost: q.cfg.PasswordCost},
		Listings:      &listing.Listings{Catalog: q.view, Storage: storage, Live: live, Tables: tables, Runner: runner, DescribeBackup: client.DescribeBackup},
		Writer:        &dml.Writer{Catalog: q.view, Storage: client, Runner: runner, NextID: nextID, Now: q.cfg.Now},
		Cluster:       &clusteradmin.Admin{Router: q.router},
		Storages:      &storageddl.Storages{Catalog: q.view, Now: q.cfg.Now},
		Jobs:          &maintenance.Jobs{Catalog: q.view, CheckRestoreUser: client.CheckRestoreUser, Now: q.cfg.Now},
		Subscriptions: q.subscriptions, Now: q.cfg.Now, Observe: q.metrics.observe})
	return err
}

func (q *Query) serve() error {
	server, err := rpcnet.NewServer(q.network, q.cfg.Addr, rpcnet.ServerOptions{Logger: q.cfg.Logger, Roles: callers})
	if err != nil {
		return err
	}
	q.server = server
	queryv1.RegisterQueryServiceServer(server.Registrar(), &service{q: q})
	flightv1.RegisterFlightServiceServer(server.Registrar(), &flightService{q: q})
	server.Serve()
	return nil
}

// Stop refuses new requests, lets running ones finish until ctx ends, and frees everything.
func (q *Query) Stop(ctx context.Context) error {
	var errs []error
	if q.server != nil {
		q.server.Stop(ctx)
		q.streams.Wait()
	}
	if q.router != nil {
		q.router.Stop()
	}
	if q.engine != nil {
		errs = append(errs, q.engine.Close(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return dberr.New(dberr.CodeOf(err), "stop the query role: %w", err)
	}
	return nil
}
