// Package feed holds a live node's watches on one storage node: all of them share one stream, which
// is opened again after a failure, each watch at its own position, so that a watch sees every change
// once and in order for as long as the change log reaches back.
package feed

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

const (
	// retryEvery is the pause before a broken stream or a refused watch is tried again: short, as
	// subscribers wait, and long enough not to burden a storage node that is starting.
	retryEvery = 200 * time.Millisecond
	// beginning is a position below every _seq and not zero, which means "from now" to storage.
	beginning = 1
)

// Sink receives what one watch delivers. Its methods are called by the feed's goroutine, one at a
// time, and must not block. They may add and close watches.
type Sink interface {
	// Started is called once: every change after position will come.
	Started(position uint64)
	// Changes come in order of _seq. They are shared and must not be modified.
	Changes(changes []*storagev1.Change)
	// Ended is the last call: the watch cannot go on.
	Ended(code dberr.Code, message string)
}

// Partition names what a watch follows.
type Partition struct {
	Shard, Table uint32
	// User is the owner of a partition; empty for shared tables.
	User string
}

// Config is what a Feed needs.
type Config struct {
	Log *slog.Logger
	// Progress is called by the feed's goroutine when everything up to position in a shard has been
	// delivered to the watches that have started.
	Progress func(shard uint32, position uint64)
}

// Feed is the watches on one storage node. Make it with New, then Start.
type Feed struct {
	client storagev1.StorageServiceClient
	cfg    Config

	mu      sync.Mutex
	watches map[uint64]*Watch
	nextID  uint64
	shards  map[uint32]*shard
	// requests wait for the open stream; at most two per watch, as a watch that is closed before its
	// request was sent is forgotten.
	requests  []request
	refused   []*Watch // to be asked for again at the next try
	connected bool

	wake chan struct{} // one token: requests may hold something
	stop context.CancelFunc
	done sync.WaitGroup
}

// shard is how far a shard has been delivered.
type shard struct {
	position uint64
	reports  uint64 // counts Progress messages, see Watch.since
}

// request asks storage to open a watch (watch set), or to end one.
type request struct {
	watch  *Watch
	remove uint64
}

// Watch is one watch. It is made by Feed.Add.
type Watch struct {
	feed      *Feed
	id        uint64
	sink      Sink
	partition Partition
	identity  *catalogv1.Identity

	// The fields below belong to feed.mu.

	// position: changes up to it have been delivered, as far as the watch's own messages say.
	position uint64
	// since is the shard's report count when storage started the watch: later reports count for it.
	since   uint64
	started bool // storage has started it once
	open    bool // storage has started it on the present stream
	closed  bool
}

// New makes a feed over a connection to a storage node.
func New(client storagev1.StorageServiceClient, cfg Config) *Feed {
	return &Feed{client: client, cfg: cfg, watches: map[uint64]*Watch{}, shards: map[uint32]*shard{},
		wake: make(chan struct{}, 1)}
}

// Start begins to follow; it does not wait for the storage node.
func (f *Feed) Start(ctx context.Context) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f.stop = cancel
	f.done.Go(func() { f.follow(run) })
}

// Stop ends the stream. Sinks are not called afterwards, nor told.
func (f *Feed) Stop() {
	if f.stop != nil {
		f.stop()
		f.done.Wait()
	}
}

// Add opens a watch for the changes after a position; zero means from now on. The sink may be called
// before Add returns.
func (f *Feed) Add(p Partition, identity *catalogv1.Identity, after uint64, sink Sink) *Watch {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nextID++
	w := &Watch{feed: f, id: f.nextID, sink: sink, partition: p, identity: identity, position: after}
	f.watches[w.id] = w
	f.request(request{watch: w})
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
	delete(f.watches, w.id)
	f.request(request{remove: w.id})
}

// Position returns how far the watch has delivered, reports on its whole shard included.
func (w *Watch) Position() uint64 {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	return w.reached()
}

func (w *Watch) reached() uint64 {
	if s := w.feed.shards[w.partition.Shard]; w.open && s != nil && s.reports > w.since {
		return max(w.position, s.position)
	}
	return w.position
}

// request queues r when there is a stream; a new stream begins with all watches anyway.
func (f *Feed) request(r request) {
	if !f.connected {
		return
	}
	f.requests = append(f.requests, r)
	f.signal()
}

func (f *Feed) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}
