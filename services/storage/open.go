package storage

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/google/uuid"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/router"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/directory"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/job"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/placement"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftlog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/scrub"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/stream"
)

const (
	// catalogGroup is group 0; shard n is group replica.FirstShardGroup+n.
	catalogGroup = 0
	// hotFormat is fixed, so that a library upgrade alone never makes a directory unreadable to the
	// version before it.
	hotFormat = pebble.FormatValueSeparation
	// bloomBitsPerKey gives 1 % false positives: most inserts ask for a key that is not there.
	bloomBitsPerKey = 10
	// catalogPollPause is between two looks at a catalog that has not arrived yet.
	catalogPollPause = 50 * time.Millisecond
)

func (s *Storage) openStores(context.Context) (err error) {
	if s.dir, err = openDataDir(s.cfg.FS, s.cfg.Dir); err != nil {
		return err
	}
	log := pebbleLog{store: "raft log", log: s.cfg.Logger, failure: s.failure}
	s.raftLog, err = raftlog.Open(s.dir.join("raft"), raftlog.Options{FS: s.dir.fs, MemTableBytes: s.cfg.LogMemTableBytes,
		Logger: log, Events: s.failure.listener("raft log")})
	if err != nil {
		return err
	}
	if err := s.openHot(); err != nil {
		return err
	}
	return s.openSegments()
}

// openHot opens the hot store. Its write-ahead log is the Raft log.
func (s *Storage) openHot() error {
	cache := pebble.NewCache(s.cfg.CacheBytes)
	defer cache.Unref()
	opt := &pebble.Options{FS: s.dir.fs, Cache: cache, DisableWAL: true, MemTableSize: s.cfg.MemTableBytes,
		MemTableStopWritesThreshold: memTablesMax, FormatMajorVersion: hotFormat,
		Logger: pebbleLog{store: "hot", log: s.cfg.Logger, failure: s.failure}, EventListener: s.failure.listener("hot"),
		MaxManifestFileSize: 1} // then scrub.Store can have the list of tables written anew; at most half of what it writes is lists
	for i := range opt.Levels {
		opt.Levels[i].FilterPolicy = bloom.FilterPolicy(bloomBitsPerKey)
	}
	db, err := pebble.Open(s.dir.join("hot"), opt)
	if err != nil {
		return dberr.New(dberr.Unavailable, "open the hot store: %w", err)
	}
	s.hot, s.hotFiles = db, scrub.Store{DB: db, FS: s.dir.fs, Dir: s.dir.join("hot"), Scratch: keycodec.ScratchKey()}
	return nil
}

// openCatalog opens the catalog's state and all that answers for it. Its group comes later.
func (s *Storage) openCatalog(context.Context) (err error) {
	s.catalog, err = catalogstate.Open(catalogstate.Config{Path: joinReal(s.dir.catalogDir, "catalog.db"),
		Fail: s.failure.fail, Logger: s.cfg.Logger})
	if err != nil {
		return err
	}
	s.mux, err = raftgroup.Listen(s.net, s.cfg.RaftAddr, s.identity.ServerID, addressBook{s}, s.cfg.Logger)
	if err != nil {
		return err
	}
	s.commands = catalogstate.NewService(s.catalog, &s.catalogGroup, s.cfg.Now, s.failure.done)
	s.commands.Storages = storageAdmin{s}
	s.directory = directory.New(directory.Config{Catalog: s.catalog, Commands: s.commands, Group: &s.catalogGroup,
		Self: s.ServerID, Now: s.cfg.Steady, HeartbeatInterval: time.Duration(s.cfg.HeartbeatInterval),
		OfflineAfter: time.Duration(s.cfg.OfflineAfter), Ask: s.ask, Logger: s.cfg.Logger})
	s.controller = placement.New(placement.Config{Catalog: s.catalog, Commands: s.commands, Heard: s.directory, Members: members{s},
		Now: s.cfg.Steady, OfflineAfter: time.Duration(s.cfg.OfflineAfter), ReplaceAfter: time.Duration(s.cfg.ReplaceAfter), Logger: s.cfg.Logger})
	s.jobs = job.New(job.Config{Catalog: s.catalog, Commands: s.commands, Flush: s.flushShard, Compact: s.compactShard, Move: s.moveShard,
		Whole: map[string]job.Whole{catalog.JobBackup: s.backup, catalog.JobRestore: s.restore, catalog.JobRestoreUser: s.restoreUser},
		Users: job.Users{Survey: s.surveyUser, Erase: s.eraseUser, Scrub: s.scrubUser, Keys: backupKeys{s}}, NodeID: uint32(s.identity.NodeID),
		Now: s.cfg.Now, Logger: s.cfg.Logger})
	s.leadership.offices = []office{s.controller, s.jobs, &rewrapping{node: s}}
	return nil
}

