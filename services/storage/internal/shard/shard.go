// Package shard is one shard: a Raft group whose state is rows in the node's hot store.
//
// The leader decides a write before the log (keys, constraints, defaults, _seq) while it holds the
// touched keys reserved; applying an entry afterwards reads nothing. See DESIGN.md of this service.
package shard

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sync/semaphore"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/watch"
)

const (
	// inFlightMax bounds the commands between decision and application. It leaves room in Raft's queue
	// for barriers and purges, so that proposing never blocks.
	inFlightMax = raftgroup.ApplyQueueMax - 24
	// inFlightBytesMax bounds their rows: each is in memory as request, command and batch.
	inFlightBytesMax = 256 << 20
)

// Tables finds the newest version of a table.
type Tables interface {
	Table(id uint32) (*catalog.Table, bool)
}

// Config describes one shard of a node.
type Config struct {
	ID     uint32
	Shards shardmap.Map
	DB     *pebble.DB
	// Cold reads the shard's segments, and has the files that this node writes. ServerID is part of their names.
	Cold     *cold.Readers
	ServerID string
	// SegmentRows is where a flushed segment is full; zero means segment.RowsMax, and more is not possible: apply walks over
	// as many rows.
	SegmentRows int
	// SegmentsChanged is told of each partition whose segments an entry changed, or nil when the state was replaced by a leader's;
	// files may be missing here. It must not wait. nil means nobody.
	SegmentsChanged func(shard uint32, changed []ChangedSegments)
	Tables          Tables
	// Node numbers this node in _seq and SNOWFLAKE_ID().
	Node uint16
	// IDs serve SNOWFLAKE_ID(): one generator for all shards of a node.
	IDs *snowflake.Generator
	Now func() time.Time // nil means time.Now
	// Steady is a clock that does not jump, for the age of what stale reads rely on; nil means Now.
	Steady func() time.Time
	Rand   io.Reader // nil means crypto/rand
	// Fail reports an error after which this node must not go on (the hot store cannot be written);
	// Failed is closed then.
	Fail   func(error)
	Failed <-chan struct{}
	// FormatVersion is the highest version of entries that every storage node reads (see command.Newest); nil
	// means that all read the newest.
	FormatVersion func() uint32
	// UseSegments makes FormatVersion reach command.VersionSegments, if it can: nodes that do not read it are kept out from then on.
	// It is called before the first such entry; nil means that there is nothing to do.
	UseSegments func(ctx context.Context) error
	// Erasing names the job that erases a user, as Tables knows it; "" when none does, and nil means that nobody ever is.
	Erasing func(user string) (job string)
	// Place is where new segments of a partition go; nil means the disks of the replicas. UseStorages keeps nodes out that do not read
	// segments of storages; it is called before the first.
	Place       func(shard uint32, t *catalog.Table, owner string) (cold.Place, error)
	UseStorages func(ctx context.Context) error
	// UseFormat does the same for a version above that.
	UseFormat func(ctx context.Context, version uint32) error
	// WaitVersion returns once Tables has a version of the catalog; nil means that it always has.
	WaitVersion func(ctx context.Context, version uint64) error
	// ReadIndex asks the shard's leader, wherever it is, what Shard.ReadIndex answers there; nil means that
	// only this node can be it.
	ReadIndex func(context.Context) (uint64, error)
	// Observe is told of every batch applied; nil means nobody.
	Observe func(commands, bytes int)
	Logger  *slog.Logger
}

