// Package liveclient carries a gateway's subscriptions to the live nodes, over one stream to each, and hands
// each subscription's events to its own sink.
//
// A subscription goes to the live node with the highest rendezvous hash of its user (of its table, when
// that is shared), so that those who share rows share a node. When the node goes, the subscription is opened
// again on another at its position, unseen by the client: no second acknowledgement, no gap, no repeat. Only
// one whose initial rows are still under way ends, as Unavailable with its position. New live nodes get new
// subscriptions; those that are open stay where they are.
//
// A slow consumer never holds up the others: a sink that cannot take an event ends that subscription
// as Lagged, with the position to resume from. Nothing is lost silently.
package liveclient

import (
	"context"
	"log/slog"
	"sync"
	"time"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/silence"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

const (
	// subscriptionsMaxDefault bounds one gateway's subscriptions: at about 0.7 KB each here, 350 MB.
	subscriptionsMaxDefault = 500_000
	// openTimeout bounds opening a stream to a live node: one that cannot be reached by then is passed over.
	openTimeout = 2 * time.Second
	// avoidFor is how long a live node that failed is only asked when there is no other. It is longer than
	// the catalog needs to learn that a node is gone.
	avoidFor = 5 * time.Second
)

// Nodes knows the live nodes; internal/router has it.
type Nodes interface {
	// Nodes are the active nodes of a role.
	Nodes(role string) []*catalogv1.Node
	// Conn is the shared connection to an address.
	Conn(addr string) (*rpcnet.Conn, error)
}

// Config are the client's settings.
type Config struct {
	Nodes Nodes
	// Addr is the live node while Nodes names none, as in one process. Empty means "live".
	Addr string
	// SubscriptionsMax bounds the subscriptions open at one time; zero means 500,000.
	SubscriptionsMax int
	// GiveUpAfter is how long another node is looked for; zero means 15 s.
	GiveUpAfter time.Duration
	Logger      *slog.Logger
	Now         func() time.Time
}

// Sink takes what one subscription delivers. The methods are called one at a time, in order, by the
// goroutine that reads a stream for everybody: they must not block. Events are shared with other
// subscriptions and must not be changed.
type Sink interface {
	// Deliver takes one event (Subscribed, InitialRows, Changed or Progress). False means that it
	// cannot: the subscription then ends as Lagged.
	Deliver(ev *livev1.ConnectResponse) bool
	// End is the last call, unless the subscription was closed by its owner. err has a dberr code and
	// the field position, from which the client may resume.
	End(err error)
}

// Client is a gateway's connection to the live nodes. Make it with New, then Start.
type Client struct {
	cfg Config
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	run    context.Context
	cancel context.CancelFunc
	nodes  map[string]*node // by server id
	lastID uint64
	open   int             // subscriptions
	moving []*Subscription // to be opened on another node
	wake   chan struct{}   // has an element when moving may hold something
	counts Counts

	goroutines sync.WaitGroup
	// ticker is silence.Ticker, but in tests.
	ticker func() (ticks <-chan time.Time, stop func())
}

// Counts are totals since the start.
type Counts struct {
	// Moved counts subscriptions opened again on another node, GivenUp those for which there was none in time,
	// Broken the streams that broke.
	Moved, GivenUp, Broken uint64
}

// node is one live node. Its fields belong to Client.mu, but opening.
type node struct {
	id, addr string
	// opening is held while a stream is opened; it comes before Client.mu.
	opening sync.Mutex
	current *stream
	failed  time.Time // when it last failed
}

// New makes a client.
func New(cfg Config) *Client {
	if cfg.Addr == "" {
		cfg.Addr = "live"
	}
	if cfg.SubscriptionsMax == 0 {
		cfg.SubscriptionsMax = subscriptionsMaxDefault
	}
	if cfg.GiveUpAfter == 0 {
		cfg.GiveUpAfter = giveUpAfterDefault
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Client{cfg: cfg, log: cfg.Logger, nodes: map[string]*node{}, wake: make(chan struct{}, 1), ticker: silence.Ticker}
}

// Start allows subscriptions. It opens nothing yet.
func (c *Client) Start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.goroutines.Go(func() { c.moveLost(c.run) })
	return nil
}

// Stop ends all subscriptions as Unavailable and waits for the streams' goroutines, at most as long as
// ctx allows.
func (c *Client) Stop(ctx context.Context) error {
	c.mu.Lock()
	started := c.cancel != nil
	if started {
		c.cancel() // under mu: no stream is opened after this
	}
	c.mu.Unlock()
	if !started {
		return nil
	}
	done := make(chan struct{})
	go func() {
		c.goroutines.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return dberr.New(dberr.Timeout, "stop the live client: %w", ctx.Err())
	}
}

// Subscribe opens a subscription; its id is chosen here. Events may arrive at the sink before Subscribe
// returns. req is not changed, but must not be changed later either.
func (c *Client) Subscribe(ctx context.Context, req *livev1.Subscribe, sink Sink) (*Subscription, error) {
	if err := c.admit(); err != nil {
		return nil, err
	}
	sub := &Subscription{client: c, sink: sink, req: req}
	sub.position.Store(req.GetFromSeq())
	if err := c.place(ctx, sub); err != nil {
		c.release()
		return nil, err
	}
	return sub, nil
}

var errStopped = dberr.New(dberr.Unavailable, "this gateway is not serving subscriptions")

func (c *Client) admit() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.run == nil || c.run.Err() != nil:
		return errStopped
	case c.open >= c.cfg.SubscriptionsMax:
		return dberr.New(dberr.LimitExceeded, "this gateway serves at most %d subscriptions", c.cfg.SubscriptionsMax)
	}
	c.open++
	return nil
}

