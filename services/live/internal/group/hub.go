// Package group is the heart of the live role: it knows which subscriptions follow which partition,
// and hands every change to those it concerns. Subscriptions of one partition with equal filter,
// projection and encoding form a group, which evaluates and encodes a change once.
//
// Locks, in the order in which they are taken: Hub.mu, Partition.mu, then the leaves (Stream.mu,
// Hub.startMu, the feed's and the outboxes'). A partition's mutex guards all that changes in its
// subscriptions.
package group

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/feed"
	"github.com/kalamdb/kalamdb-go/services/live/internal/match"
	"github.com/kalamdb/kalamdb-go/services/live/internal/outbox"
	"github.com/kalamdb/kalamdb-go/services/live/internal/snapshot"
	"github.com/kalamdb/kalamdb-go/services/live/internal/subscription"
)

// Config is what a Hub needs. All fields must be set.
type Config struct {
	Log *slog.Logger
	Now func() time.Time
	// SubscriptionsMax bounds the subscriptions of this node.
	SubscriptionsMax int
	// Outbox bounds what waits for one gateway.
	Outbox outbox.Limits
	// Buffer bounds the changes that wait for one snapshot, BufferBytes those of the node.
	Buffer      subscription.Limits
	BufferBytes int
	// PageRows is how many rows of a snapshot one scan reads.
	PageRows int
	// PageTimeout bounds one scan.
	PageTimeout time.Duration
	// OpenTimeout is how long a subscription waits for storage to start its watch.
	OpenTimeout time.Duration
	// ProgressEvery is the least time between two bookmarks for a subscription.
	ProgressEvery time.Duration
}

// Pages reads snapshots.
type Pages interface {
	Read(ctx context.Context, req snapshot.Request) (*snapshot.Page, error)
}

// Hub is all subscriptions of a live node. Make it with New, then Start.
type Hub struct {
	cfg    Config
	feed   *feed.Feed
	pages  Pages
	shapes *match.Cache
	budget budget
	counts Counts
	groups atomic.Int64

	mu         sync.Mutex
	partitions map[uint32]map[feed.Partition]*Partition // by shard
	users      map[string]*Subscription                 // first of each user's list
	streams    map[*Stream]struct{}
	count      int

	stopped atomic.Bool
	// refusing: the node drains.
	refusing atomic.Bool

	// startMu guards starting: subscriptions that wait for storage, or read its change log.
	startMu  sync.Mutex
	starting map[*Subscription]struct{}

	// spawnMu guards spawning against Stop's wait.
	spawnMu  sync.Mutex
	draining bool
	loads    sync.WaitGroup

	// told is when bookmarks were last sent for a shard.
	toldMu sync.Mutex
	told   map[uint32]time.Time

	stop context.CancelFunc
	done sync.WaitGroup
}

// Counts are totals since the start.
type Counts struct {
	Changes   atomic.Uint64 // read from storage, per partition
	Matched   atomic.Uint64 // per group
	Delivered atomic.Uint64 // messages put into outboxes
	Lagged    atomic.Uint64
	Resumed   atomic.Uint64
	Reset     atomic.Uint64 // asked to resume at a position that was gone
	Reread    atomic.Uint64 // snapshots whose buffer was given up
}

// New makes a hub that reads changes from the leaders of the shards, and snapshots through pages.
func New(cfg Config, routes feed.Routes, pages Pages) *Hub {
	h := &Hub{cfg: cfg, pages: pages, shapes: match.NewCache(),
		partitions: map[uint32]map[feed.Partition]*Partition{}, users: map[string]*Subscription{},
		streams: map[*Stream]struct{}{}, starting: map[*Subscription]struct{}{}, told: map[uint32]time.Time{}}
	h.budget.left.Store(int64(cfg.BufferBytes))
	h.feed = feed.New(routes, feed.Config{Log: cfg.Log, Progress: h.progress})
	return h
}

// Start begins to follow storage.
func (h *Hub) Start(ctx context.Context) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h.stop = cancel
	h.feed.Start(ctx)
	h.done.Go(func() { h.expire(run) })
}

// Stop ends all subscriptions as Unavailable, each with the position to resume from elsewhere, and
// takes no new ones. The outboxes are closed: they end when these last messages were sent.
func (h *Hub) Stop() {
	h.stopped.Store(true)
	for _, s := range h.all() {
		s.End(dberr.Unavailable, movedText)
	}
	h.spawnMu.Lock()
	h.draining = true
	h.spawnMu.Unlock()
	if h.stop != nil {
		h.stop()
	}
	h.loads.Wait()
	h.done.Wait()
	h.feed.Stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.streams {
		s.out.Close()
	}
}

// spawn runs f in a goroutine that Stop waits for.
func (h *Hub) spawn(f func()) {
	h.spawnMu.Lock()
	defer h.spawnMu.Unlock()
	if !h.draining {
		h.loads.Go(f)
	}
}

