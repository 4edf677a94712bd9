package replica

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftlog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/shard"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/stream"
)

const (
	// retryPause is the pause after a step that failed.
	retryPause = time.Second
	// closeTimeout bounds closing one replica that was taken away: its group then still runs, and the node
	// tries again.
	closeTimeout = 30 * time.Second
)

// Catalog is this node's copy of the catalog.
type Catalog interface {
	shard.Tables
	// Cluster is the number of shards, 0 while there is no cluster.
	Cluster() (id string, shards uint32)
	Placements() []*catalogv1.Placement
	// Moved returns a channel that is closed by the next change.
	Moved() <-chan struct{}
	WaitVersion(ctx context.Context, version uint64) error
}

// Config of a Manager.
type Config struct {
	NodeID  uint16
	Catalog Catalog
	Hot     *pebble.DB
	// Cold reads segments; SegmentRows, UseSegments and SegmentsChanged as in shard.Config.
	Cold        *cold.Readers
	SegmentRows int
	UseSegments func(ctx context.Context) error
	// Place and UseStorages as in shard.Config.
	Place       func(shard uint32, t *catalog.Table, owner string) (cold.Place, error)
	UseStorages func(ctx context.Context) error
	// UseFormat as in shard.Config.
	UseFormat       func(ctx context.Context, version uint32) error
	SegmentsChanged func(shard uint32, changed []shard.ChangedSegments)
	Log             *raftlog.DB
	Mux             *raftgroup.Mux
	FS              vfs.FS
	SpoolDir        string
	Settings        raftgroup.Settings
	Memory          *stream.Memory
	// Found makes groups that do not exist: this node makes the cluster.
	Found bool
	// Confirm returns once the local catalog holds everything any leader had committed when it was called. Data is
	// removed only after it.
	Confirm func(context.Context) error
	// ReadIndex asks the leader of a shard, wherever it is.
	ReadIndex func(ctx context.Context, shard uint32) (uint64, error)
	// Erasing as in shard.Config.
	Erasing func(user string) (job string)
	// FormatVersion is the highest version of entries every storage node reads.
	FormatVersion func() uint32

	Now     func() time.Time
	Steady  func() time.Time
	Rand    io.Reader
	Fail    func(error)
	Failed  <-chan struct{}
	Observe func(commands, bytes int)
	Logger  *slog.Logger
}

// Manager holds the node's replicas. Make it with New, then Open once and Follow.
type Manager struct {
	cfg Config
	ids *snowflake.Generator

	// changing orders Open, Follow's steps and Close.
	changing  sync.Mutex
	closed    bool
	confirmed bool
	// replicas is replaced by each change, so that requests find theirs without a lock.
	replicas atomic.Pointer[map[uint32]*Replica]

	opened, destroyed atomic.Uint64
}

// New makes a manager without replicas.
func New(cfg Config) (*Manager, error) {
	ids, err := snowflake.New(snowflake.IDEpoch, cfg.NodeID, cfg.Now)
	if err != nil {
		return nil, err
	}
	m := &Manager{cfg: cfg, ids: ids}
	m.replicas.Store(&map[uint32]*Replica{})
	return m, nil
}

// Get finds the replica of a shard.
func (m *Manager) Get(shard uint32) (*Replica, bool) {
	r, ok := (*m.replicas.Load())[shard]
	return r, ok
}

// All lists the replicas in order of their shards.
func (m *Manager) All() []*Replica {
	held := *m.replicas.Load()
	out := make([]*Replica, 0, len(held))
	for _, id := range slices.Sorted(maps.Keys(held)) {
		out = append(out, held[id])
	}
	return out
}

// Counts are how many replicas were opened and destroyed since the start.
func (m *Manager) Counts() (opened, destroyed uint64) { return m.opened.Load(), m.destroyed.Load() }

// Open finishes removals a crash interrupted and opens every replica the local catalog places here.
func (m *Manager) Open(ctx context.Context) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	doomed, err := m.cfg.Log.Doomed()
	if err != nil {
		return err
	}
	for _, group := range doomed {
		if err := m.destroy(group); err != nil {
			return err
		}
	}
	return m.openPlaced(ctx)
}

