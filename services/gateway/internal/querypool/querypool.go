// Package querypool sends the gateway's calls to the query nodes: each to the one with the least to do, and
// to another when that one cannot be reached.
//
// A call is only made again when that is safe: Execute carries a request id, by which storage knows what was
// written already; Describe, PlanSubscription and a DoGet that has sent nothing only read. A WriteStream is
// never made again: which of its batches were written is known to its caller, from the acknowledgements.
package querypool

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
)

const (
	// roleQuery is the role of query nodes in the catalog.
	roleQuery = "query"
	// avoidFor is how long a node that could not be reached is only asked when there is no other.
	avoidFor = time.Second
	// againWithin bounds the time after which a failed call is not made again: a node that took so long
	// has tried for itself.
	againWithin = 5 * time.Second
)

// Nodes knows the query nodes; internal/router has it.
type Nodes interface {
	Nodes(role string) []*catalogv1.Node
	Conn(addr string) (*rpcnet.Conn, error)
}

// Config of a Pool.
type Config struct {
	Nodes Nodes
	// Addr is the query node while Nodes names none, as in one process. Empty means "query".
	Addr string
	Now  func() time.Time
}

// Pool is a connection to all query nodes.
type Pool struct {
	cfg     Config
	turn    atomic.Uint64
	retries atomic.Uint64

	picking sync.Mutex // from the look at the nodes' calls until one more is counted

	mu    sync.Mutex
	nodes map[string]*node // by address
	// last are those named last. When the catalog names none any more, each is more likely to answer than nobody:
	// heartbeats may be late for all of them at once.
	last []*node
}

// node is one query node.
type node struct {
	addr string
	// outstanding counts the calls under way.
	outstanding atomic.Int64
	failed      atomic.Int64 // when it last failed, in Unix nanoseconds
}

// New makes a pool. It has nothing to close: connections are the Nodes'.
func New(cfg Config) *Pool {
	if cfg.Addr == "" {
		cfg.Addr = "query"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Pool{cfg: cfg, nodes: map[string]*node{}}
}

// Retries counts the calls made again on another node.
func (p *Pool) Retries() uint64 { return p.retries.Load() }

// Invoke makes a unary call.
func (p *Pool) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	began := p.cfg.Now()
	var tried []*node
	for {
		n, err := p.pick(tried)
		if err != nil {
			return err
		}
		if err = p.invoke(ctx, n, method, args, reply, opts); err == nil || !dberr.Is(err, dberr.Unavailable) {
			return err
		}
		p.fail(n)
		tried = append(tried, n)
		if !repeatable(args) || ctx.Err() != nil || p.cfg.Now().Sub(began) >= againWithin || !p.another(tried) {
			return err
		}
		p.retries.Add(1)
		args = repeated(args)
	}
}

// repeated is a request that says that it was sent before. Requests are shared, so it is a copy.
func repeated(args any) any {
	e, executes := args.(*queryv1.ExecuteRequest)
	if !executes || e.GetRepetition() {
		return args
	}
	again := proto.CloneOf(e)
	again.Repetition = true
	return again
}

func (p *Pool) invoke(ctx context.Context, n *node, method string, args, reply any, opts []grpc.CallOption) error {
	defer n.outstanding.Add(-1)
	conn, err := p.cfg.Nodes.Conn(n.addr)
	if err != nil {
		return err
	}
	return conn.Invoke(ctx, method, args, reply, opts...)
}

// repeatable reports whether a request may be made twice.
func repeatable(args any) bool {
	e, executes := args.(*queryv1.ExecuteRequest)
	return !executes || len(e.GetRequestId()) > 0
}

// fail passes a node over for a while.
func (p *Pool) fail(n *node) { n.failed.Store(p.cfg.Now().UnixNano()) }

// pick chooses the node with the least to do among those not yet tried, in turns when several have, and
// counts a call in.
func (p *Pool) pick(tried []*node) (*node, error) {
	all := p.present()
	now, turn := p.cfg.Now().UnixNano(), p.turn.Add(1)
	p.picking.Lock()
	defer p.picking.Unlock()
	var best *node
	var bestFails bool
	var bestLoad int64
	for i := range all {
		n := all[(turn+uint64(i))%uint64(len(all))]
		if contains(tried, n) {
			continue
		}
		fails, load := now-n.failed.Load() < int64(avoidFor), n.outstanding.Load()
		if best == nil || (bestFails && !fails) || (bestFails == fails && load < bestLoad) {
			best, bestFails, bestLoad = n, fails, load
		}
	}
	if best == nil {
		return nil, dberr.New(dberr.Unavailable, "no query node is active")
	}
	best.outstanding.Add(1)
	return best, nil
}

// another reports whether there is a node that was not tried.
func (p *Pool) another(tried []*node) bool {
	for _, n := range p.present() {
		if !contains(tried, n) {
			return true
		}
	}
	return false
}

func contains(list []*node, n *node) bool {
	for _, e := range list {
		if e == n {
			return true
		}
	}
	return false
}

// present lists the nodes that may be asked, and forgets others.
func (p *Pool) present() []*node {
	named := p.cfg.Nodes.Nodes(roleQuery)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(named) == 0 && len(p.last) > 0 {
		return p.last
	}
	if len(named) == 0 {
		return []*node{p.node(p.cfg.Addr)}
	}
	all := make([]*node, len(named))
	for i, m := range named {
		all[i] = p.node(m.GetRpcAddr())
	}
	if len(p.nodes) > 2*len(all)+1 {
		p.nodes = map[string]*node{}
		for _, n := range all {
			p.nodes[n.addr] = n
		}
	}
	p.last = all
	return all
}

// node finds or makes a node. mu is held.
func (p *Pool) node(addr string) *node {
	n := p.nodes[addr]
	if n == nil {
		n = &node{addr: addr}
		p.nodes[addr] = n
	}
	return n
}
