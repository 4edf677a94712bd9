// Package storage is the storage role: shards, each one a Raft group, and the catalog group. See
// DESIGN.md.
package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	flightv1 "github.com/apache/arrow-go/v18/arrow/flight/gen/flight"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/google/uuid"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftlog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/scan"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/shard"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/stream"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/watch"
)

const (
	// catalogGroup is group 0; shard n is group firstShardGroup+n.
	catalogGroup    = 0
	firstShardGroup = 1
	// hotFormat is fixed, so that a library upgrade alone never makes a directory unreadable to the
	// version before it.
	hotFormat = pebble.FormatValueSeparation
	// bloomBitsPerKey gives 1 % false positives: most inserts ask for a key that is not there.
	bloomBitsPerKey = 10
)

// Storage is the role. Make it with New.
type Storage struct {
	cfg     Config
	net     rpcnet.Network
	failure *failure

	dir     *dataDir
	hot     *pebble.DB
	raftLog *raftlog.DB
	mux     *raftgroup.Mux

	catalog      *catalogstate.State
	catalogGroup *raftgroup.Group
	commands     *catalogstate.Service

	shards  []*replica
	memory  *stream.Memory
	server  *rpcnet.Server
	metrics *metrics

	cancel context.CancelFunc // ends the background work
	work   sync.WaitGroup
}

// replica is one shard of this node with what belongs to it.
type replica struct {
	shard  *shard.Shard
	group  *raftgroup.Group
	stream *stream.Store
	led    chan struct{} // closed when this node first serves the shard
	once   sync.Once
}

// New makes the role; Start starts it.
func New(cfg Config, net rpcnet.Network) *Storage { return &Storage{cfg: cfg, net: net} }

// Name is the role's name.
func (*Storage) Name() string { return "storage" }

// Failed is closed when the disk failed; Err says how.
func (s *Storage) Failed() <-chan struct{} { return s.failure.done }

// Err is why the role failed, nil while it has not.
func (s *Storage) Err() error {
	if s.failure.failed() {
		return s.failure.err
	}
	return nil
}

// Start opens the stores, replays what a crash left and returns when every shard is served.
func (s *Storage) Start(ctx context.Context) error {
	cfg, err := s.cfg.withDefaults()
	if err != nil {
		return err
	}
	s.cfg, s.failure = cfg, newFailure(cfg.Logger)
	if err := s.start(ctx); err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopAfterFailure)
		defer cancel()
		return errors.Join(err, s.Stop(stop))
	}
	return nil
}

// stopAfterFailure bounds the clean-up of a start that failed.
const stopAfterFailure = 10 * time.Second

func (s *Storage) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{s.openStores, s.openCatalog, s.openShards, s.serve} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *Storage) openStores(context.Context) (err error) {
	if s.dir, err = openDataDir(s.cfg.FS, s.cfg.Dir); err != nil {
		return err
	}
	log := pebbleLog{store: "raft log", log: s.cfg.Logger, failure: s.failure}
	s.raftLog, err = raftlog.Open(s.dir.join("raft"), raftlog.Options{FS: s.dir.fs, Logger: log, Events: s.failure.listener("raft log")})
	if err != nil {
		return err
	}
	if err = s.openHot(); err != nil {
		return err
	}
	s.mux, err = raftgroup.Listen(s.net, s.cfg.RaftAddr, s.nodeName(), alone{})
	return err
}

// openHot opens the hot store. Its write-ahead log is the Raft log.
func (s *Storage) openHot() error {
	cache := pebble.NewCache(s.cfg.CacheBytes)
	defer cache.Unref()
	opt := &pebble.Options{FS: s.dir.fs, Cache: cache, DisableWAL: true, MemTableSize: s.cfg.MemTableBytes,
		MemTableStopWritesThreshold: memTablesMax, FormatMajorVersion: hotFormat,
		Logger: pebbleLog{store: "hot", log: s.cfg.Logger, failure: s.failure}, EventListener: s.failure.listener("hot")}
	for i := range opt.Levels {
		opt.Levels[i].FilterPolicy = bloom.FilterPolicy(bloomBitsPerKey)
	}
	db, err := pebble.Open(s.dir.join("hot"), opt)
	if err != nil {
		return dberr.New(dberr.Unavailable, "open the hot store: %w", err)
	}
	s.hot = db
	return nil
}

