package liveclient

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/liveclient/fakelive"
)

// cluster names live nodes as the test says.
type cluster struct {
	pool *rpcnet.Pool

	mu    sync.Mutex
	names []string
}

func (c *cluster) Nodes(role string) (out []*catalogv1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range c.names {
		out = append(out, &catalogv1.Node{ServerId: name, RpcAddr: name, Role: role})
	}
	return out
}

func (c *cluster) Conn(addr string) (*rpcnet.Conn, error) { return c.pool.Get(addr) }

func (c *cluster) set(names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names = names
}

// setUpNodes makes a client and live nodes.
func setUpNodes(t *testing.T, cfg Config, names ...string) (*Client, *cluster, map[string]*fakelive.Role) {
	t.Helper()
	network := rpcnet.NewLocal()
	nodes := &cluster{pool: rpcnet.NewPool(network), names: names}
	roles := map[string]*fakelive.Role{}
	for _, name := range names {
		roles[name] = fakelive.ServeAt(t, network, name)
	}
	cfg.Nodes, cfg.Logger = nodes, slog.New(slog.DiscardHandler)
	c := New(cfg)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return c, nodes, roles
}

func ofUser(user string) *livev1.Subscribe {
	return &livev1.Subscribe{Plan: &queryv1.SubscriptionPlan{UserId: user}, BatchSize: 7, ConnectionId: "c", ClientSubscriptionId: "s"}
}

// userOf finds a user whose best node is the one named.
func userOf(c *Client, name string) string {
	for i := 0; ; i++ {
		if user := fmt.Sprint("user", i); c.ranked("u" + user)[0].id == name {
			return user
		}
	}
}

func next(t *testing.T, q *Queue) *livev1.ConnectResponse {
	t.Helper()
	ev, err := q.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

// wantPosition waits until the position is as it should be: it moves just after the sink has taken an event.
func wantPosition(t *testing.T, sub *Subscription, want uint64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); sub.Position() != want; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("the position is %d, want %d", sub.Position(), want)
		}
	}
}

func wantChange(t *testing.T, q *Queue, seq uint64) {
	t.Helper()
	if ev := next(t, q); ev.GetChanged().GetSeq() != seq {
		t.Fatalf("got %v, want change %d", ev, seq)
	}
}

func TestRendezvousSpreadsAndMovesOnlyWhatItMust(t *testing.T) {
	c, nodes, _ := setUpNodes(t, Config{}, "a", "b", "c")
	const users = 3000
	first, counts := make([]string, users), map[string]int{}
	for i := range users {
		first[i] = c.ranked(fmt.Sprint("u", i))[0].id
		counts[first[i]]++
	}
	for name, n := range counts {
		if n < users/4 || n > users/2 {
			t.Errorf("%s has %d of %d", name, n, users)
		}
	}
	nodes.set("a", "c")
	for i := range users {
		if now := c.ranked(fmt.Sprint("u", i))[0].id; first[i] != "b" && now != first[i] {
			t.Fatalf("user %d moved from %s to %s because b left", i, first[i], now)
		}
	}
	shared := &livev1.Subscribe{Plan: &queryv1.SubscriptionPlan{TableId: 5}}
	if keyOf(shared) != "t5" || keyOf(ofUser("5")) == keyOf(shared) {
		t.Error("tables and users share keys")
	}
}

// A node dies; its subscriptions go on elsewhere, and their clients notice nothing.
func TestSubscriptionsMoveUnseen(t *testing.T) {
	c, _, roles := setUpNodes(t, Config{}, "a", "b")
	user := userOf(c, "a")
	q := NewQueue()
	sub, err := c.Subscribe(t.Context(), ofUser(user), q)
	if err != nil {
		t.Fatal(err)
	}
	id := roles["a"].Subscribe(t).GetSubscription()
	roles["a"].Subscribed(t, &livev1.Subscribed{Subscription: id, Position: 40})
	roles["a"].Changed(t, &livev1.Changed{Subscriptions: []uint64{id}, Seq: 41})
	roles["a"].Progress(t, &livev1.Progress{Subscriptions: []uint64{id}, Position: 45})
	if next(t, q).GetSubscribed() == nil {
		t.Fatal("not acknowledged")
	}
	wantChange(t, q, 41)
	if next(t, q).GetProgress().GetPosition() != 45 {
		t.Fatal("no progress")
	}
	roles["a"].Stop()

	req := roles["b"].Subscribe(t)
	if req.GetFromSeq() != 45 || req.FromSeq == nil || req.GetSnapshot() || req.GetBatchSize() != 7 || req.GetConnectionId() != "c" {
		t.Fatalf("opened again with %v", req)
	}
	id = req.GetSubscription()
	roles["b"].Subscribed(t, &livev1.Subscribed{Subscription: id, Position: 45})
	for _, seq := range []uint64{41, 45, 46} {
		roles["b"].Changed(t, &livev1.Changed{Subscriptions: []uint64{id}, Seq: seq})
	}
	wantChange(t, q, 46)
	wantPosition(t, sub, 46)
	sub.Close()
	if got := roles["b"].Next(t).GetUnsubscribe(); got != id {
		t.Errorf("unsubscribed %d, want %d", got, id)
	}
	if counts, open, _ := c.Stats(); counts.Moved != 1 || counts.Broken != 1 || open != 0 {
		t.Errorf("%+v, %d open", counts, open)
	}
}