// Shard is one replica of a shard. Make it with New, run it as a raftgroup.State, then Attach the group.
type Shard struct {
	cfg Config
	hub *watch.Hub
	seq *snowflake.Generator

	group atomic.Pointer[raftgroup.Group] // nil until Attach
	term  atomic.Uint64                   // in which this node leads and decides; 0 otherwise

	// The applied state; written by Raft's apply goroutine, read by anybody.
	applied atomic.Pointer[keycodec.Applied]
	// dropped tables; touched by the apply goroutine only.
	dropped map[uint32]bool
	// broken: an entry could not be applied, or a restore did not end. The state then lacks what Raft takes for done.
	broken atomic.Bool

	// pruning orders Prune against the batches of apply: a replica that catches up may apply changes of pruned hours.
	pruning sync.Mutex

	requests requests
	fresh    freshness
	progress progress
	sums     sums
	flushes  flushes
	// segmentChanges tells decisions whether a list of segments is still good.
	segmentChanges segmentChanges
	// unflushed is for the leader only.
	unflushed unflushed
	highest   *highest
	keys      *reservations
	inFlight  *semaphore.Weighted
	// freezes is what a cut is doing with the shard.
	freezes freezes
	bytes   *semaphore.Weighted

	// propose orders _seq and log: both are taken under it. It guards closed. Lock order: propose, waiting.
	propose sync.Mutex
	closed  bool
	// waiting guards pending. It is not propose, as apply must never wait for a proposer.
	waiting sync.Mutex
	pending map[uint64]*Pending // by first _seq
	// failing carries every proposal to answerFailures, which closing ends.
	failing chan proposal
	closing sync.Once
	work    sync.WaitGroup
	// ended is closed by Close. spawning orders spawn against Close, which waits for work.
	ended    chan struct{}
	spawning sync.Mutex
}

// New reads the shard's applied state.
func New(cfg Config) (*Shard, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Steady == nil {
		cfg.Steady = cfg.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	seq, err := snowflake.New(snowflake.SeqEpoch, cfg.Node, cfg.Now)
	if err != nil {
		return nil, err
	}
	tops, err := newHighest()
	if err != nil {
		return nil, err
	}
	s := &Shard{cfg: cfg, seq: seq, highest: tops, requests: requests{flight: map[requestID]*attempt{}}, keys: newReservations(), inFlight: semaphore.NewWeighted(inFlightMax),
		bytes: semaphore.NewWeighted(inFlightBytesMax), pending: map[uint64]*Pending{},
		failing: make(chan proposal, raftgroup.ApplyQueueMax), ended: make(chan struct{})}
	if err := s.load(); err != nil {
		return nil, dberr.New(dberr.CodeOf(err), "open shard %d: %w", cfg.ID, err)
	}
	s.hub = watch.NewHub(cfg.ID, s.Position(), changelog.Log{Reader: cfg.DB, Shard: cfg.ID})
	s.hub.Close(s.NotLeader())
	return s, nil
}

// load reads what apply keeps in memory.
func (s *Shard) load() error {
	a, err := readApplied(s.cfg.DB, s.cfg.ID)
	if err != nil {
		return err
	}
	s.applied.Store(&a)
	s.highest.forget()
	buckets, err := loadRequests(s.cfg.DB, s.cfg.ID)
	if err != nil {
		return err
	}
	s.requests.reload(buckets)
	s.dropped = map[uint32]bool{}
	span := keycodec.PrefixSpan(keycodec.DroppedPrefix(s.cfg.ID))
	it, err := s.cfg.DB.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return readFailed(err)
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var table uint32
		if table, err = keycodec.DecodeDroppedKey(it.Key()); err == nil {
			s.dropped[table] = true
		}
	}
	return errors.Join(err, it.Error(), it.Close())
}

func readApplied(r pebble.Reader, shard uint32) (a keycodec.Applied, err error) {
	v, closer, err := r.Get(keycodec.AppliedKey(shard))
	if errors.Is(err, pebble.ErrNotFound) {
		return a, nil
	}
	if err != nil {
		return a, readFailed(err)
	}
	a, err = keycodec.DecodeApplied(v)
	return a, errors.Join(err, closer.Close())
}

// Attach gives the shard its group and starts it.
func (s *Shard) Attach(g *raftgroup.Group) {
	s.group.Store(g)
	s.work.Go(s.answerFailures)
}

// Lead begins to serve in a term: everything committed before is applied.
func (s *Shard) Lead(term uint64) {
	position := s.Position()
	s.seq.Raise(position)
	s.hub.Open(position)
	s.unflushed.reset()
	s.term.Store(term)
}

// Follow ends serving.
func (s *Shard) Follow() {
	s.term.Store(0)
	s.hub.Close(s.NotLeader())
}

// ID is the shard's number.
func (s *Shard) ID() uint32 { return s.cfg.ID }

// Hub hands out the shard's changes.
func (s *Shard) Hub() *watch.Hub { return s.hub }