// openPlaced opens what is placed here and not open. changing is held.
func (m *Manager) openPlaced(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(m.placed())) {
		if _, open := m.Get(id); open {
			continue
		}
		if err := m.open(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// placed are the shards the local catalog places on this server. A cluster without placements has one node only.
func (m *Manager) placed() map[uint32]bool {
	shards := map[uint32]bool{}
	placements := m.cfg.Catalog.Placements()
	if len(placements) == 0 {
		_, n := m.cfg.Catalog.Cluster()
		for id := range n {
			shards[id] = true
		}
		return shards
	}
	for _, p := range placements {
		if p.GetGroup() < FirstShardGroup {
			continue
		}
		for _, r := range p.GetReplicas() {
			if r.GetServerId() == m.cfg.Mux.ServerID() {
				shards[p.GetGroup()-FirstShardGroup] = true
			}
		}
	}
	return shards
}

func (m *Manager) open(ctx context.Context, id uint32) error {
	_, n := m.cfg.Catalog.Cluster()
	sh, err := shard.New(shard.Config{ID: id, Shards: shardmap.Even(n), DB: m.cfg.Hot, Cold: m.cfg.Cold, SegmentRows: m.cfg.SegmentRows, UseSegments: m.cfg.UseSegments, Place: m.cfg.Place, UseStorages: m.cfg.UseStorages, UseFormat: m.cfg.UseFormat, ServerID: m.cfg.Mux.ServerID(), SegmentsChanged: m.cfg.SegmentsChanged, Tables: m.cfg.Catalog, Node: m.cfg.NodeID,
		IDs: m.ids, Now: m.cfg.Now, Steady: m.cfg.Steady, Rand: m.cfg.Rand, Fail: m.cfg.Fail, Failed: m.cfg.Failed, FormatVersion: m.cfg.FormatVersion, Erasing: m.cfg.Erasing,
		WaitVersion: m.cfg.Catalog.WaitVersion, Observe: m.cfg.Observe, Logger: m.cfg.Logger,
		ReadIndex: func(ctx context.Context) (uint64, error) { return m.cfg.ReadIndex(ctx, id) }})
	if err != nil {
		return err
	}
	r := &Replica{Shard: sh, led: make(chan struct{})}
	r.Stream = stream.New(stream.Config{Shard: id, Hub: sh.Hub(), Memory: m.cfg.Memory, Tables: m.cfg.Catalog,
		NextSeq: sh.NextSeq, Applied: sh.Position, Complete: sh.Complete, Now: m.cfg.Now,
		Open: func(user string) error { return shard.CheckOpen(user, m.cfg.Erasing(user)) }})
	r.Group, err = raftgroup.Open(ctx, raftgroup.Config{Group: FirstShardGroup + id, State: sh, Log: m.cfg.Log, Mux: m.cfg.Mux,
		FS: m.cfg.FS, SpoolDir: m.cfg.SpoolDir, Settings: m.cfg.Settings, Bootstrap: m.cfg.Found,
		OnLead: r.lead, OnFollow: r.follow, Logger: m.cfg.Logger})
	if err != nil {
		return err
	}
	sh.Attach(r.Group)
	m.put(id, r)
	m.opened.Add(1)
	return nil
}

// put replaces the map by one with, or (nil) without, a replica. changing is held.
func (m *Manager) put(id uint32, r *Replica) {
	held := maps.Clone(*m.replicas.Load())
	delete(held, id)
	if r != nil {
		held[id] = r
	}
	m.replicas.Store(&held)
}

// Follow opens and removes replicas as the catalog changes, until ctx ends.
func (m *Manager) Follow(ctx context.Context) {
	for {
		moved := m.cfg.Catalog.Moved()
		var again <-chan time.Time
		if err := m.reconcile(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			m.cfg.Logger.WarnContext(ctx, "move the replicas of this node", "error", err)
			again = time.After(retryPause)
		}
		select {
		case <-moved:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

func (m *Manager) reconcile(ctx context.Context) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	if m.closed {
		return nil
	}
	return errors.Join(m.openPlaced(ctx), m.removeOthers(ctx))
}

// removeOthers closes and destroys what is not placed here. changing is held.
func (m *Manager) removeOthers(ctx context.Context) error {
	if others, err := m.others(); err != nil || len(others) == 0 && m.confirmed {
		return err
	}
	if !m.confirmed {
		// A copy of the catalog that is behind might lack a placement that this node had. Later it only moves on.
		if err := m.cfg.Confirm(ctx); err != nil {
			return dberr.New(dberr.CodeOf(err), "ask whether replicas may be removed: %w", err)
		}
		m.confirmed = true
	}
	others, err := m.others() // as the confirmed catalog says
	if err != nil {
		return err
	}
	for _, group := range others {
		if err := m.remove(ctx, group); err != nil {
			return err
		}
	}
	return nil
}

// others are groups this node has and should not.
func (m *Manager) others() ([]uint32, error) {
	placed := m.placed()
	groups, err := m.cfg.Log.Groups()
	if err != nil {
		return nil, err
	}
	for id := range *m.replicas.Load() { // a new one may have stored nothing yet
		groups = append(groups, FirstShardGroup+id)
	}
	slices.Sort(groups)
	return slices.DeleteFunc(slices.Compact(groups), func(g uint32) bool { return g < FirstShardGroup || placed[g-FirstShardGroup] }), nil
}

func (m *Manager) remove(ctx context.Context, group uint32) error {
	if r, open := m.Get(group - FirstShardGroup); open {
		ctx, cancel := context.WithTimeout(ctx, closeTimeout)
		defer cancel()
		r.EndWatches(r.Shard.NotLeader())
		if err := r.close(ctx); err != nil {
			return err
		}
		m.put(group-FirstShardGroup, nil)
	}
	if err := m.destroy(group); err != nil {
		return err
	}
	m.destroyed.Add(1)
	m.cfg.Logger.InfoContext(ctx, "a replica was taken from this node and removed", "group", group)
	return nil
}

// destroy removes what a closed group left, durably.
func (m *Manager) destroy(group uint32) error {
	return raftgroup.Destroy(m.cfg.Log, m.cfg.FS, m.cfg.SpoolDir, group, func() error {
		return shard.Destroy(m.cfg.Hot, group-FirstShardGroup)
	})
}

// Close closes all replicas at once, as far as ctx allows. Follow must have ended.
func (m *Manager) Close(ctx context.Context) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	m.closed = true
	all := m.All()
	errs := make([]error, len(all))
	var closing sync.WaitGroup
	for i, r := range all {
		closing.Go(func() { errs[i] = r.close(ctx) })
	}
	closing.Wait()
	return errors.Join(errs...)
}
