package liveclient

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/liveclient/fakelive"
)

func setUp(t *testing.T, cfg Config) (*Client, *fakelive.Role) {
	t.Helper()
	network := rpcnet.NewLocal()
	role := fakelive.Serve(t, network)
	cfg.Nodes = &cluster{pool: rpcnet.NewPool(network)}
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
	return c, role
}

func subscribe(t *testing.T, c *Client, role *fakelive.Role, sink Sink, req *livev1.Subscribe) (*Subscription, uint64) {
	t.Helper()
	sub, err := c.Subscribe(t.Context(), req, sink)
	if err != nil {
		t.Fatal(err)
	}
	return sub, role.Subscribe(t).GetSubscription()
}

func TestEventsReachTheirSubscriptions(t *testing.T) {
	c, role := setUp(t, Config{})
	qa, qb := NewQueue(), NewQueue()
	_, a := subscribe(t, c, role, qa, &livev1.Subscribe{})
	subB, b := subscribe(t, c, role, qb, &livev1.Subscribe{})
	if a == b {
		t.Fatalf("both have id %d", a)
	}
	role.Changed(t, &livev1.Changed{Subscriptions: []uint64{a, b, 999}, Seq: 5})
	role.Changed(t, &livev1.Changed{Subscriptions: []uint64{b}, Seq: 6})
	role.Ended(t, &livev1.Ended{Subscription: a, Code: string(dberr.TableNotFound), Message: "gone", Position: 5})
	if ev, err := qa.Next(t.Context()); err != nil || ev.GetChanged().GetSeq() != 5 {
		t.Fatalf("a got %v, %v", ev, err)
	}
	if _, err := qa.Next(t.Context()); !dberr.Is(err, dberr.TableNotFound) || err.Error() != "gone" ||
		dberr.FieldOf(err, dberr.FieldPosition) != "5" {
		t.Fatalf("a ended with %v", err)
	}
	for _, want := range []uint64{5, 6} {
		if ev, err := qb.Next(t.Context()); err != nil || ev.GetChanged().GetSeq() != want {
			t.Fatalf("b got %v, %v; want %d", ev, err, want)
		}
	}
	wantPosition(t, subB, 6)
	subB.Close()
	subB.Close()
	if got := role.Next(t).GetUnsubscribe(); got != b {
		t.Errorf("unsubscribed %d, want %d", got, b)
	}
}

func TestBatchesAreAskedForOnce(t *testing.T) {
	c, role := setUp(t, Config{})
	q := NewQueue()
	sub, id := subscribe(t, c, role, q, &livev1.Subscribe{Snapshot: true})
	role.Subscribed(t, &livev1.Subscribed{Subscription: id, Position: 50, SnapshotFollows: true})
	role.InitialRows(t, &livev1.InitialRows{Subscription: id, HasMore: true, LastSeq: 7, RowCount: 1})
	for range 2 {
		if _, err := q.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wantPosition(t, sub, 7)
	if err := sub.NextBatch(); err != nil {
		t.Fatal(err)
	}
	if err := sub.NextBatch(); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("asking twice: %v", err)
	}
	if got := role.Next(t).GetNextBatch(); got != id {
		t.Errorf("asked for %d", got)
	}
	role.InitialRows(t, &livev1.InitialRows{Subscription: id, BatchNum: 1, LastSeq: 9, RowCount: 1})
	if _, err := q.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	role.Progress(t, &livev1.Progress{Subscriptions: []uint64{id}, Position: 60}) // orders what follows
	if _, err := q.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sub.NextBatch(); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("asking after the last: %v", err)
	}
}

func TestPositions(t *testing.T) {
	subscribed := func(p uint64, snapshot bool) *livev1.ConnectResponse {
		return &livev1.ConnectResponse{Event: &livev1.ConnectResponse_Subscribed{
			Subscribed: &livev1.Subscribed{Position: p, SnapshotFollows: snapshot}}}
	}
	rows := func(last uint64, more bool) *livev1.ConnectResponse {
		return &livev1.ConnectResponse{Event: &livev1.ConnectResponse_InitialRows{
			InitialRows: &livev1.InitialRows{LastSeq: last, HasMore: more}}}
	}
	for _, c := range []struct {
		name   string
		from   uint64
		events []*livev1.ConnectResponse
		want   uint64
	}{
		{"changes only", 0, []*livev1.ConnectResponse{subscribed(50, false)}, 50},
		{"resuming: what was missed is still to come", 30, []*livev1.ConnectResponse{subscribed(50, false)}, 30},
		{"a snapshot that has not begun", 0, []*livev1.ConnectResponse{subscribed(50, true)}, 0},
		{"a reset makes the position asked for void", 30, []*livev1.ConnectResponse{subscribed(50, true)}, 0},
		{"half a snapshot", 0, []*livev1.ConnectResponse{subscribed(50, true), rows(7, true)}, 7},
		{"an empty snapshot", 0, []*livev1.ConnectResponse{subscribed(50, true), rows(0, false)}, 50},
		{"a snapshot read later than registered", 0, []*livev1.ConnectResponse{subscribed(50, true), rows(55, false)}, 55},
	} {
		sub := Subscription{req: &livev1.Subscribe{}}
		if c.from != 0 {
			sub.req.FromSeq = &c.from
		}
		sub.position.Store(c.from)
		for _, ev := range c.events {
			sub.advance(ev)
		}
		if sub.Position() != c.want {
			t.Errorf("%s: %d, want %d", c.name, sub.Position(), c.want)
		}
	}
}