func (c *Client) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
}

// place opens a subscription on the first of its nodes that can be reached.
func (c *Client) place(ctx context.Context, sub *Subscription) error {
	err := error(dberr.New(dberr.Unavailable, "no live node is active"))
	for _, n := range c.ranked(keyOf(sub.req)) {
		var s *stream
		if s, err = c.stream(ctx, n); err == nil {
			err = s.add(sub)
		}
		if err == nil || ctx.Err() != nil || dberr.Is(err, dberr.Canceled) {
			return err
		}
		c.avoid(n)
	}
	return err
}

// stream returns the stream to a node, a new one if need be.
func (c *Client) stream(ctx context.Context, n *node) (*stream, error) {
	if s, err := c.usable(n); s != nil || err != nil {
		return s, err
	}
	n.opening.Lock()
	defer n.opening.Unlock()
	if s, err := c.usable(n); s != nil || err != nil {
		return s, err // somebody else opened it meanwhile
	}
	c.mu.Lock()
	run := c.run
	c.mu.Unlock()
	ctx, end := context.WithTimeout(ctx, openTimeout)
	defer end()
	streamCtx, cancel := context.WithCancel(run)
	unhook := context.AfterFunc(ctx, cancel) // gives up waiting, should ctx end first
	conn, err := c.cfg.Nodes.Conn(n.addr)
	if err != nil {
		cancel()
		return nil, unreached(n, err)
	}
	rpc, err := livev1.NewLiveServiceClient(conn).Connect(streamCtx)
	if !unhook() {
		cancel()
		return nil, dberr.New(dberr.Timeout, "reach live node %s: %w", n.addr, context.Cause(ctx))
	}
	if err != nil {
		cancel()
		return nil, unreached(n, err)
	}
	return c.adopt(streamCtx, &stream{owner: c, node: n, rpc: rpc, cancel: cancel, subs: map[uint64]*Subscription{}, wake: make(chan struct{}, 1)})
}

func unreached(n *node, err error) error {
	return dberr.New(dberr.Unavailable, "reach live node %s: %w", n.addr, err)
}

// adopt starts a stream's goroutines.
func (c *Client) adopt(ctx context.Context, s *stream) (*stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run.Err() != nil {
		s.cancel()
		return nil, errStopped
	}
	s.node.current = s
	c.goroutines.Go(s.receive)
	c.goroutines.Go(func() { s.send(ctx) })
	c.goroutines.Go(func() { s.listen(ctx) })
	return s, nil
}

func (c *Client) usable(n *node) (*stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run == nil || c.run.Err() != nil {
		return nil, errStopped
	}
	return n.current, nil
}

// forget makes the next subscription open a new stream.
func (c *Client) forget(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.node.current == s {
		s.node.current = nil
		c.counts.Broken++
	}
}

// avoid passes a node over for a while.
func (c *Client) avoid(n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n.failed = c.cfg.Now()
}

// Stats returns the totals, and the subscriptions and streams open now.
func (c *Client) Stats() (counts Counts, subscriptions, streams int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if n.current != nil {
			streams++
		}
	}
	return c.counts, c.open, streams
}

func (c *Client) nextID() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID++
	return c.lastID
}

// Reach reports whether a live node answers.
func (c *Client) Reach(ctx context.Context) error {
	err := error(dberr.New(dberr.Unavailable, "no live node is active"))
	for _, n := range c.ranked("") {
		var conn *rpcnet.Conn
		if conn, err = c.cfg.Nodes.Conn(n.addr); err != nil {
			continue
		}
		_, err = livev1.NewLiveServiceClient(conn).NodeStats(ctx, &livev1.NodeStatsRequest{})
		if code := dberr.CodeOf(err); err == nil || (code != dberr.Unavailable && code != dberr.Timeout && code != dberr.Canceled) {
			return nil
		}
	}
	return err
}
