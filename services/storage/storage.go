// Package storage is the storage role: shards, each one a Raft group, and the catalog group; alone or as a
// member of a cluster. See DESIGN.md.
package storage

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sync/semaphore"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/keyring"
	"github.com/kalamdb/kalamdb-go/internal/router"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/directory"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/identity"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/job"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifestfile"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/placement"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftlog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/rendezvous"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/scrub"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/segmentsync"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/storages"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/stream"
)

const (
	// stopAfterFailure bounds the clean-up of a start that failed.
	stopAfterFailure = 10 * time.Second
	// farewellTimeout bounds what a node does for the others before it stops: a last heartbeat, and handing over
	// what it leads. Without it they find out by themselves, an election later.
	farewellTimeout = 3 * time.Second
	// stopAfterDiskFailure bounds stopping a node whose disk failed: what waits for the disk waits for ever, and until the
	// process ends the others believe that this node leads.
	stopAfterDiskFailure = 500 * time.Millisecond
)

// Storage is the role. Make it with New.
type Storage struct {
	cfg     Config
	net     rpcnet.Network
	failure *failure

	dir *dataDir
	hot *pebble.DB
	// hotFiles are the hot store's files.
	hotFiles scrub.Store
	raftLog  *raftlog.DB
	identity identity.Identity
	// process is this run of the program, unlike any other; empty without a node id.
	process string
	meeting *rendezvous.Meeting
	peers   *rpcnet.Pool // for Hello, before there is a router
	mux     *raftgroup.Mux

	catalog      *catalogstate.State
	catalogGroup lateGroup
	commands     *catalogstate.Service
	directory    *directory.Directory
	controller   *placement.Controller
	jobs         *job.Runner
	// views are what backups read.
	views      views
	leadership leadership // of the catalog
	keys       *keyring.Ring

	// segments are the files of the cold tier, cold reads them, manifests lists them for others. segmentCheck asks for a look at
	// what is missing.
	segments     *segmentsync.Sync
	manifests    *manifestfile.Keeper
	cold         *cold.Readers
	segmentCheck chan struct{}
	missing      missing
	// scrubbing lets one user's bytes be removed at a time: stores are rewritten for it.
	scrubbing *semaphore.Weighted
	// restoringUsers bounds the users that are restored at a time.
	restoringUsers *semaphore.Weighted
	// storages are where segments go that are not local.
	storages *storages.Storages

	router   *router.Router
	replicas *replica.Manager
	memory   *stream.Memory
	server   *rpcnet.Server
	gate     *gate
	metrics  *metrics
	reporter reporter

	cancel context.CancelFunc // ends the background work
	work   sync.WaitGroup
}

// New makes the role; Start starts it.
func New(cfg Config, net rpcnet.Network) *Storage {
	return &Storage{cfg: cfg, net: net, segmentCheck: make(chan struct{}, 1), scrubbing: semaphore.NewWeighted(1),
		restoringUsers: semaphore.NewWeighted(restoringUsersMax)}
}

// Name is the role's name.
func (*Storage) Name() string { return "storage" }

// Failed is closed when the disk failed or the node was removed from its cluster; Err says which.
func (s *Storage) Failed() <-chan struct{} { return s.failure.done }

// Err is why the role failed, nil while it has not.
func (s *Storage) Err() error {
	if s.failure.failed() {
		return s.failure.err
	}
	return nil
}

// ServerID is the name of this incarnation of the node; empty before Start.
func (s *Storage) ServerID() string { return s.identity.ServerID }

// Start opens the stores, replays what a crash left, finds or makes the cluster, and returns when the node
// serves: every shard, when it is the only voter.
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

func (s *Storage) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{s.openKeys, s.openStores, s.identify, s.openCatalog, s.refuseTwin, s.serve,
		s.findCluster, s.joinCatalog, s.checkKeys, s.startRouter, s.openReplicas, s.settle} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// background runs f until the node stops.
func (s *Storage) background(ctx context.Context, f func(context.Context)) {
	s.work.Go(func() { f(ctx) })
}

// Stop hands over what this node leads, refuses new requests, lets running ones finish, and closes what Start
// opened, in reverse. It is bounded by ctx; what does not end by then is left to the end of the process.
func (s *Storage) Stop(ctx context.Context) error {
	if s.failure.failed() && s.failure.disk {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, stopAfterDiskFailure)
		defer cancel()
	}
	if s.gate.isOpen() && !s.failure.failed() {
		s.farewell(ctx)
	}
	if s.controller != nil {
		s.leadership.end()
		s.directory.Stop()
	}
	if s.cancel != nil {
		s.cancel()
		s.work.Wait()
	}
	if s.router != nil {
		s.router.Stop()
	}
	s.views.end()
	if s.server != nil {
		s.gate.close()
		// Calls that wait for a majority that is gone get half of the time: the groups need the rest.
		calls, cancel := half(ctx)
		s.server.Stop(calls)
		cancel()
	}
	if s.memory != nil {
		s.memory.Stop()
	}
	if s.metrics != nil {
		s.metrics.unregister()
	}
	err := s.stopGroups(ctx)
	if s.peers != nil {
		s.peers.Close()
	}
	if err != nil || s.failure.failed() && s.failure.disk {
		// Something still runs, or a store stands still with its locks: closing it could hang or panic.
		return errors.Join(err, s.Err())
	}
	return s.closeStores()
}

// half is a context that ends after half of the time that is left.
func half(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(end)/2)
}

// farewell costs the others no election timeout: this node says that it stops, and gives away what it leads.
func (s *Storage) farewell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, farewellTimeout)
	defer cancel()
	groups := []*raftgroup.Group{s.catalogGroup.get()}
	for _, r := range s.replicas.All() {
		groups = append(groups, r.Group)
	}
	others := false
	for _, g := range groups {
		others = others || !g.Alone()
	}
	if !others {
		return // nobody would notice
	}
	s.reporter.stopping.Store(true)
	if err := s.heartbeat(ctx); err != nil {
		s.cfg.Logger.WarnContext(ctx, "say that this node stops", "error", err)
	}
	var handing sync.WaitGroup
	for _, g := range groups {
		handing.Go(func() {
			if err := replica.HandOver(ctx, g); err != nil {
				s.cfg.Logger.WarnContext(ctx, "hand over before stopping; the others will elect", "error", err)
			}
		})
	}
	handing.Wait()
}

func (s *Storage) stopGroups(ctx context.Context) error {
	var errs []error
	if s.replicas != nil {
		errs = append(errs, s.replicas.Close(ctx))
	}
	if g := s.catalogGroup.get(); g != nil {
		errs = append(errs, g.Stop(ctx))
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
	if s.cold != nil {
		s.cold.Close()
	}
	if s.storages != nil {
		errs = append(errs, s.storages.Close())
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

// errStopping is the reason streams end with when the node stops.
var errStopping = dberr.New(dberr.Unavailable, "this node is stopping")
