package group

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/router"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/outbox"
	"github.com/kalamdb/kalamdb-go/services/live/internal/snapshot"
	"github.com/kalamdb/kalamdb-go/services/live/internal/storagefake"
	"github.com/kalamdb/kalamdb-go/services/live/internal/subscription"
)

// flaky is pages of which the first attempts fail.
type flaky struct {
	fails []error
	asked []snapshot.Request
}

func (f *flaky) Read(_ context.Context, req snapshot.Request) (*snapshot.Page, error) {
	f.asked = append(f.asked, req)
	if len(f.fails) > 0 {
		err := f.fails[0]
		f.fails = f.fails[1:]
		return nil, err
	}
	return &snapshot.Page{Position: 7}, nil
}

func TestAPageIsReadAgainWhenItsShardHasNoLeader(t *testing.T) {
	unavailable, notLeader := dberr.New(dberr.Unavailable, "down"), dberr.New(dberr.NotLeader, "moved")
	f := &flaky{fails: []error{unavailable, notLeader, unavailable}}
	h := &Hub{pages: f}
	page, err := h.read(t.Context(), snapshot.Request{After: 5, UpTo: 9})
	if err != nil || page.Position != 7 || len(f.asked) != 4 {
		t.Fatalf("%v, %v after %d attempts", page, err, len(f.asked))
	}
	for _, req := range f.asked {
		if req.After != 5 || req.UpTo != 9 {
			t.Errorf("asked again for %+v", req)
		}
	}
	f.fails = []error{dberr.New(dberr.LimitExceeded, "too many")}
	if _, err := h.read(t.Context(), snapshot.Request{}); !dberr.Is(err, dberr.LimitExceeded) || len(f.asked) != 5 {
		t.Errorf("an answer was not passed on: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.fails = []error{notLeader, notLeader, notLeader}
	if _, err := h.read(ctx, snapshot.Request{}); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("out of time: %v", err)
	}
}

func TestBookmarksAreDuePerShard(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	h := &Hub{cfg: Config{Now: func() time.Time { return now }, ProgressEvery: time.Second}, told: map[uint32]time.Time{}}
	if !h.bookmarksDue(1) || h.bookmarksDue(1) || !h.bookmarksDue(2) {
		t.Error("not once per shard")
	}
	now = now.Add(time.Second)
	if !h.bookmarksDue(1) || h.bookmarksDue(1) {
		t.Error("not once per second")
	}
}

// bench is a hub on a storage fake.
type bench struct {
	hub     *Hub
	storage *storagefake.Storage
	table   *catalog.Table
	stream  *Stream
}

func newBench(t *testing.T, subscriptionsMax int) *bench {
	network := rpcnet.NewLocal()
	storage, err := storagefake.Start(network)
	if err != nil {
		t.Fatal(err)
	}
	table := storagefake.Table(1, "messages", catalog.UserTable, catalog.Column{Name: "id", Type: catalog.Type{Kind: catalog.BigInt}})
	storage.SetTable(table)
	log := slog.New(slog.DiscardHandler)
	way := router.New(router.Config{Network: network, Seeds: []string{"storage"}, Logger: log})
	if err := way.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := New(Config{Log: log, Now: time.Now, SubscriptionsMax: subscriptionsMax, Outbox: outbox.Limits{Messages: 1000, Bytes: 1 << 20},
		Buffer: subscription.Limits{Rows: 10, Bytes: 1 << 10}, BufferBytes: 1 << 20, PageRows: 10, PageTimeout: time.Minute,
		OpenTimeout: time.Minute, ProgressEvery: time.Minute}, way, snapshot.NewReader(way))
	h.Start(t.Context())
	t.Cleanup(func() {
		h.Stop()
		way.Stop()
		storage.Stop()
		if st := h.Stats(); st.Subscriptions+st.Partitions+st.Groups+st.Shapes+st.BufferBytes != 0 {
			t.Errorf("left behind: %+v", st)
		}
	})
	stream, err := h.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &bench{h, storage, table, stream}
}

func (b *bench) subscribe(t *testing.T, id uint64, user string) {
	t.Helper()
	req := &livev1.Subscribe{Subscription: id, Encoding: livev1.Encoding_ENCODING_JSON, Plan: &queryv1.SubscriptionPlan{UserId: user,
		Identity: &catalogv1.Identity{UserId: user, Role: catalogv1.Role_ROLE_USER}, TableId: 1, SchemaVersion: 1, ColumnIds: []uint32{1}}}
	if err := b.stream.Subscribe(req, b.table); err != nil {
		t.Fatal(err)
	}
}

// take returns the next message that is not a bookmark.
func (b *bench) take(t *testing.T) *livev1.ConnectResponse {
	t.Helper()
	for {
		m, ok := b.stream.Out().Take(t.Context())
		if !ok {
			t.Fatal("the outbox is closed")
		}
		if m.GetProgress() == nil {
			return m
		}
	}
}

// Subscriptions with equal filter, projection and encoding are one group: one evaluation, one message.
func TestAGroupSharesItsMessages(t *testing.T) {
	b := newBench(t, 10)
	for id := range uint64(3) {
		b.subscribe(t, id+1, "ann")
	}
	for range 3 {
		if b.take(t).GetSubscribed() == nil {
			t.Fatal("not acknowledged")
		}
	}
	b.storage.Put(1, "bob", datum.Int(1))
	seq := b.storage.Put(1, "ann", datum.Int(1))
	m := b.take(t).GetChanged()
	if m.GetSeq() != seq || len(m.GetSubscriptions()) != 3 {
		t.Fatalf("%v", m)
	}
	if st := b.hub.Stats(); st.Groups != 1 || st.Partitions != 1 || st.Shapes != 1 || b.hub.Counts().Matched.Load() != 1 {
		t.Errorf("%+v", st)
	}
	b.stream.Unsubscribe(2)
	b.storage.Put(1, "ann", datum.Int(2))
	if m := b.take(t).GetChanged(); len(m.GetSubscriptions()) != 2 {
		t.Errorf("%v", m)
	}
}

func TestSubscriptionsAreLimited(t *testing.T) {
	b := newBench(t, 2)
	for id := range uint64(3) {
		b.subscribe(t, id+1, "ann")
	}
	refused := 0
	for range 3 {
		if e := b.take(t).GetEnded(); e != nil {
			refused++
			if e.GetSubscription() != 3 || e.GetCode() != string(dberr.LimitExceeded) {
				t.Errorf("%v", e)
			}
		}
	}
	if refused != 1 {
		t.Errorf("%d were refused", refused)
	}
}

// Draining ends what is there, in shares, each with its position, and lets nothing in.
func TestDrainEndsAllWithTheirPositions(t *testing.T) {
	const n = 50
	b := newBench(t, n)
	for id := range uint64(n) {
		b.subscribe(t, id+1, fmt.Sprint("u", id))
	}
	for range n {
		b.take(t)
	}
	b.hub.Refuse(true)
	b.hub.Drain(t.Context(), 3*drainStep)
	for range n {
		if e := b.take(t).GetEnded(); e.GetCode() != string(dberr.Unavailable) || e.GetPosition() != storagefake.FirstSeq {
			t.Fatalf("%v", e)
		}
	}
	b.subscribe(t, 99, "late")
	if e := b.take(t).GetEnded(); e.GetSubscription() != 99 || e.GetCode() != string(dberr.Unavailable) {
		t.Errorf("%v", e)
	}
	b.hub.Refuse(false)
	b.subscribe(t, 100, "later")
	if b.take(t).GetSubscribed() == nil {
		t.Error("refused after it was taken back")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.subscribe(t, 101, "more")
	b.take(t)
	b.hub.Drain(ctx, time.Hour) // returns at once
}
