// Package router finds who leads a Raft group and sends calls there, again and elsewhere when that
// changes.
//
// A call is tried again when its replica does not lead or cannot be reached. That is safe because what
// is routed is a read, or carries a request id that the group remembers: see RFC 0002.
package router

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/silence"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	// CatalogGroup is the group of the catalog; shard n is group n+1.
	CatalogGroup = 0
	// retryForDefault is longer than an election on a busy machine, and short enough that a caller without a
	// deadline is told.
	retryForDefault = 15 * time.Second
	// attemptTimeoutDefault is how long the first replica may take to answer before another is asked: a paused
	// or cut-off one answers nothing at all. After each that did not, the next gets twice the time, up to
	// attemptTimeoutMax, so that a slow cluster is not asked more and more.
	attemptTimeoutDefault = 600 * time.Millisecond
	attemptTimeoutMax     = 5 * time.Second
	// roleStorage is the role of nodes that hold replicas; an allinone node has them too.
	roleStorage, roleAllinone = "storage", "allinone"
)

// ShardGroup is the group of a shard.
func ShardGroup(shard uint32) uint32 { return shard + 1 }

// Config of a Router.
type Config struct {
	Network rpcnet.Network
	// Seeds are addresses of storage nodes; one that answers is enough to find the others.
	Seeds []string
	// RetryFor bounds how long a call is tried. Zero means 15 s.
	RetryFor time.Duration
	// AttemptTimeout bounds the first attempt of a unary call. Zero means 0.6 s.
	AttemptTimeout time.Duration
	Logger         *slog.Logger
}

// Router is the way to the storage nodes. Make it with New, then Start.
type Router struct {
	cfg   Config
	pool  *rpcnet.Pool
	local bool // one process: an attempt needs no timeout of its own
	view  *catalogview.View

	catalog *groupConn
	shards  sync.Map // shard → *groupConn
	leaders sync.Map // group → address
	silent  silent
	turn    atomic.Uint64

	counts Counts
}

// Counts are a router's totals.
type Counts struct {
	// Retries counts attempts after the first, Moves the changes of a group's leader that were noticed.
	Retries, Moves atomic.Uint64
}

