package feed

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// model is a shard on several nodes: one log, of which each node has applied some, and a leader.
type model struct {
	mu     sync.Mutex
	rng    *rand.Rand
	log    []change
	nodes  []*modelNode
	leader string
	grown  chan struct{}
	// changes counts; served rings when a stream has sent what was due, or ended.
	changes int
	served  bell
}

// aloneMax is how many steps in a row happen while nobody follows: the feed tries again after a pause, and the rest
// of the test should not be over by then.
const aloneMax = 100

type change struct {
	seq  uint64
	user string
}

// modelNode serves watches as a storage node does.
type modelNode struct {
	storagev1.UnimplementedStorageServiceServer
	m       *model
	addr    string
	applied int // entries of the log; belongs to m.mu
	// deaf: it was the leader and has not noticed that it is not any more.
	deaf    bool
	streams map[*modelStream]struct{}
}

type modelStream struct {
	cancel  context.CancelFunc
	seen    int // the change up to which it has sent what was due; belongs to m.mu
	mu      sync.Mutex
	watches map[uint64]*modelWatch
}

type modelWatch struct {
	user    string
	sent    uint64
	started bool
}

func newModel(t *testing.T, network *rpcnet.Local, names ...string) *model {
	m := &model{rng: rand.New(rand.NewPCG(3, 4)), leader: names[0], grown: make(chan struct{})}
	for _, name := range names {
		n := &modelNode{m: m, addr: name, streams: map[*modelStream]struct{}{}}
		server, err := rpcnet.NewServer(network, name, rpcnet.ServerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		storagev1.RegisterStorageServiceServer(server.Registrar(), n)
		server.Serve()
		t.Cleanup(func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			server.Stop(ctx)
		})
		m.nodes = append(m.nodes, n)
	}
	return m
}

// change runs f and wakes the nodes.
func (m *model) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	m.changes++
	close(m.grown)
	m.grown = make(chan struct{})
	m.served.ring()
}

// settled reports whether every stream has sent what was due, and whether any of them has a watch.
func (m *model) settled() (all, followed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all = true
	for _, n := range m.nodes {
		for s := range n.streams {
			all = all && s.seen >= m.changes
			s.mu.Lock()
			followed = followed || len(s.watches) > 0
			s.mu.Unlock()
		}
	}
	return all, followed
}

// step is one random event.
func (m *model) step() {
	m.change(func() {
		switch n := m.nodes[m.rng.IntN(len(m.nodes))]; m.rng.IntN(12) {
		case 0: // another leader, which has all of the log
			for _, old := range m.nodes {
				if old.addr == m.leader {
					old.deaf = m.rng.IntN(2) == 0
				}
			}
			m.leader, n.deaf, n.applied = n.addr, false, len(m.log)
		case 1: // a stream breaks
			for s := range n.streams {
				s.cancel()
			}
		case 2:
			n.deaf = false
		case 3, 4: // replication
			n.applied = min(len(m.log), n.applied+m.rng.IntN(20))
		default:
			for range m.rng.IntN(4) {
				m.log = append(m.log, change{uint64(len(m.log)+1) * 10, fmt.Sprint("u", m.rng.IntN(3))})
			}
			for _, l := range m.nodes {
				if l.addr == m.leader {
					l.applied = len(m.log)
				}
			}
		}
	})
}

// Leader is wrong now and then; so is the router while it has not heard.
func (m *model) Leader(uint32) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rng.IntN(4) == 0 {
		return m.nodes[m.rng.IntN(len(m.nodes))].addr, true
	}
	return m.leader, true
}

func (m *model) Learn(uint32, string, error) {}

func (n *modelNode) Watch(stream grpc.BidiStreamingServer[storagev1.WatchRequest, storagev1.WatchResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	s := &modelStream{cancel: cancel, watches: map[uint64]*modelWatch{}}
	n.m.change(func() { n.streams[s] = struct{}{} })
	defer n.m.change(func() { delete(n.streams, s) })
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				cancel()
				return
			}
			s.mu.Lock()
			if a := r.GetAdd(); a != nil {
				s.watches[a.GetWatchId()] = &modelWatch{user: a.GetUserId(), sent: a.GetAfterSeq()}
			} else {
				delete(s.watches, r.GetRemove())
			}
			s.mu.Unlock()
			n.m.change(func() {})
		}
	}()
	for {
		n.m.mu.Lock()
		grown, changes, out := n.m.grown, n.m.changes, n.due(s)
		n.m.mu.Unlock()
		for _, r := range out {
			if err := stream.Send(r); err != nil {
				return err
			}
		}
		n.m.mu.Lock()
		s.seen = changes
		n.m.mu.Unlock()
		n.m.served.ring()
		select {
		case <-grown:
		case <-ctx.Done():
			return dberr.New(dberr.Unavailable, "the stream broke")
		}
	}
}