// openCatalog opens group 0 and, in a new cluster, makes its first entry.
func (s *Storage) openCatalog(ctx context.Context) (err error) {
	s.catalog, err = catalogstate.Open(catalogstate.Config{Path: joinReal(s.dir.catalogDir, "catalog.db"),
		Fail: s.failure.fail, Logger: s.cfg.Logger})
	if err != nil {
		return err
	}
	settings := s.cfg.raftSettings()
	if s.dir.temporary { // the log is all there will be after a restart: keep it whole
		settings.SnapshotThreshold, settings.SnapshotBytes = math.MaxUint64, math.MaxInt64
	}
	leads := newSignal()
	s.catalogGroup, err = raftgroup.Open(ctx, raftgroup.Config{Group: catalogGroup, State: s.catalog,
		Log: s.raftLog, Mux: s.mux, FS: s.dir.fs, SpoolDir: s.dir.join("spool"), Settings: settings, Bootstrap: true,
		OnLead: func(uint64) { leads.set() }, OnFollow: func() {}, Logger: s.cfg.Logger})
	if err != nil {
		return err
	}
	s.commands = catalogstate.NewService(s.catalog, s.catalogGroup, s.cfg.Now, s.failure.done)
	if err := s.await(ctx, leads.done, "the catalog"); err != nil {
		return err
	}
	if id, _ := s.catalog.Cluster(); id != "" {
		return nil
	}
	_, err = s.commands.Apply(ctx, &catalogv1.ApplyRequest{Command: &catalogv1.Command{Command: &catalogv1.Command_InitCluster{
		InitCluster: &catalogv1.InitCluster{ClusterId: uuid.NewString(), Shards: s.cfg.Shards}}}})
	return err
}

// alone is the address book of a node without others.
type alone struct{}

func (alone) RaftAddr(string) (string, bool) { return "", false }

func (s *Storage) nodeName() string { return fmt.Sprintf("n%d", s.cfg.NodeID) }

// await waits for a group to be led by this node, the only voter.
func (s *Storage) await(ctx context.Context, led <-chan struct{}, what string) error {
	select {
	case <-led:
		return nil
	case <-s.failure.done:
		return s.failure.err
	case <-ctx.Done():
		return dberr.New(dberr.Unavailable, "start %s: %w", what, ctx.Err())
	}
}

// openShards opens as many shards as the cluster was made with.
func (s *Storage) openShards(ctx context.Context) error {
	ids, err := snowflake.New(snowflake.IDEpoch, s.cfg.NodeID, s.cfg.Now)
	if err != nil {
		return err
	}
	s.memory = stream.NewMemory(stream.MemoryConfig{BytesMax: s.cfg.StreamMemoryBytes})
	s.metrics = newMetrics(s)
	_, n := s.catalog.Cluster()
	for id := range n {
		r, err := s.openShard(ctx, id, shardmap.Even(n), ids)
		if r != nil {
			s.shards = append(s.shards, r)
		}
		if err != nil {
			return err
		}
	}
	for _, r := range s.shards {
		if err := s.await(ctx, r.led, fmt.Sprintf("shard %d", r.shard.ID())); err != nil {
			return err
		}
	}
	s.memory.Start(ctx)
	return s.metrics.register(s.cfg.Metrics)
}

func (s *Storage) openShard(ctx context.Context, id uint32, shards shardmap.Map, ids *snowflake.Generator) (*replica, error) {
	sh, err := shard.New(shard.Config{ID: id, Shards: shards, DB: s.hot, Tables: s.catalog, Node: s.cfg.NodeID, IDs: ids,
		Now: s.cfg.Now, Rand: s.cfg.Rand, Fail: s.failure.fail, Failed: s.failure.done, Observe: s.metrics.applied, Logger: s.cfg.Logger})
	if err != nil {
		return nil, err
	}
	r := &replica{shard: sh, led: make(chan struct{})}
	r.stream = stream.New(stream.Config{Shard: id, Hub: sh.Hub(), Memory: s.memory, Tables: s.catalog,
		NextSeq: sh.NextSeq, Complete: sh.Complete, Now: s.cfg.Now})
	r.group, err = raftgroup.Open(ctx, raftgroup.Config{Group: firstShardGroup + id, State: sh,
		Log: s.raftLog, Mux: s.mux, FS: s.dir.fs, SpoolDir: s.dir.join("spool"), Settings: s.cfg.raftSettings(), Bootstrap: true,
		OnLead: r.lead, OnFollow: r.follow, Logger: s.cfg.Logger})
	if err != nil {
		return nil, err
	}
	sh.Attach(r.group)
	return r, nil
}