// NextSeq returns a new _seq of the shard, for writes that do not pass through its log.
func (s *Shard) NextSeq() uint64 { return s.seq.Next() }

// SeqAhead is how far _seq is ahead of this node's clock: by as much the clock of a former leader was ahead, or
// this one's is behind. Changes and remembered requests are kept for longer until the clock has caught up.
func (s *Shard) SeqAhead() time.Duration { return s.seq.Ahead() }

// Leads reports whether this node serves the shard.
func (s *Shard) Leads() bool { return s.term.Load() != 0 }

// NotLeader is the error for requests this node cannot serve; its field leader names who can, if known.
func (s *Shard) NotLeader() error {
	if g := s.group.Load(); g != nil {
		return g.NotLeader()
	}
	return dberr.New(dberr.NotLeader, "shard %d has no leader yet", s.cfg.ID)
}

// ReadBarrier returns once reading the local state is linearizable.
func (s *Shard) ReadBarrier(ctx context.Context) error {
	if err := s.checkServing(); err != nil {
		return err
	}
	return s.group.Load().ReadBarrier(ctx)
}

func (s *Shard) notFailed() error {
	select {
	case <-s.cfg.Failed:
		return errFailed
	default:
		return nil
	}
}

func (s *Shard) checkServing() error {
	if err := s.notFailed(); err != nil {
		return err
	}
	if s.term.Load() == 0 || s.group.Load() == nil {
		return s.NotLeader()
	}
	return nil
}

// catalogWaitMax bounds how long a request waits for the catalog it was bound to: this node is then so far
// behind that another may serve it better.
const catalogWaitMax = 5 * time.Second

// WaitCatalog returns once the local catalog has a version: what a request was bound to. Zero needs no wait.
func (s *Shard) WaitCatalog(ctx context.Context, version uint64) error {
	if version == 0 || s.cfg.WaitVersion == nil {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, catalogWaitMax)
	defer cancel()
	err := s.cfg.WaitVersion(wait, version)
	if err != nil && ctx.Err() == nil {
		return dberr.New(dberr.Unavailable, "this node's catalog is behind (catalogWaitMax): %w", err)
	}
	return err
}

var errFailed = dberr.New(dberr.Unavailable, "this node's disk failed; see its log")

// NewSnapshot returns the state as of now; its position is what AppliedKey holds in it.
func (s *Shard) NewSnapshot() *pebble.Snapshot { return s.cfg.DB.NewSnapshot() }

// Position is the highest _seq applied.
func (s *Shard) Position() uint64 { return s.applied.Load().Seq }

// Prune drops the change log before a point in time. Replicas prune by their own clocks.
func (s *Shard) Prune(before time.Time) (bool, error) {
	s.pruning.Lock()
	defer s.pruning.Unlock()
	return changelog.Prune(s.cfg.DB, s.cfg.ID, changelog.BucketAt(before))
}

// Drain refuses new writes and waits for those on their way. Call it before the group stops: Raft
// leaves proposals unanswered that it had not looked at when it shut down.
func (s *Shard) Drain(ctx context.Context) error {
	s.Follow()
	err := s.inFlight.Acquire(ctx, inFlightMax)
	if err == nil {
		s.inFlight.Release(inFlightMax)
	}
	s.propose.Lock()
	defer s.propose.Unlock()
	s.closed = true
	if err != nil {
		return dberr.New(dberr.Unavailable, "stop shard %d: writes are still on their way: %w", s.cfg.ID, err)
	}
	return nil
}

// Close ends the shard after its group has stopped.
func (s *Shard) Close(ctx context.Context) error {
	s.closing.Do(func() {
		s.propose.Lock()
		defer s.propose.Unlock()
		s.closed = true
		close(s.failing)
		s.spawning.Lock()
		defer s.spawning.Unlock()
		close(s.ended)
	})
	done := make(chan struct{})
	go func() { s.work.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return dberr.New(dberr.Unavailable, "stop shard %d: %w", s.cfg.ID, ctx.Err())
	}
}

// spawn runs f unless the shard is closed; Close waits for it, and f should watch s.ended.
func (s *Shard) spawn(f func()) bool {
	s.spawning.Lock()
	defer s.spawning.Unlock()
	select {
	case <-s.ended:
		return false
	default:
	}
	s.work.Go(f)
	return true
}
