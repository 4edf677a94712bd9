// Package raftgroup runs Raft groups on hashicorp/raft: one Group per shard and one for the catalog,
// all of a node over one listener (Mux) and one log store.
//
// The state of a group lives on disk by itself (Pebble, bbolt) and remembers its applied index, so
// Raft never restores a local snapshot: a snapshot only says up to where the log may be truncated.
package raftgroup

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftlog"
)

// Settings are a group's timings and thresholds. Zero fields take the defaults.
type Settings struct {
	// HeartbeatTimeout and ElectionTimeout: how long a follower waits. Below about 300 ms a busy
	// two-core machine holds elections for no reason.
	HeartbeatTimeout time.Duration
	ElectionTimeout  time.Duration
	// LeaderLeaseTimeout: a leader that reaches no majority steps down after it.
	LeaderLeaseTimeout time.Duration
	// CommitTimeout is after how long without a write followers hear what is committed: a read on a follower may wait
	// for it. Raft takes between once and twice of it.
	CommitTimeout time.Duration
	// SnapshotInterval is how often the thresholds are checked: entries since the last snapshot, or
	// their bytes. They bound what a restart replays.
	SnapshotInterval  time.Duration
	SnapshotThreshold uint64
	SnapshotBytes     int64
	// TrailingLogs are kept after a snapshot, so that a replica shortly away needs no snapshot.
	TrailingLogs uint64
}

func (s Settings) withDefaults() Settings {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&s.HeartbeatTimeout, 400*time.Millisecond)
	set(&s.ElectionTimeout, s.HeartbeatTimeout)
	set(&s.LeaderLeaseTimeout, s.HeartbeatTimeout*2/3)
	set(&s.CommitTimeout, 20*time.Millisecond)
	set(&s.SnapshotInterval, 30*time.Second)
	if s.SnapshotThreshold == 0 {
		s.SnapshotThreshold = 32_768
	}
	if s.SnapshotBytes == 0 {
		s.SnapshotBytes = 256 << 20
	}
	if s.TrailingLogs == 0 {
		s.TrailingLogs = 2048
	}
	return s
}

const (
	// ApplyQueueMax is how many commands may be on their way into the log at once; it is also how many
	// one fsync commits at most. hashicorp/raft allows 1,024.
	ApplyQueueMax = 1024
	// trailingMin entries at least are kept after a snapshot, however large: as many as are on their way to a
	// replica that keeps up.
	trailingMin = 64
	// transportTimeout bounds one exchange with a peer, and connsPerPeer the idle connections kept.
	transportTimeout = 10 * time.Second
	connsPerPeer     = 3
	// leadRetryPause keeps a leader whose barrier is refused (a transfer is under way) from spinning.
	leadRetryPause = 10 * time.Millisecond
	// leadershipEvents buffers notices of leadership won and lost: Raft's main loop waits when full.
	leadershipEvents = 16
)

// Config describes one group.
type Config struct {
	// Group is the number on the wire and in the log store.
	Group uint32
	State State
	Log   *raftlog.DB
	// Mux also says which server this is.
	Mux      *Mux
	FS       vfs.FS // for snapshot files; nil means the real one
	SpoolDir string
	Settings Settings
	// Bootstrap makes a new group with this node as its only voter; without it a new replica waits to
	// be added.
	Bootstrap bool
	// OnLead is called when this node leads in a term and has applied everything committed before;
	// OnFollow when it no longer does. They are called in turn, from one goroutine.
	OnLead   func(term uint64)
	OnFollow func()
	Logger   *slog.Logger
}

// Group is one running replica.
type Group struct {
	cfg       Config
	raft      *raft.Raft
	snapshots *snapshots
	transport *raft.NetworkTransport
	peers     *transport                // transport as Raft sees it
	handing   atomic.Int32              // calls of handOver under way
	layer     *layer                    // what transport runs on
	started   atomic.Pointer[raft.Raft] // raft, for what may run before it is set
	log       *logCache
	stall     *stall

	// term is the term this node serves as leader, 0 otherwise.
	term    atomic.Uint64
	changes atomic.Uint64 // of the configuration, made by this node as leader

	verify verifier
	// cutting is held by snapshot and Cut, which change how much of the log a snapshot leaves.
	cutting sync.Mutex

	// spawning orders spawn against Stop, which waits for work.
	spawning sync.Mutex
	stop     chan struct{}
	once     sync.Once
	work     sync.WaitGroup
}