func (r *replica) lead(term uint64) {
	r.shard.Lead(term)
	r.once.Do(func() { close(r.led) })
}

func (r *replica) follow() {
	r.shard.Follow()
	r.stream.Reset() // memory of another leader's time would be neither complete nor new
}

// serve opens the address and starts the background work.
func (s *Storage) serve(ctx context.Context) error {
	scans, err := scan.NewServer(lookup{s}, scan.Config{})
	if err != nil {
		return err
	}
	s.server, err = rpcnet.NewServer(s.net, s.cfg.Addr, rpcnet.ServerOptions{Logger: s.cfg.Logger})
	if err != nil {
		return err
	}
	catalogv1.RegisterCatalogServiceServer(s.server.Registrar(), s.commands)
	storagev1.RegisterStorageServiceServer(s.server.Registrar(), &service{node: s, watches: watch.NewServer(lookup{s})})
	flightv1.RegisterFlightServiceServer(s.server.Registrar(), scans)
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.work.Go(func() { s.purgeDropped(run) })
	s.work.Go(func() { s.pruneChanges(run) })
	s.server.Serve()
	return nil
}

// Stop refuses new requests, lets running ones finish, and closes what Start opened, in reverse. It
// is bounded by ctx; what does not end by then is left to the end of the process.
func (s *Storage) Stop(ctx context.Context) error {
	if s.server != nil {
		s.endWatches()
		s.server.Stop(ctx)
	}
	if s.cancel != nil {
		s.cancel()
		s.work.Wait()
	}
	if s.memory != nil {
		s.memory.Stop()
	}
	if s.metrics != nil {
		s.metrics.unregister()
	}
	err := s.stopGroups(ctx)
	if err != nil || s.failure.failed() {
		// Something still runs, or a store stands still with its locks: closing it could hang or panic.
		return errors.Join(err, s.Err())
	}
	return s.closeStores()
}

func (s *Storage) stopGroups(ctx context.Context) error {
	errs := make([]error, len(s.shards)+1)
	var stopping sync.WaitGroup
	for i, r := range s.shards {
		stopping.Go(func() {
			errs[i] = errors.Join(r.shard.Drain(ctx), r.group.Stop(ctx), r.shard.Close(ctx))
		})
	}
	stopping.Wait()
	if s.catalogGroup != nil {
		errs[len(s.shards)] = s.catalogGroup.Stop(ctx)
	}
	if s.mux != nil {
		s.mux.Close()
	}
	return errors.Join(errs...)
}

func (s *Storage) closeStores() error {
	var errs []error
	if s.catalog != nil {
		errs = append(errs, s.catalog.Close())
	}
	if s.hot != nil {
		errs = append(errs, s.hot.Flush(), s.hot.Close()) // flushed, the next start replays nothing
	}
	if s.raftLog != nil {
		errs = append(errs, s.raftLog.Close())
	}
	if s.dir != nil {
		errs = append(errs, s.dir.close())
	}
	return errors.Join(errs...)
}

// endWatches closes the streams that would otherwise never end by themselves.
func (s *Storage) endWatches() {
	stopping := dberr.New(dberr.Unavailable, "this node is stopping")
	for _, r := range s.shards {
		r.shard.Hub().Close(stopping)
	}
	s.catalog.EndWatches(stopping)
}

// signal is a channel closed once.
type signal struct {
	once sync.Once
	done chan struct{}
}

func newSignal() *signal { return &signal{done: make(chan struct{})} }

func (s *signal) set() { s.once.Do(func() { close(s.done) }) }