// joinCatalog opens group 0 and returns when this node has the catalog: at once when it was here before, and
// otherwise when it has made it or the others have sent it.
func (s *Storage) joinCatalog(ctx context.Context) error {
	settings := s.cfg.raftSettings()
	if s.dir.temporary { // the log is all there will be after a restart: keep it whole
		settings.SnapshotThreshold, settings.SnapshotBytes = math.MaxUint64, math.MaxInt64
	}
	leads := newSignal()
	lead := func(uint64) {
		leads.set()
		s.leadership.lead(ctx)
	}
	group, err := raftgroup.Open(ctx, raftgroup.Config{Group: catalogGroup, State: s.catalog, Log: s.raftLog, Mux: s.mux,
		FS: s.dir.fs, SpoolDir: s.dir.join("spool"), Settings: settings, Bootstrap: s.identity.Founder,
		OnLead: lead, OnFollow: s.leadership.follow, Logger: s.cfg.Logger})
	if err != nil {
		return err
	}
	s.catalogGroup.set(group)
	s.gate.catalog.Store(true)
	if group.Alone() {
		if err := s.await(ctx, leads.done, "the catalog"); err != nil {
			return err
		}
		return s.initCluster(ctx)
	}
	return s.awaitCatalog(ctx)
}

// initCluster makes the cluster's first entry. A catalog from before there were nodes gets this one.
func (s *Storage) initCluster(ctx context.Context) error {
	if id, _ := s.catalog.Cluster(); id != "" && len(s.catalog.Nodes()) > 0 {
		return nil
	}
	id := s.identity.ClusterID
	if id == "" {
		id = uuid.NewString()
	}
	_, err := s.commands.Apply(ctx, &catalogv1.ApplyRequest{Command: &catalogv1.Command{Command: &catalogv1.Command_InitCluster{
		InitCluster: &catalogv1.InitCluster{ClusterId: id, Shards: s.cfg.Shards, ReplicationFactor: s.cfg.ReplicationFactor, Node: s.node()}}}})
	return err
}

// awaitCatalog returns when the others have sent the catalog, at least as it is known elsewhere.
func (s *Storage) awaitCatalog(ctx context.Context) error {
	if id, _ := s.catalog.Cluster(); id == "" {
		if err := s.startRouter(ctx); err != nil {
			return err
		}
		defer s.reportMeanwhile(ctx)()
	}
	for {
		moved := s.catalog.Moved()
		if id, _ := s.catalog.Cluster(); id != "" {
			break
		}
		select {
		case <-moved:
		case <-time.After(catalogPollPause): // a snapshot moves nothing
		case <-s.failure.done:
			return s.failure.err
		case <-ctx.Done():
			return dberr.New(dberr.Unavailable, "wait for the catalog from the other nodes: %w", ctx.Err())
		}
	}
	if s.router == nil {
		return nil // it was here before
	}
	return s.catalog.WaitVersion(ctx, s.router.View().State().Version)
}

// node is this node as it registers.
func (s *Storage) node() *catalogv1.Node {
	return &catalogv1.Node{NodeId: uint32(s.identity.NodeID), Role: s.cfg.Role, ServerId: s.identity.ServerID,
		RpcAddr: s.cfg.AdvertiseAddr, RaftAddr: s.cfg.RaftAdvertiseAddr, Zone: s.cfg.Zone, Version: s.cfg.Version,
		Status: catalogv1.NodeStatus_NODE_STATUS_ACTIVE, Format: entryFormat, Process: s.process}
}

// entryFormat is the newest version of the catalog's commands and of the shards' entries that this program reads. They
// are numbered together: what raises one raises the number for both.
const entryFormat = max(catalogstate.Format, command.Newest)

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

// startRouter starts what finds the other nodes, unless joining did.
func (s *Storage) startRouter(ctx context.Context) error {
	if s.router != nil {
		return nil
	}
	return s.route(ctx, s.cfg.Join)
}