// admit registers a subscription and the use of its partition.
func (h *Hub) admit(s *Subscription, key feed.Partition, caller feed.Caller) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped.Load() || h.refusing.Load() {
		return dberr.New(dberr.Unavailable, "this node is stopping")
	}
	if h.count >= h.cfg.SubscriptionsMax {
		return dberr.New(dberr.LimitExceeded, "more than %d subscriptions on this node (live.max_subscriptions)", h.cfg.SubscriptionsMax)
	}
	h.count++
	s.link(h.users)
	shard := h.partitions[key.Shard]
	if shard == nil {
		shard = map[feed.Partition]*Partition{}
		h.partitions[key.Shard] = shard
	}
	p := shard[key]
	if p == nil {
		p = &Partition{hub: h, key: key}
		shard[key] = p
		p.mu.Lock() // the feed may call before Add returns
		p.watch = h.feed.Add(key, caller, 0, p)
		p.mu.Unlock()
	}
	p.users++
	s.partition = p
	return nil
}

// release undoes admit and forgets the subscription. No partition's mutex is held.
func (h *Hub) release(s *Subscription) {
	h.settled(s)
	s.stream.forget(s.id)
	h.shapes.Release(s.shape)
	h.mu.Lock()
	h.count--
	s.unlink(h.users)
	p := s.partition
	p.users--
	unused := p.users == 0
	if unused {
		delete(h.partitions[p.key.Shard], p.key)
	}
	h.mu.Unlock()
	if unused {
		p.watch.Close()
	}
}

// all returns the subscriptions of the node.
func (h *Hub) all() []*Subscription {
	h.mu.Lock()
	streams := make([]*Stream, 0, len(h.streams))
	for s := range h.streams {
		streams = append(streams, s)
	}
	h.mu.Unlock()
	var out []*Subscription
	for _, s := range streams {
		out = append(out, s.subscriptions()...)
	}
	return out
}

// inShard returns the partitions of a shard.
func (h *Hub) inShard(shard uint32) []*Partition {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]*Partition, 0, len(h.partitions[shard]))
	for _, p := range h.partitions[shard] {
		out = append(out, p)
	}
	return out
}

// List describes the node's subscriptions.
func (h *Hub) List() []*livev1.LiveQuery {
	all := h.all()
	out := make([]*livev1.LiveQuery, 0, len(all))
	for _, s := range all {
		out = append(out, s.describe())
	}
	return out
}

// Kill ends the subscription with a live_id.
func (h *Hub) Kill(liveID string) error {
	for _, s := range h.all() {
		if s.liveID() == liveID && s.End(dberr.Canceled, "the subscription was ended by an administrator") {
			return nil
		}
	}
	return dberr.New(dberr.NotFound, "there is no live query %q on this node", liveID)
}

// Stats are the node's present numbers.
type Stats struct {
	Subscriptions, Partitions, Groups, Shapes, Streams int
	QueueMessages, QueueBytes                          int
	BufferBytes                                        int
}

// Stats returns the present numbers.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	st := Stats{Subscriptions: h.count, Streams: len(h.streams)}
	for _, shard := range h.partitions {
		st.Partitions += len(shard)
	}
	streams := make([]*Stream, 0, len(h.streams))
	for s := range h.streams {
		streams = append(streams, s)
	}
	h.mu.Unlock()
	for _, s := range streams {
		messages, bytes := s.out.Stats()
		st.QueueMessages += messages
		st.QueueBytes += bytes
	}
	st.Groups, st.Shapes = int(h.groups.Load()), h.shapes.Len()
	st.BufferBytes = h.cfg.BufferBytes - int(h.budget.left.Load())
	return st
}

// Counts returns the totals.
func (h *Hub) Counts() *Counts { return &h.counts }

// budget is the memory of all buffers.
type budget struct{ left atomic.Int64 }

func (b *budget) Reserve(n int) bool {
	if b.left.Add(int64(-n)) < 0 {
		b.left.Add(int64(n))
		return false
	}
	return true
}

func (b *budget) Release(n int) { b.left.Add(int64(n)) }

// expireEvery is how often waiting subscriptions are looked at.
const expireEvery = time.Second

// expire ends subscriptions whose watch storage does not start in time.
func (h *Hub) expire(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		h.expireBefore(h.cfg.Now())
	}
}

func (h *Hub) expireBefore(now time.Time) {
	for _, s := range h.startingWhere(func(*Subscription) bool { return true }) {
		p := s.partition
		p.mu.Lock()
		if s.mode == opening && now.After(s.start.deadline) {
			p.end(s, dberr.Unavailable, "storage did not start the change stream in time (live.open_timeout)")
		}
		p.unlock()
	}
}

func (h *Hub) begins(s *Subscription) {
	h.startMu.Lock()
	defer h.startMu.Unlock()
	h.starting[s] = struct{}{}
}

func (h *Hub) settled(s *Subscription) {
	h.startMu.Lock()
	defer h.startMu.Unlock()
	delete(h.starting, s)
}

func (h *Hub) startingWhere(keep func(*Subscription) bool) []*Subscription {
	h.startMu.Lock()
	defer h.startMu.Unlock()
	var out []*Subscription
	for s := range h.starting {
		if keep(s) {
			out = append(out, s)
		}
	}
	return out
}