// Open starts the replica. ctx bounds the start only.
func Open(ctx context.Context, cfg Config) (*Group, error) {
	cfg.Settings = cfg.Settings.withDefaults()
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	store, err := cfg.Log.Group(cfg.Group)
	if err != nil {
		return nil, err
	}
	snaps, err := openSnapshots(cfg.Group, store, cfg.FS, cfg.SpoolDir, cfg.State)
	if err != nil {
		return nil, err
	}
	if err := snaps.repair(); err != nil {
		return nil, err
	}
	g := &Group{cfg: cfg, snapshots: snaps, stop: make(chan struct{})}
	notices := make(chan bool, leadershipEvents)
	if err := g.startRaft(context.WithoutCancel(ctx), store, notices); err != nil {
		return nil, err
	}
	g.work.Go(func() { g.followLeadership(notices) })
	g.work.Go(func() { g.peers.receive(g.stop) })
	g.work.Go(g.watchLogBytes)
	g.work.Go(g.watchHangUps)
	g.electAlone()
	return g, nil
}

func (g *Group) startRaft(ctx context.Context, store *raftlog.Store, notices chan<- bool) error {
	s, logger := g.cfg.Settings, newLogger(ctx, g.cfg.Logger.With("group", g.cfg.Group), g.stopping)
	conf := raft.DefaultConfig()
	conf.LocalID = g.self()
	conf.HeartbeatTimeout, conf.ElectionTimeout = s.HeartbeatTimeout, s.ElectionTimeout
	conf.LeaderLeaseTimeout, conf.CommitTimeout = s.LeaderLeaseTimeout, s.CommitTimeout
	conf.MaxAppendEntries, conf.BatchApplyCh = ApplyQueueMax, true
	conf.SnapshotInterval, conf.SnapshotThreshold = s.SnapshotInterval, s.SnapshotThreshold
	conf.TrailingLogs = s.TrailingLogs
	conf.NoSnapshotRestoreOnStart = true
	conf.NoLegacyTelemetry = true
	// A replica that was away asks first whether it could win, so that coming back ends nobody's leadership.
	conf.PreVoteDisabled = false
	// A leader that is taken out follows: who opened the replica closes it.
	conf.ShutdownOnRemove = false
	conf.NotifyCh = notices
	conf.Logger = logger

	g.stall = newStall()
	g.log = newLogCache(&timedLog{store, g.stall}, s.SnapshotBytes)
	g.layer = g.cfg.Mux.layer(g.cfg.Group)
	g.transport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Logger: logger, Stream: g.layer,
		ServerAddressProvider: g.layer, MaxPool: connsPerPeer, Timeout: transportTimeout, MsgpackUseNewTimeFormat: true})
	g.peers = &transport{NetworkTransport: g.transport, stall: g.stall, received: make(chan raft.RPC), replicates: g.replicates, compacted: g.compacted, closed: g.layer.done, handOver: s.ElectionTimeout}
	var err error
	if g.cfg.Bootstrap {
		err = g.bootstrap(conf, g.log, store)
	}
	if err == nil {
		g.raft, err = raft.NewRaft(conf, &fsm{state: g.cfg.State, snapshots: g.snapshots}, g.log, store, g.snapshots,
			g.peers)
		g.started.Store(g.raft)
	}
	if err != nil {
		return dberr.New(dberr.Unavailable, "start group %d: %w", g.cfg.Group, errors.Join(err, g.transport.Close()))
	}
	return nil
}

func (g *Group) bootstrap(conf *raft.Config, logs raft.LogStore, stable raft.StableStore) error {
	exists, err := raft.HasExistingState(logs, stable, g.snapshots)
	if err != nil || exists {
		return err
	}
	return raft.BootstrapCluster(conf, logs, stable, g.snapshots, g.transport, raft.Configuration{
		Servers: []raft.Server{{ID: conf.LocalID, Address: g.transport.LocalAddr()}}})
}

// replicates reports whether this node still leads in a term and has a server among its peers. While it hands over it
// does not insist: Raft waits for whoever replicates, and takes no writes meanwhile.
func (g *Group) replicates(server raft.ServerID, term uint64) bool {
	r := g.started.Load()
	if r == nil || r.State() != raft.Leader || r.CurrentTerm() != term || g.handing.Load() > 0 {
		return false
	}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.ID == server {
			return true
		}
	}
	return false
}