// New makes a router.
func New(cfg Config) *Router {
	if cfg.RetryFor == 0 {
		cfg.RetryFor = retryForDefault
	}
	if cfg.AttemptTimeout == 0 {
		cfg.AttemptTimeout = attemptTimeoutDefault
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	_, local := cfg.Network.(*rpcnet.Local)
	r := &Router{cfg: cfg, pool: rpcnet.NewPool(cfg.Network), local: local}
	r.catalog = &groupConn{router: r, group: CatalogGroup, anyStream: true}
	r.view = catalogview.New(r.catalog, cfg.Logger)
	return r
}

// Start follows the catalog; it returns when the first copy is there.
func (r *Router) Start(ctx context.Context) error { return r.view.Start(ctx) }

// Stop ends following and closes every connection.
func (r *Router) Stop() {
	r.view.Stop()
	r.pool.Close()
}

// View is the copy of the catalog. Register hooks before Start.
func (r *Router) View() *catalogview.View { return r.view }

// Counts returns the totals.
func (r *Router) Counts() *Counts { return &r.counts }

// Catalog is a connection for calls to the leader of the catalog. Streams go to any storage node, another
// one each time.
func (r *Router) Catalog() grpc.ClientConnInterface { return r.catalog }

// Shard is a connection for calls to the leader of a shard. A stream is opened once, where the leader is
// believed to be; what its first message says is learned.
func (r *Router) Shard(id uint32) grpc.ClientConnInterface {
	if c, ok := r.shards.Load(id); ok {
		return c.(*groupConn)
	}
	c, _ := r.shards.LoadOrStore(id, &groupConn{router: r, group: ShardGroup(id)})
	return c.(*groupConn)
}

// Group is a connection for calls to the leader of a group: 0 is the catalog, n+1 is shard n.
func (r *Router) Group(group uint32) grpc.ClientConnInterface {
	if group == 0 {
		return r.catalog
	}
	return r.Shard(group - 1)
}

// Conn is the shared connection to an address.
func (r *Router) Conn(addr string) (*rpcnet.Conn, error) { return r.pool.Get(addr) }

// Nodes are the active nodes of a role.
func (r *Router) Nodes(role string) []*catalogv1.Node {
	if s := r.view.State(); s != nil {
		return s.Role(role)
	}
	return nil
}

// Leader is where the leader of a group is believed to be. It is a guess until Learn has heard from it.
func (r *Router) Leader(group uint32) (addr string, ok bool) {
	if a, ok := r.leaders.Load(group); ok && !r.silent.is(a.(string)) {
		return a.(string), true
	}
	return r.guess(group, "")
}

// Replicas are the addresses of all replicas of a shard, those of active nodes first.
func (r *Router) Replicas(shard uint32) []string { return r.replicas(ShardGroup(shard)) }

// Learn notes what a call to addr said about a group: err is nil when it was served there. A stream that was ended by the
// node's silence (silence.Err) makes it one that is passed over.
func (r *Router) Learn(group uint32, addr string, err error) {
	now, known := r.leaders.Load(group)
	if errors.Is(err, silence.Err) {
		r.silent.add(addr)
	}
	switch {
	case err == nil:
		if !known || now != addr {
			r.leaders.Store(group, addr)
			r.counts.Moves.Add(1)
		}
	case dberr.Is(err, dberr.NotLeader), dberr.Is(err, dberr.Unavailable):
		if hint := r.hinted(err); hint != "" && hint != addr && !r.silent.is(hint) {
			r.leaders.Store(group, hint)
		} else if known && now == addr {
			r.leaders.CompareAndDelete(group, now)
		}
	}
}

// hinted is the address of the leader an error names, "" when it names none that is known.
func (r *Router) hinted(err error) string {
	id := dberr.FieldOf(err, dberr.FieldLeader)
	s := r.view.State()
	if id == "" || s == nil {
		return ""
	}
	n, ok := s.Server(id)
	if !ok {
		return ""
	}
	return n.GetRpcAddr()
}

// guess is a replica of a group other than the one just tried, each time the next; one that is silent only when there
// is no other.
func (r *Router) guess(group uint32, tried string) (string, bool) {
	all := r.replicas(group)
	if len(all) == 0 {
		return "", false
	}
	first, other := r.turn.Add(1), tried
	for i := range all {
		a := all[(first+uint64(i))%uint64(len(all))]
		if a != tried && !r.silent.is(a) {
			return a, true
		}
		if a != tried {
			other = a
		}
	}
	return other, true
}

// replicas are the addresses that may serve a group: those of its replicas, or, while the catalog names
// none, the seeds.
func (r *Router) replicas(group uint32) []string {
	s := r.view.State()
	if s == nil {
		return r.cfg.Seeds
	}
	var active, others []string
	for _, rep := range s.Placements[group].GetReplicas() {
		n, ok := s.Server(rep.GetServerId())
		switch {
		case !ok || n.GetRpcAddr() == "":
		case n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_OFFLINE:
			others = append(others, n.GetRpcAddr())
		default:
			active = append(active, n.GetRpcAddr())
		}
	}
	if len(active)+len(others) == 0 {
		return r.cfg.Seeds
	}
	return append(active, others...)
}

// anyStorage is some storage node, each time the next.
func (r *Router) anyStorage() (string, bool) {
	var all []string
	if s := r.view.State(); s != nil {
		for _, role := range []string{roleStorage, roleAllinone} {
			for _, n := range s.Role(role) {
				all = append(all, n.GetRpcAddr())
			}
		}
	}
	if len(all) == 0 {
		all = r.cfg.Seeds
	}
	if len(all) == 0 {
		return "", false
	}
	return all[r.turn.Add(1)%uint64(len(all))], true
}
