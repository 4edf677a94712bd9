package rendezvous

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
)

// town is nodes that can reach each other unless a way is cut.
type town struct {
	mu    sync.Mutex
	nodes map[string]*Meeting
	cut   map[[2]string]bool
	now   time.Time
}

func newTown() *town {
	return &town{nodes: map[string]*Meeting{}, cut: map[[2]string]bool{}, now: time.Unix(1_800_000_000, 0)}
}

func at(id int) string { return fmt.Sprintf("a%d", id) }

func (w *town) add(id int, cluster string, expect int, seeds ...string) *Meeting {
	m := New(Config{Self: &catalogv1.Node{NodeId: uint32(id), ServerId: fmt.Sprintf("n%d", id), RpcAddr: at(id), RaftAddr: at(id) + "/raft"},
		ClusterID: cluster, Seeds: seeds, Expect: expect, Now: func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now },
		Log: slog.New(slog.DiscardHandler),
		Hello: func(_ context.Context, addr string, req *clusterv1.HelloRequest) (*clusterv1.HelloResponse, error) {
			w.mu.Lock()
			to, cut := w.nodes[addr], w.cut[[2]string{at(id), addr}]
			w.mu.Unlock()
			if to == nil || cut {
				return nil, dberr.New(dberr.Unavailable, "%s does not answer", addr)
			}
			return to.Answer(req), nil
		}})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[at(id)] = m
	return m
}

// step takes one round of a node's search.
func step(t *testing.T, m *Meeting) (Outcome, bool) {
	t.Helper()
	out, done, err := m.round(t.Context(), func() (string, error) { return "cluster of " + m.cfg.Self.GetServerId(), nil })
	if err != nil {
		t.Fatal(err)
	}
	return out, done
}

func TestOneOfThoseWhoMeetMakesTheClusterInAnyOrder(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		n := 3 + rng.IntN(4)
		expect := n/2 + 1 // any two sets of that size have a node in common
		w := newTown()
		var waiting []*Meeting
		for id := 1; id <= n; id++ { // everybody is told of one other, in a ring
			waiting = append(waiting, w.add(id, "", expect, at(id), at(id%n+1)))
		}
		founders, joined := 0, map[string]bool{}
		for rounds := 0; len(waiting) > 0; rounds++ {
			if rounds > 1000 {
				t.Fatalf("seed %d: %d nodes still search", seed, len(waiting))
			}
			if rounds%7 == 0 && rounds < 40 { // a way is cut for a while
				w.cut = map[[2]string]bool{{at(1 + rng.IntN(n)), at(1 + rng.IntN(n))}: true}
			} else if rounds >= 40 {
				w.cut = nil
			}
			i := rng.IntN(len(waiting))
			out, done := step(t, waiting[i])
			if !done {
				continue
			}
			if out.ClusterID == "" {
				founders++
			} else {
				joined[out.ClusterID] = true
				waiting[i].Belong(out.ClusterID)
			}
			waiting = slices.Delete(waiting, i, i+1)
		}
		if founders != 1 || len(joined) != 1 {
			t.Fatalf("seed %d: %d founders, joined %v", seed, founders, joined)
		}
	}
}

func TestANodeThatIsToldOfOthersNeverDecidesAlone(t *testing.T) {
	w := newTown()
	m := w.add(1, "", 1, at(1), at(2))
	for range 100 {
		if _, done := step(t, m); done {
			t.Fatal("it decided")
		}
		w.now = w.now.Add(time.Minute)
	}
	w.add(2, "c", 1)
	if out, done := step(t, m); !done || out.ClusterID != "c" || !slices.Equal(out.Members, []string{at(2)}) {
		t.Fatalf("got %+v, %v", out, done)
	}
	if _, done := step(t, w.add(3, "", 1, at(3))); !done {
		t.Error("a node that knows only itself waits")
	}
}

func TestALowerNodeThatIsGoneDelaysTheOthersForAWhile(t *testing.T) {
	w := newTown()
	one, two := w.add(1, "", 2, at(2)), w.add(2, "", 2, at(3))
	w.add(3, "", 2, at(2))
	one.greetAll(t.Context()) // two has heard of one
	delete(w.nodes, at(1))
	step(t, two)
	if _, done := step(t, two); done {
		t.Fatal("decided while a lower node may come back")
	}
	w.now = w.now.Add(forgetAfter + time.Second)
	if out, done := step(t, two); !done || out.ClusterID != "" {
		t.Errorf("%+v, %v after the lower node was gone for long", out, done)
	}
}

func TestNodesOfTwoClustersAreAnError(t *testing.T) {
	w := newTown()
	w.add(1, "c1", 1)
	w.add(2, "c2", 1)
	_, err := w.add(3, "", 1, at(1), at(2)).Find(t.Context(), nil)
	if !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("got %v", err)
	}
}

func TestANodeTellsWhereItListensNow(t *testing.T) {
	w := newTown()
	m := w.add(1, "c", 1)
	m.Answer(&clusterv1.HelloRequest{Node: &catalogv1.Node{ServerId: "n2", RpcAddr: "a2", RaftAddr: "old"}, ClusterId: "c"})
	m.Answer(&clusterv1.HelloRequest{Node: &catalogv1.Node{ServerId: "n2", RpcAddr: "a2", RaftAddr: "new"}, ClusterId: "c"})
	if addr, recent := m.RaftAddr("n2"); addr != "new" || !recent {
		t.Errorf("%s, %v", addr, recent)
	}
	w.now = w.now.Add(forgetAfter + time.Second)
	if addr, recent := m.RaftAddr("n2"); addr != "new" || recent {
		t.Errorf("later: %s, %v", addr, recent)
	}
}

func TestACopyDoesNotTakeOverWhatIsSentToTheOriginal(t *testing.T) {
	w := newTown()
	m := w.add(1, "c", 3)
	hello := func(process, addr string) string {
		m.Answer(&clusterv1.HelloRequest{ClusterId: "c", Node: &catalogv1.Node{NodeId: 2, ServerId: "n2", Process: process,
			RpcAddr: addr, RaftAddr: addr + "/raft"}})
		at, recent := m.RaftAddr("n2")
		if !recent {
			t.Errorf("n2 at %s is not recent", at)
		}
		return at
	}
	pass := func(d time.Duration) { w.mu.Lock(); defer w.mu.Unlock(); w.now = w.now.Add(d) }
	for _, step := range []struct {
		process, addr, want string
		after               time.Duration
	}{
		{process: "p1", addr: "a", want: "a/raft"},
		{process: "p2", addr: "b", want: "a/raft", after: greetPause}, // a copy
		{process: "p1", addr: "a", want: "a/raft", after: greetPause},
		{process: "p2", addr: "b", want: "a/raft", after: twinAfter},
		{process: "p2", addr: "b", want: "b/raft", after: time.Second}, // it moved: p1 was not heard again
		{process: "p3", addr: "b", want: "b/raft"},                     // it was started again
	} {
		pass(step.after)
		if got := hello(step.process, step.addr); got != step.want {
			t.Errorf("%s at %s: messages go to %s, want %s", step.process, step.addr, got, step.want)
		}
	}
}
