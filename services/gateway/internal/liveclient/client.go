// Package liveclient carries all subscriptions of a gateway over one stream to the live role and hands
// each subscription's events to its own sink. The stream is opened by the first subscription and again
// after it broke.
//
// A slow consumer never holds up the others: a sink that cannot take an event ends that subscription
// as Lagged, with the position to resume from. When the stream breaks, every subscription on it ends
// as Unavailable, with its position. Nothing is lost silently.
package liveclient

import (
	"context"
	"log/slog"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// subscriptionsMaxDefault bounds one gateway's subscriptions: at about 0.5 KB each here, 250 MB.
const subscriptionsMaxDefault = 500_000

// Config are the client's settings. The zero value gets the defaults.
type Config struct {
	// SubscriptionsMax bounds the subscriptions open at one time.
	SubscriptionsMax int
	Logger           *slog.Logger
}

// Sink takes what one subscription delivers. The methods are called one at a time, in order, by the
// goroutine that reads the stream for everybody: they must not block. Events are shared with other
// subscriptions and must not be changed.
type Sink interface {
	// Deliver takes one event (Subscribed, InitialRows, Changed or Progress). False means that it
	// cannot: the subscription then ends as Lagged.
	Deliver(ev *livev1.ConnectResponse) bool
	// End is the last call, unless the subscription was closed by its owner. err has a dberr code and
	// the field position, from which the client may resume.
	End(err error)
}

// Client is a gateway's connection to the live role. Make it with New, then Start.
type Client struct {
	rpc livev1.LiveServiceClient
	cfg Config
	log *slog.Logger

	// opening is held while a stream is opened; it comes before mu.
	opening sync.Mutex

	mu      sync.Mutex // guards what follows
	run     context.Context
	cancel  context.CancelFunc
	current *stream
	lastID  uint64

	goroutines sync.WaitGroup
}

// New makes a client over a connection to the live role.
func New(conn grpc.ClientConnInterface, cfg Config) *Client {
	if cfg.SubscriptionsMax == 0 {
		cfg.SubscriptionsMax = subscriptionsMaxDefault
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Client{rpc: livev1.NewLiveServiceClient(conn), cfg: cfg, log: cfg.Logger}
}

// Start allows subscriptions. It opens nothing yet.
func (c *Client) Start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return nil
}

// Stop ends all subscriptions as Unavailable and waits for the stream's goroutines, at most as long as
// ctx allows.
func (c *Client) Stop(ctx context.Context) error {
	c.mu.Lock()
	cancel := c.cancel
	c.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel()
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
	s, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.lastID++
	id := c.lastID
	c.mu.Unlock()
	sent := proto.CloneOf(req)
	sent.Subscription = id
	sub := &Subscription{stream: s, sink: sink, id: id}
	sub.position.Store(req.GetFromSeq())
	if err := s.add(sub, sent, c.cfg.SubscriptionsMax); err != nil {
		return nil, err
	}
	return sub, nil
}

// open returns the stream in use, or a new one.
func (c *Client) open(ctx context.Context) (*stream, error) {
	if s, err := c.usable(); s != nil || err != nil {
		return s, err
	}
	c.opening.Lock()
	defer c.opening.Unlock()
	if s, err := c.usable(); s != nil || err != nil {
		return s, err // somebody else opened it meanwhile
	}
	c.mu.Lock()
	run := c.run
	c.mu.Unlock()
	streamCtx, cancel := context.WithCancel(run)
	unhook := context.AfterFunc(ctx, cancel) // gives up waiting, should ctx end first
	rpc, err := c.rpc.Connect(streamCtx)
	if !unhook() {
		cancel()
		return nil, dberr.New(dberr.Timeout, "reach the live role: %w", context.Cause(ctx))
	}
	if err != nil {
		cancel()
		return nil, dberr.New(dberr.Unavailable, "reach the live role: %w", err)
	}
	s := &stream{owner: c, rpc: rpc, cancel: cancel, subs: map[uint64]*Subscription{}, wake: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if run.Err() != nil {
		cancel()
		return nil, errStopped
	}
	c.current = s
	c.goroutines.Add(2)
	go func() {
		defer c.goroutines.Done()
		s.receive()
	}()
	go func() {
		defer c.goroutines.Done()
		s.send(streamCtx)
	}()
	return s, nil
}

var errStopped = dberr.New(dberr.Unavailable, "this gateway is not serving subscriptions")

func (c *Client) usable() (*stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run == nil || c.run.Err() != nil {
		return nil, errStopped
	}
	return c.current, nil
}

// forget makes the next subscription open a new stream.
func (c *Client) forget(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == s {
		c.current = nil
	}
}