// compacted reports whether the log no longer holds the entry behind index.
func (g *Group) compacted(index uint64) bool {
	first, err := g.log.FirstIndex()
	return err == nil && first > index+1
}

// electAlone makes the only voter a candidate at once: there is nobody it could disturb, and waiting
// out the heartbeat would be all of its start-up time. If it fails, the timeout does the same later.
func (g *Group) electAlone() {
	if !g.soleVoter() {
		return
	}
	if err := g.electSelf(); err != nil {
		g.cfg.Logger.Warn("elect the only voter at once; its timeout will", "group", g.cfg.Group, "error", err)
	}
}

// electSelf makes this node a candidate, as a leader does that hands over to it.
func (g *Group) electSelf() error {
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(g.self()), Addr: []byte(g.transport.LocalAddr())}
	return g.transport.TimeoutNow(g.self(), g.transport.LocalAddr(),
		&raft.TimeoutNowRequest{RPCHeader: header}, &raft.TimeoutNowResponse{})
}

func (g *Group) self() raft.ServerID { return raft.ServerID(g.cfg.Mux.ServerID()) }

// Alone reports whether this node is the group's only voter.
func (g *Group) Alone() bool { return g.soleVoter() }

// soleVoter reports whether this node alone decides: then nobody else can be leading.
func (g *Group) soleVoter() bool {
	f := g.raft.GetConfiguration()
	if f.Error() != nil {
		return false
	}
	self := false
	for _, s := range f.Configuration().Servers {
		if s.Suffrage == raft.Voter {
			if s.ID != g.self() {
				return false
			}
			self = true
		}
	}
	return self
}

// followLeadership turns Raft's notices into OnLead and OnFollow.
func (g *Group) followLeadership(notices <-chan bool) {
	for {
		select {
		case leads := <-notices:
			g.term.Store(0)
			g.cfg.OnFollow()
			if leads {
				g.lead()
			}
		case <-g.stall.changed:
			g.stalled()
		case <-g.stop:
			g.term.Store(0)
			g.cfg.OnFollow()
			return
		}
	}
}

// lead waits until everything earlier leaders committed is applied here, then serves.
func (g *Group) lead() {
	for g.raft.State() == raft.Leader {
		term := g.raft.CurrentTerm()
		if err := g.await(g.raft.Barrier(0)); err != nil {
			select {
			case <-g.stop:
				return
			case <-time.After(leadRetryPause):
			}
			continue
		}
		if g.raft.State() == raft.Leader && g.raft.CurrentTerm() == term {
			g.term.Store(term)
			g.cfg.OnLead(term)
			return
		}
	}
}

// await waits for a future, but not beyond Stop: Raft leaves some unanswered when it shuts down. The
// helper goroutine then ends with the process.
func (g *Group) await(f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-g.stop:
		return raft.ErrRaftShutdown
	}
}

// spawn runs f unless the group is stopping; Stop waits for it.
func (g *Group) spawn(f func()) bool {
	g.spawning.Lock()
	defer g.spawning.Unlock()
	if g.stopping() {
		return false
	}
	g.work.Go(f)
	return true
}

func (g *Group) stopping() bool {
	select {
	case <-g.stop:
		return true
	default:
		return false
	}
}

// watchLogBytes takes a snapshot when the log grew by SnapshotBytes, on every replica: Raft itself counts only
// entries. One that failed is tried again after SnapshotInterval.
func (g *Group) watchLogBytes() {
	tick := time.NewTicker(g.cfg.Settings.SnapshotInterval)
	defer tick.Stop()
	full := g.log.full
	for {
		select {
		case <-g.stop:
			return
		case <-full:
		case <-tick.C:
			full = g.log.full
		}
		if g.log.bytes.Load() < g.cfg.Settings.SnapshotBytes {
			g.cutting.Lock()
			g.fitTrailing()
			g.cutting.Unlock()
			continue
		}
		if err := g.snapshot(); err != nil && !g.stopping() {
			full = nil // until the next tick
			g.cfg.Logger.Warn("snapshot for the log's size", "group", g.cfg.Group, "error", err)
		}
	}
}