func TestASlowConsumerLagsAloneAndKnowsItsPosition(t *testing.T) {
	c, role := setUp(t, Config{})
	slow, fast := NewQueue(), NewQueue()
	_, s := subscribe(t, c, role, slow, &livev1.Subscribe{})
	_, f := subscribe(t, c, role, fast, &livev1.Subscribe{})
	for seq := uint64(1); seq <= queueRowsMax+10; seq++ {
		role.Changed(t, &livev1.Changed{Subscriptions: []uint64{s, f}, Seq: seq})
		if ev, err := fast.Next(t.Context()); err != nil || ev.GetChanged().GetSeq() != seq {
			t.Fatalf("the fast one got %v, %v", ev, err)
		}
	}
	if got := role.Next(t).GetUnsubscribe(); got != s {
		t.Fatalf("unsubscribed %d, want %d", got, s)
	}
	for seq := uint64(1); seq <= queueRowsMax; seq++ {
		if ev, err := slow.Next(t.Context()); err != nil || ev.GetChanged().GetSeq() != seq {
			t.Fatalf("the slow one got %v, %v", ev, err)
		}
	}
	if _, err := slow.Next(t.Context()); !dberr.Is(err, dberr.Lagged) || dberr.FieldOf(err, dberr.FieldPosition) != "2048" {
		t.Errorf("the slow one ended with %v", err)
	}
}

func TestQueueCountsBytes(t *testing.T) {
	q := NewQueue()
	wide := &livev1.ConnectResponse{Event: &livev1.ConnectResponse_Changed{Changed: &livev1.Changed{Rows: make([]byte, queueBytesMax+1)}}}
	if !q.Deliver(wide) {
		t.Fatal("one event must be taken however large")
	}
	if q.Deliver(wide) {
		t.Fatal("a second one must not")
	}
	if _, err := q.Next(t.Context()); err != nil || !q.Deliver(wide) {
		t.Fatalf("the place was not freed: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	c, role := setUp(t, Config{SubscriptionsMax: 1})
	subscribe(t, c, role, NewQueue(), &livev1.Subscribe{})
	if _, err := c.Subscribe(t.Context(), &livev1.Subscribe{}, NewQueue()); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("one more than allowed: %v", err)
	}
	alone := New(Config{Nodes: &cluster{pool: rpcnet.NewPool(rpcnet.NewLocal())}})
	defer func() {
		if err := alone.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if _, err := alone.Subscribe(t.Context(), &livev1.Subscribe{}, NewQueue()); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("before Start: %v", err)
	}
	if err := alone.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := alone.Subscribe(t.Context(), &livev1.Subscribe{}, NewQueue()); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("without a live role: %v", err)
	}
}

func TestStopEndsSubscriptions(t *testing.T) {
	c, role := setUp(t, Config{})
	q := NewQueue()
	subscribe(t, c, role, q, &livev1.Subscribe{})
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Next(t.Context()); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("ended with %v", err)
	}
	if _, err := c.Subscribe(t.Context(), &livev1.Subscribe{}, NewQueue()); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("after Stop: %v", err)
	}
}

// TestConcurrentUse opens and closes from many goroutines while events flow; it is for the race detector.
func TestConcurrentUse(t *testing.T) {
	c, role := setUp(t, Config{})
	_, id := subscribe(t, c, role, NewQueue(), &livev1.Subscribe{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				sub, err := c.Subscribe(t.Context(), &livev1.Subscribe{}, NewQueue())
				if err != nil {
					t.Error(err)
					return
				}
				sub.Close()
			}
		})
	}
	for seq := range uint64(200) {
		role.Changed(t, &livev1.Changed{Subscriptions: []uint64{id, id + 1, id + 2, id + 3}, Seq: seq + 1})
	}
	wg.Wait()
	opened, closed := 0, 0
	for opened+closed < 1600 {
		if m := role.Next(t); m.GetSubscribe() != nil {
			opened++
		} else {
			closed++
		}
	}
	if opened != 800 || closed != 800 {
		t.Errorf("%d opened, %d closed", opened, closed)
	}
}