func (s *Storage) route(ctx context.Context, seeds []string) error {
	r := router.New(router.Config{Network: s.net, Seeds: append([]string{s.cfg.AdvertiseAddr}, seeds...), Logger: s.cfg.Logger})
	if err := r.Start(ctx); err != nil {
		return err
	}
	s.router = r
	return nil
}

// openReplicas opens the shards that the catalog places here.
func (s *Storage) openReplicas(ctx context.Context) (err error) {
	s.memory = stream.NewMemory(stream.MemoryConfig{BytesMax: s.cfg.StreamMemoryBytes})
	s.metrics = newMetrics(s)
	s.segments.Self = s.identity.ServerID
	s.replicas, err = replica.New(replica.Config{NodeID: s.identity.NodeID, Catalog: s.catalog, Hot: s.hot, Cold: s.cold, SegmentRows: s.cfg.SegmentRows, SegmentsChanged: s.segmentsChanged, UseSegments: s.useSegments, Place: s.storages.Place, UseStorages: s.useStorages, UseFormat: s.useFormat, Log: s.raftLog,
		Mux: s.mux, FS: s.dir.fs, SpoolDir: s.dir.join("spool"), Settings: s.cfg.raftSettings(), Memory: s.memory,
		Erasing: s.catalog.Erasing, Found: s.identity.Founder, Confirm: s.confirmCatalog, ReadIndex: s.readIndex, FormatVersion: s.formatVersion,
		Now: s.cfg.Now, Steady: s.cfg.Steady, Rand: s.cfg.Rand, Fail: s.failure.fail, Failed: s.failure.done, Observe: s.metrics.applied, Logger: s.cfg.Logger})
	if err != nil {
		return err
	}
	if err := s.replicas.Open(ctx); err != nil {
		return err
	}
	for _, r := range s.replicas.All() {
		if !r.Group.Alone() {
			continue // others may have to start first
		}
		if err := s.await(ctx, r.Led(), fmt.Sprintf("shard %d", r.Shard.ID())); err != nil {
			return err
		}
	}
	s.memory.Start(ctx)
	return s.metrics.register(s.cfg.Metrics)
}

// formatVersion is the highest version of entries that may be written to shards' logs: what every storage node reads. Segments and what
// came later have to be announced first (useFormat), as only the catalog's own log refuses nodes that are too old for it.
func (s *Storage) formatVersion() uint32 {
	f := s.catalog.ReadByAll(command.Newest)
	if f >= command.VersionSegments {
		f = min(f, max(s.catalog.LogFormat(), command.VersionSegments-1))
	}
	return f
}

// confirmCatalog returns once the local catalog is as new as its leader's.
func (s *Storage) confirmCatalog(ctx context.Context) error {
	resp, err := clusterv1.NewClusterServiceClient(s.router.Catalog()).ReadIndex(ctx, &clusterv1.ReadIndexRequest{Group: catalogGroup})
	if err != nil {
		return err
	}
	return s.catalog.WaitVersion(ctx, resp.GetIndex())
}

// readIndex asks a shard's leader up to where a replica must have applied.
func (s *Storage) readIndex(ctx context.Context, shard uint32) (uint64, error) {
	resp, err := clusterv1.NewClusterServiceClient(s.router.Shard(shard)).ReadIndex(ctx, &clusterv1.ReadIndexRequest{Group: replica.FirstShardGroup + shard})
	return resp.GetIndex(), err
}

// settle ends the start: the node serves, and its background work begins.
func (s *Storage) settle(ctx context.Context) error {
	if err := s.settleIdentity(); err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	if s.cancel != nil { // of the greeting
		greeting := s.cancel
		s.cancel = func() { greeting(); cancel() }
	} else {
		s.cancel = cancel
	}
	s.directory.Start(ctx)
	s.background(run, s.replicas.Follow)
	s.background(run, s.purgeDropped)
	s.background(run, s.cleanUsers)
	s.background(run, s.pruneChanges)
	s.background(run, s.manifests.Run)
	s.background(run, s.keepSegments)
	s.background(run, s.sweepStorages)
	s.background(run, s.flushDue)
	s.background(run, s.relieve)
	s.background(run, s.forgetDeleted)
	s.background(run, s.report)
	s.gate.open()
	s.leadership.begin(ctx)
	return nil
}

// signal is a channel closed once.
type signal struct {
	once sync.Once
	done chan struct{}
}

func newSignal() *signal { return &signal{done: make(chan struct{})} }

func (s *signal) set() { s.once.Do(func() { close(s.done) }) }