// due is what the node sends now. m.mu is held.
func (n *modelNode) due(s *modelStream) (out []*storagev1.WatchResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	leads := n.m.leader == n.addr || n.deaf
	for id, w := range s.watches {
		if !leads {
			delete(s.watches, id)
			out = append(out, &storagev1.WatchResponse{Event: &storagev1.WatchResponse_Ended{Ended: &storagev1.WatchEnded{WatchId: id,
				Code: string(dberr.NotLeader)}}})
			continue
		}
		if !w.started {
			w.started = true
			out = append(out, &storagev1.WatchResponse{Event: &storagev1.WatchResponse_Started{Started: &storagev1.WatchStarted{WatchId: id, Position: w.sent}}})
		}
		batch := &storagev1.ChangeBatch{WatchId: id}
		for _, ch := range n.m.log[:n.applied] {
			if ch.user == w.user && ch.seq > w.sent {
				batch.Changes = append(batch.Changes, &storagev1.Change{Seq: ch.seq})
				w.sent = ch.seq
			}
		}
		if len(batch.Changes) > 0 {
			out = append(out, &storagev1.WatchResponse{Event: &storagev1.WatchResponse_Changes{Changes: batch}})
		}
	}
	if leads && n.applied > 0 {
		out = append(out, &storagev1.WatchResponse{Event: &storagev1.WatchResponse_Progress{
			Progress: &storagev1.Progress{Position: n.m.log[n.applied-1].seq}}})
	}
	return out
}

// routes is the model with connections.
type routes struct {
	*model
	pool *rpcnet.Pool
}

func (r routes) Conn(addr string) (*rpcnet.Conn, error) { return r.pool.Get(addr) }

// Leaders change, former ones go on for a while, streams break, guesses are wrong: every watch gets every
// change once and in order, and no position is claimed before what is up to it was delivered.
func TestRandomMoves(t *testing.T) {
	network := rpcnet.NewLocal()
	m := newModel(t, network, "a", "b", "c")
	type follower struct {
		record
		watch *Watch
		user  string
	}
	followers := make([]*follower, 6)
	var claims sync.Mutex
	claimed := func(f *follower) { // holds at any time
		position := f.watch.Position()
		f.mu.Lock()
		got := slices.Clone(f.seqs)
		f.mu.Unlock()
		m.mu.Lock()
		defer m.mu.Unlock()
		var want []uint64
		for _, ch := range m.log {
			if ch.user == f.user && ch.seq > 1 && ch.seq <= position {
				want = append(want, ch.seq)
			}
		}
		if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
			t.Errorf("%s claims position %d with %d changes of %d", f.user, position, len(got), len(want))
		}
	}
	feed := New(routes{m, rpcnet.NewPool(network)}, Config{Log: slog.New(slog.DiscardHandler), Progress: func(uint32, uint64) {
		claims.Lock()
		defer claims.Unlock()
		for _, f := range followers {
			if f != nil && f.watch != nil {
				claimed(f)
			}
		}
	}})
	claims.Lock()
	for i := range followers {
		followers[i] = &follower{user: fmt.Sprint("u", i%3)}
		followers[i].watch = feed.Add(Partition{Table: 1, User: followers[i].user}, Caller{}, 1, followers[i])
	}
	claims.Unlock()
	feed.Start(t.Context())
	defer feed.Stop()
	alone := 0
	for i := range 3000 {
		m.step()
		if i%2 == 0 {
			continue // two steps may meet half-way
		}
		m.served.until(t, func() bool {
			all, followed := m.settled()
			if followed {
				alone = 0
			}
			return all && (followed || alone < aloneMax)
		})
		alone++
	}
	m.change(func() { // then it is quiet
		for _, n := range m.nodes {
			n.deaf, n.applied = false, len(m.log)
		}
	})
	for _, f := range followers {
		var want []uint64
		for _, ch := range m.log {
			if ch.user == f.user {
				want = append(want, ch.seq)
			}
		}
		f.want(t, want...)
	}
	if len(m.log) < 1000 {
		t.Errorf("only %d changes", len(m.log))
	}
}
