// Package feed holds a live node's watches. All watches of the shards that one storage node leads share
// one stream to it, which is opened when it is needed and closed when it is not. When a shard gets another
// leader, or a stream breaks, the shard's watches are opened again where it is led now, each at its own
// position, so that a watch sees every change once and in order for as long as the change log reaches back.
package feed

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

const (
	// retryEvery is the pause before a shard without a leader, a broken stream or a refused watch is tried
	// again: short, as subscribers wait, and long enough not to burden storage nodes that are starting.
	retryEvery = 200 * time.Millisecond
	// idleAfter is how long a stream without watches stays open: users come and go.
	idleAfter = 10 * time.Second
	// beginning is a position below every _seq and not zero, which means "from now" to storage.
	beginning = 1
)

// Sink receives what one watch delivers. Its methods are called one at a time for all watches of a shard,
// and must not block. They may add and close watches.
type Sink interface {
	// Started is called once: every change after position will come.
	Started(position uint64)
	// Changes come in order of _seq. They are shared and must not be modified.
	Changes(changes []*storagev1.Change)
	// Ended is the last call: the watch cannot go on.
	Ended(code dberr.Code, message string)
}

// Routes knows who leads a shard's group. Its methods must not block; internal/router has them.
type Routes interface {
	// Leader is where a group's leader is believed to be.
	Leader(group uint32) (addr string, ok bool)
	// Learn is told what became of a request to addr; err is nil when it was served there.
	Learn(group uint32, addr string, err error)
	// Conn is the connection to an address.
	Conn(addr string) (*rpcnet.Conn, error)
}

// Partition names what a watch follows.
type Partition struct {
	Shard, Table uint32
	// User is the owner of a partition; empty for shared tables.
	User string
}

// Caller is on whose behalf a watch is opened.
type Caller struct {
	Identity *catalogv1.Identity
	// CatalogVersion is what a storage node must know of before it answers.
	CatalogVersion uint64
}

// Config is what a Feed needs.
type Config struct {
	Log *slog.Logger
	// Progress is called when everything up to position in a shard has been delivered to the watches that
	// have started on the same stream; one at a time with the sinks of that shard.
	Progress func(shard uint32, position uint64)
}

// Feed is a live node's watches. Make it with New, then Start.
//
// Lock order: shard.deliver, what sinks lock, then mu.
type Feed struct {
	routes Routes
	cfg    Config

	mu      sync.Mutex
	run     context.Context //nolint:containedctx // ends the streams, which are opened when they are needed
	lastID  uint64
	shards  map[uint32]*shard
	streams map[string]*stream // by address
	// patience is how long a node may take to start a watch, where it has not done so in time before.
	patience map[string]time.Duration

	stop context.CancelFunc
	done sync.WaitGroup
}

// Watch is one watch. It is made by Feed.Add.
type Watch struct {
	feed      *Feed
	shard     *shard
	sink      Sink
	partition Partition
	caller    Caller

	// The fields below belong to feed.mu.

	// position: changes up to it have been delivered, as far as the watch's own messages say.
	position uint64
	started  bool // storage has started it once
	closed   bool
	refused  bool // to be asked for again at the next try

	// at is the stream it was asked for on, nil when on none; id is its number there. A watch that moves gets
	// another number each time, so what a former leader still sends for the old one meets nobody.
	at *stream
	id uint64
	// open: storage has started it on this stream. since is the shard's report count at that time: later
	// reports count for it.
	open  bool
	since uint64
}

// New makes a feed.
func New(routes Routes, cfg Config) *Feed {
	return &Feed{routes: routes, cfg: cfg, shards: map[uint32]*shard{}, streams: map[string]*stream{}, patience: map[string]time.Duration{}}
}

// Start begins to follow; it does not wait for storage.
func (f *Feed) Start(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.run, f.stop = context.WithCancel(context.WithoutCancel(ctx))
	for _, sh := range f.shards {
		f.place(sh, "")
	}
	f.done.Go(func() { f.tend(f.run) })
}

// Stop ends the streams. Sinks are not called afterwards, nor told.
func (f *Feed) Stop() {
	f.mu.Lock()
	started := f.stop != nil
	if started {
		f.stop() // under mu: no stream is opened after this
	}
	f.mu.Unlock()
	if started {
		f.done.Wait()
	}
}

// Streams is the number of streams to storage nodes.
func (f *Feed) Streams() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.streams)
}

// Add opens a watch for the changes after a position; zero means from now on. The sink may be called
// before Add returns.
func (f *Feed) Add(p Partition, caller Caller, after uint64, sink Sink) *Watch {
	f.mu.Lock()
	defer f.mu.Unlock()
	sh := f.shard(p.Shard)
	w := &Watch{feed: f, shard: sh, sink: sink, partition: p, caller: caller, position: after}
	sh.watches[w] = struct{}{}
	switch {
	case sh.on != nil:
		sh.on.request(w)
	case !sh.waits:
		f.place(sh, "")
	}
	return w
}

// Close ends the watch. A call of the sink that is running may still finish.
func (w *Watch) Close() {
	f := w.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	delete(w.shard.watches, w)
	w.suspend(true)
}

// Position returns how far the watch has delivered, reports on its whole shard included.
func (w *Watch) Position() uint64 {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	return w.reached()
}

// reached is Position. A report counts for watches that had started on its stream before it.
func (w *Watch) reached() uint64 {
	if w.open {
		if r := w.at.reports[w.partition.Shard]; r.count > w.since {
			return max(w.position, r.position)
		}
	}
	return w.position
}

// suspend takes the watch off its stream, where it stands. tell asks storage to end it there.
func (w *Watch) suspend(tell bool) {
	if w.at == nil {
		return
	}
	w.position = w.reached()
	w.at.drop(w.id, tell)
	w.at, w.id, w.open = nil, 0, false
}

// add is the request that opens w where it is.
func (w *Watch) add() *storagev1.WatchAdd {
	after := w.position
	if w.started {
		// A watch that started on an empty shard stands at zero, which would mean "from now".
		after = max(after, beginning)
	}
	return &storagev1.WatchAdd{WatchId: w.id, Shard: w.partition.Shard, TableId: w.partition.Table, UserId: w.partition.User,
		Identity: w.caller.Identity, CatalogVersion: w.caller.CatalogVersion, AfterSeq: after}
}