// A draining node ends its subscriptions one by one; what it says of their position counts.
func TestDrainedSubscriptionMoves(t *testing.T) {
	c, _, roles := setUpNodes(t, Config{}, "a", "b")
	q := NewQueue()
	if _, err := c.Subscribe(t.Context(), ofUser(userOf(c, "a")), q); err != nil {
		t.Fatal(err)
	}
	id := roles["a"].Subscribe(t).GetSubscription()
	roles["a"].Subscribed(t, &livev1.Subscribed{Subscription: id, Position: 40})
	next(t, q)
	roles["a"].Ended(t, &livev1.Ended{Subscription: id, Code: string(dberr.Unavailable), Position: 50})
	req := roles["b"].Subscribe(t)
	if req.GetFromSeq() != 50 {
		t.Errorf("opened again at %d", req.GetFromSeq())
	}
	roles["a"].Changed(t, &livev1.Changed{Subscriptions: []uint64{id}, Seq: 51}) // late, under the old number
	roles["b"].Changed(t, &livev1.Changed{Subscriptions: []uint64{req.GetSubscription()}, Seq: 51})
	roles["b"].Changed(t, &livev1.Changed{Subscriptions: []uint64{req.GetSubscription()}, Seq: 52})
	wantChange(t, q, 51)
	wantChange(t, q, 52)
}

func TestWhatWasNotAcknowledgedIsAskedForAsItWas(t *testing.T) {
	c, _, roles := setUpNodes(t, Config{}, "a", "b")
	q := NewQueue()
	req := ofUser(userOf(c, "a"))
	req.Snapshot = true
	if _, err := c.Subscribe(t.Context(), req, q); err != nil {
		t.Fatal(err)
	}
	roles["a"].Subscribe(t)
	roles["a"].Stop()
	again := roles["b"].Subscribe(t)
	if again.FromSeq != nil || !again.GetSnapshot() {
		t.Fatalf("asked again with %v", again)
	}
	roles["b"].Subscribed(t, &livev1.Subscribed{Subscription: again.GetSubscription(), Position: 9, SnapshotFollows: true})
	if next(t, q).GetSubscribed().GetPosition() != 9 {
		t.Error("not acknowledged")
	}
}

// Initial rows cannot be gone on with: the client is told where it stands.
func TestSnapshotUnderWayEnds(t *testing.T) {
	c, _, roles := setUpNodes(t, Config{}, "a", "b")
	q := NewQueue()
	req := ofUser(userOf(c, "a"))
	req.Snapshot = true
	if _, err := c.Subscribe(t.Context(), req, q); err != nil {
		t.Fatal(err)
	}
	id := roles["a"].Subscribe(t).GetSubscription()
	roles["a"].Subscribed(t, &livev1.Subscribed{Subscription: id, Position: 90, SnapshotFollows: true})
	roles["a"].InitialRows(t, &livev1.InitialRows{Subscription: id, HasMore: true, LastSeq: 7})
	next(t, q)
	next(t, q)
	roles["a"].Break(t)
	_, err := q.Next(t.Context())
	if !dberr.Is(err, dberr.Unavailable) || dberr.FieldOf(err, dberr.FieldPosition) != "7" {
		t.Fatalf("ended with %v", err)
	}
	if _, open, _ := c.Stats(); open != 0 {
		t.Errorf("%d are still counted", open)
	}
}

// The change log no longer reaches back: as when a live node finds that itself.
func TestMoveToAPrunedPositionEndsAsLagged(t *testing.T) {
	c, _, roles := setUpNodes(t, Config{}, "a", "b")
	q := NewQueue()
	if _, err := c.Subscribe(t.Context(), ofUser(userOf(c, "a")), q); err != nil {
		t.Fatal(err)
	}
	id := roles["a"].Subscribe(t).GetSubscription()
	roles["a"].Subscribed(t, &livev1.Subscribed{Subscription: id, Position: 40})
	next(t, q)
	roles["a"].Stop()
	id = roles["b"].Subscribe(t).GetSubscription()
	roles["b"].Subscribed(t, &livev1.Subscribed{Subscription: id, Position: 99, Reset_: true, SnapshotFollows: true})
	_, err := q.Next(t.Context())
	if !dberr.Is(err, dberr.Lagged) || dberr.FieldOf(err, dberr.FieldPosition) != "40" {
		t.Fatalf("ended with %v", err)
	}
	if got := roles["b"].Next(t).GetUnsubscribe(); got != id {
		t.Errorf("unsubscribed %d", got)
	}
}