// Snapshot makes the state durable and truncates the log now. It goes on without the caller when ctx ends first.
func (g *Group) Snapshot(ctx context.Context) error {
	done := make(chan error, 1)
	if !g.spawn(func() { done <- g.snapshot() }) { // Raft already takes its time to accept one while another runs
		return g.closing()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return g.failed(ctx.Err(), "snapshot of group %d", g.cfg.Group)
	}
}

func (g *Group) snapshot() error {
	g.cutting.Lock()
	defer g.cutting.Unlock()
	g.fitTrailing()
	return g.takeSnapshot()
}

func (g *Group) takeSnapshot() error {
	bytes, entries := g.log.bytes.Load(), g.log.entries.Load()
	if err := g.await(g.raft.Snapshot()); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return dberr.New(dberr.Unavailable, "snapshot of group %d: %w", g.cfg.Group, err)
	}
	g.log.bytes.Add(-bytes)
	g.log.entries.Add(-entries)
	return nil
}

// fitTrailing lets a snapshot leave no more than about SnapshotBytes of entries, going by their size since the last:
// Raft counts entries here too.
func (g *Group) fitTrailing() {
	bytes, entries := g.log.bytes.Load(), g.log.entries.Load()
	if bytes <= 0 || entries <= 0 {
		return
	}
	conf := g.raft.ReloadableConfig()
	fits := max(trailingMin, uint64(g.cfg.Settings.SnapshotBytes*entries/bytes))
	if fits = min(fits, g.cfg.Settings.TrailingLogs); fits == conf.TrailingLogs {
		return
	}
	conf.TrailingLogs = fits
	if err := g.raft.ReloadConfig(conf); err != nil {
		g.cfg.Logger.Warn("keep fewer entries after a snapshot", "group", g.cfg.Group, "entries", fits, "error", err)
	}
}

// Propose appends a command to the log. Commands get log positions in the order of calls. It does not
// wait; the future is answered once the command is applied, or failed.
func (g *Group) Propose(command []byte) raft.ApplyFuture {
	return g.raft.Apply(command, 0)
}

// Term is the term in which this node serves as leader, 0 when it does not.
func (g *Group) Term() uint64 { return g.term.Load() }

// Leading reports whether Raft believes that this node leads.
func (g *Group) Leading() bool { return g.raft.State() == raft.Leader }

// NotLeader is the error for requests this node cannot serve.
func (g *Group) NotLeader() error {
	addr, id := g.raft.LeaderWithID()
	if addr == "" || id == g.self() {
		return dberr.New(dberr.NotLeader, "group %d has no leader yet", g.cfg.Group)
	}
	return dberr.New(dberr.NotLeader, "group %d is led by %s", g.cfg.Group, id).With(dberr.FieldLeader, string(id))
}

// Stats are a group's figures for metrics.
type Stats struct {
	State               string
	Term                uint64
	LastIndex, Commit   uint64
	Applied, SnapshotAt uint64
	// AppliedRaft counts Raft's own entries too, as LastIndex and Commit do; Applied counts commands.
	AppliedRaft uint64
}

// Stats returns the group's figures.
func (g *Group) Stats() Stats {
	s := Stats{State: g.raft.State().String(), Term: g.raft.CurrentTerm(), LastIndex: g.raft.LastIndex(),
		Commit: g.raft.CommitIndex(), Applied: g.cfg.State.Applied(), AppliedRaft: g.raft.AppliedIndex()}
	g.snapshots.mu.Lock()
	defer g.snapshots.mu.Unlock()
	if g.snapshots.meta != nil {
		s.SnapshotAt = g.snapshots.meta.Index
	}
	return s
}

// Stop ends the replica; no command is applied afterwards. It waits for the entry being stored or
// applied, as long as ctx allows.
func (g *Group) Stop(ctx context.Context) error {
	g.once.Do(func() {
		g.spawning.Lock()
		defer g.spawning.Unlock()
		close(g.stop)
	})
	done := make(chan error, 1)
	go func() {
		ended := g.raft.Shutdown()
		err := errors.Join(g.layer.Close(), ended.Error()) // no exchange with a peer is waited for
		g.work.Wait()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return dberr.New(dberr.Unavailable, "stop group %d: %w", g.cfg.Group, ctx.Err())
	}
}