func TestNoNodeInTimeEndsWithThePosition(t *testing.T) {
	c, _, roles := setUpNodes(t, Config{GiveUpAfter: 300 * time.Millisecond}, "a")
	q := NewQueue()
	if _, err := c.Subscribe(t.Context(), ofUser("ann"), q); err != nil {
		t.Fatal(err)
	}
	id := roles["a"].Subscribe(t).GetSubscription()
	roles["a"].Subscribed(t, &livev1.Subscribed{Subscription: id, Position: 40})
	next(t, q)
	roles["a"].Stop()
	_, err := q.Next(t.Context())
	if !dberr.Is(err, dberr.Unavailable) || dberr.FieldOf(err, dberr.FieldPosition) != "40" {
		t.Fatalf("ended with %v", err)
	}
	if counts, open, _ := c.Stats(); counts.GivenUp != 1 || open != 0 {
		t.Errorf("%+v, %d open", counts, open)
	}
}

// A subscription that is closed, or a client that stops, while there is no node.
func TestClosedWhileMoving(t *testing.T) {
	c, nodes, roles := setUpNodes(t, Config{GiveUpAfter: time.Hour}, "a")
	qs := [2]*Queue{NewQueue(), NewQueue()}
	var subs [2]*Subscription
	for i, q := range qs {
		var err error
		if subs[i], err = c.Subscribe(t.Context(), ofUser("ann"), q); err != nil {
			t.Fatal(err)
		}
		id := roles["a"].Subscribe(t).GetSubscription()
		roles["a"].Subscribed(t, &livev1.Subscribed{Subscription: id, Position: 40})
		next(t, q)
	}
	nodes.set("gone")
	roles["a"].Stop()
	subs[0].Close()
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := qs[1].Next(t.Context()); !dberr.Is(err, dberr.Unavailable) || dberr.FieldOf(err, dberr.FieldPosition) != "40" {
		t.Errorf("ended with %v", err)
	}
	if ev, err := qs[0].take(); ev != nil || err != nil {
		t.Errorf("the closed one was told %v, %v", ev, err)
	}
	if _, open, _ := c.Stats(); open != 0 {
		t.Errorf("%d are still counted", open)
	}
}

// exact is a sink that checks that positions only rise, and that it is acknowledged once.
type exact struct {
	mu    sync.Mutex
	seqs  []uint64
	acks  int
	fault error
	wake  chan struct{}
}

func (e *exact) Deliver(ev *livev1.ConnectResponse) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if ev.GetSubscribed() != nil {
		e.acks++
	}
	if ch := ev.GetChanged(); ch != nil {
		e.seqs = append(e.seqs, ch.GetSeq())
		select {
		case e.wake <- struct{}{}:
		default:
		}
	}
	return true
}

func (e *exact) End(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault = err
}

// Live nodes stop, break and drain at random while changes flow: no gap, no repeat, in order.
func TestRandomMovesAreExact(t *testing.T) {
	network := rpcnet.NewLocal()
	log := newChangeLog()
	names := []string{"a", "b", "c"}
	nodes := &cluster{pool: rpcnet.NewPool(network), names: names}
	var roles []*replaying
	for _, name := range names {
		roles = append(roles, serveReplay(t, network, name, log))
	}
	c := New(Config{Nodes: nodes, GiveUpAfter: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const subscriptions, rounds = 20, 40
	sinks := make([]*exact, subscriptions)
	for i := range sinks {
		sinks[i] = &exact{wake: make(chan struct{}, 1)}
		from := uint64(1)
		req := ofUser(fmt.Sprint("user", i))
		req.FromSeq = &from
		if _, err := c.Subscribe(t.Context(), req, sinks[i]); err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range rounds {
		before, _, _ := c.Stats()
		if r := roles[rng.IntN(len(roles))]; rng.IntN(3) == 0 {
			r.cutAll()
		} else {
			r.endSome(1 + rng.IntN(subscriptions))
		}
		for i := 0; i < 100; i++ { // changes flow while they move
			log.append()
			if now, _, _ := c.Stats(); now.Moved > before.Moved {
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
	}
	log.append()
	last := log.last()
	for i, s := range sinks {
		for done := false; !done; {
			select {
			case <-s.wake:
			case <-time.After(30 * time.Second):
				t.Fatalf("subscription %d stands at %d changes: %v", i, len(s.seqs), s.fault)
			}
			s.mu.Lock()
			done = s.seqs[len(s.seqs)-1] == last
			s.mu.Unlock()
		}
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, s := range sinks {
		if s.acks != 1 || uint64(len(s.seqs)) != last-1 {
			t.Errorf("subscription %d: %d acks, %d of %d changes", i, s.acks, len(s.seqs), last-1)
		}
		for j, seq := range s.seqs {
			if seq != uint64(j)+2 {
				t.Fatalf("subscription %d: change %d has number %d", i, j, seq)
			}
		}
	}
	if counts, _, _ := c.Stats(); counts.Moved < subscriptions {
		t.Errorf("only %d moves", counts.Moved)
	}
}
