package live

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/storagefake"
)

// patience is how long a test waits for what must come. Nothing is concluded from its passing but failure.
const patience = 60 * time.Second

const messages = 1 // the table of most tests: id, room, body

// world is a fake storage and a live role.
type world struct {
	t       testing.TB
	network *rpcnet.Local
	storage *storagefake.Storage
	live    *Live
	client  livev1.LiveServiceClient
}

func newWorld(t testing.TB, cfg Config) *world { t.Helper(); return newWorldOn(t, cfg, "storage") }

// newWorldOn has a storage of several nodes.
func newWorldOn(t testing.TB, cfg Config, nodes ...string) *world {
	t.Helper()
	cfg.Seeds = nodes
	w := &world{t: t, network: rpcnet.NewLocal()}
	var err error
	if w.storage, err = storagefake.StartNodes(w.network, nodes...); err != nil {
		t.Fatal(err)
	}
	w.storage.SetTable(messagesTable(1))
	cfg.Logger = slog.New(slog.DiscardHandler)
	w.live = New(cfg, w.network)
	if err := w.live.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := rpcnet.Dial(w.network, "live")
	if err != nil {
		t.Fatal(err)
	}
	w.client = livev1.NewLiveServiceClient(conn)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := w.live.Stop(ctx); err != nil {
			t.Error(err)
		}
		w.storage.Stop()
	})
	return w
}

func messagesTable(version uint32) *catalog.Table {
	t := storagefake.Table(messages, "messages", catalog.UserTable,
		catalog.Column{Name: "id", Type: catalog.Type{Kind: catalog.BigInt}},
		catalog.Column{Name: "room", Type: catalog.Type{Kind: catalog.Text}},
		catalog.Column{Name: "body", Type: catalog.Type{Kind: catalog.Text}})
	t.SchemaVersion = version
	return t
}

func (w *world) put(user string, id int64, room, body string) uint64 {
	return w.storage.Put(messages, user, datum.Int(id), datum.Text(room), datum.Text(body))
}

// gateway is a stream to the live role.
type gateway struct {
	w      *world
	stream livev1.LiveService_ConnectClient
	cancel context.CancelFunc

	mu     sync.Mutex
	next   uint64
	subs   map[uint64]*client
	frozen chan struct{} // nothing is read until it is closed
	counts map[string]int
	done   chan struct{}
}

func (w *world) gateway() *gateway {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := w.client.Connect(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	g := &gateway{w: w, stream: stream, cancel: cancel, subs: map[uint64]*client{}, counts: map[string]int{}, done: make(chan struct{})}
	go g.read()
	w.t.Cleanup(g.close)
	return g
}

func (g *gateway) close() {
	g.cancel()
	<-g.done
}

// freeze stops reading until the result is called.
func (g *gateway) freeze() (thaw func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	frozen := make(chan struct{})
	g.frozen = frozen
	return func() {
		g.mu.Lock()
		g.frozen = nil
		g.mu.Unlock()
		close(frozen)
	}
}

func (g *gateway) read() {
	defer close(g.done)
	for {
		g.mu.Lock()
		frozen := g.frozen
		g.mu.Unlock()
		if frozen != nil {
			select {
			case <-frozen:
			case <-g.stream.Context().Done():
				return
			}
		}
		m, err := g.stream.Recv()
		if err != nil {
			return
		}
		g.route(m)
	}
}

func (g *gateway) route(m *livev1.ConnectResponse) {
	var ids []uint64
	switch e := m.GetEvent().(type) {
	case *livev1.ConnectResponse_Subscribed:
		ids = []uint64{e.Subscribed.GetSubscription()}
	case *livev1.ConnectResponse_InitialRows:
		ids = []uint64{e.InitialRows.GetSubscription()}
	case *livev1.ConnectResponse_Ended:
		ids = []uint64{e.Ended.GetSubscription()}
	case *livev1.ConnectResponse_Changed:
		ids = e.Changed.GetSubscriptions()
	case *livev1.ConnectResponse_Progress:
		ids = e.Progress.GetSubscriptions()
	}
	g.mu.Lock()
	g.counts[fmt.Sprintf("%T", m.GetEvent())]++
	var to []*client
	for _, id := range ids {
		if c := g.subs[id]; c != nil {
			to = append(to, c)
		}
	}
	g.mu.Unlock()
	for _, c := range to {
		c.add(m)
	}
}

// client is one subscription as its client sees it.
type client struct {
	g    *gateway
	id   uint64
	user string

	mu    sync.Mutex
	queue []*livev1.ConnectResponse
	wake  chan struct{}
	rows  map[int64]string
	seq   uint64
	// gaps: rows that changed up to this position may be missing although older ones are there, see
	// subscription.Pages. Only who resumes from before it meets them.
	gaps   uint64
	loaded uint64 // every page of its snapshot was read before this position
	recent []string
}

func (c *client) add(m *livev1.ConnectResponse) {
	c.mu.Lock()
	c.queue = append(c.queue, m)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

type option func(*livev1.Subscribe)

func withSnapshot(s *livev1.Subscribe)      { s.Snapshot = true }
func withPush(s *livev1.Subscribe)          { s.PushBatches = true }
func withBatch(n uint32) option             { return func(s *livev1.Subscribe) { s.BatchSize = n } }
func withLast(n uint64) option              { return func(s *livev1.Subscribe) { s.LastRows = &n } }
func withFrom(seq uint64) option            { return func(s *livev1.Subscribe) { s.FromSeq = &seq } }
func withFilter(e *exprv1.Expr) option      { return func(s *livev1.Subscribe) { s.Plan.Filter = e } }
func withColumns(ids ...uint32) option      { return func(s *livev1.Subscribe) { s.Plan.ColumnIds = ids } }
func withEncoding(e livev1.Encoding) option { return func(s *livev1.Subscribe) { s.Encoding = e } }
func withTable(id, version uint32) option {
	return func(s *livev1.Subscribe) { s.Plan.TableId, s.Plan.SchemaVersion = id, version }
}
func withShared(s *livev1.Subscribe) { s.Plan.UserId = "" }

func (g *gateway) subscribe(user string, opts ...option) *client {
	g.w.t.Helper()
	g.mu.Lock()
	g.next++
	c := &client{g: g, id: g.next, user: user, wake: make(chan struct{}, 1), rows: map[int64]string{}}
	g.subs[c.id] = c
	g.mu.Unlock()
	req := &livev1.Subscribe{Subscription: c.id, Encoding: livev1.Encoding_ENCODING_JSON, ConnectionId: "c1",
		ClientSubscriptionId: "s" + strconv.FormatUint(c.id, 10),
		Plan: &queryv1.SubscriptionPlan{Identity: &catalogv1.Identity{UserId: user, Role: catalogv1.Role_ROLE_USER}, TableId: messages,
			SchemaVersion: 1, UserId: user, ColumnIds: []uint32{1, 2, 3}, Sql: "SELECT * FROM app.messages", Namespace: "app", Table: "messages"}}
	for _, o := range opts {
		o(req)
	}
	g.send(&livev1.ConnectRequest{Request: &livev1.ConnectRequest_Subscribe{Subscribe: req}})
	return c
}

func (g *gateway) send(m *livev1.ConnectRequest) {
	g.w.t.Helper()
	if err := g.stream.Send(m); err != nil {
		g.w.t.Fatal(err)
	}
}

func (c *client) nextBatch() {
	c.g.send(&livev1.ConnectRequest{Request: &livev1.ConnectRequest_NextBatch{NextBatch: c.id}})
}

func (c *client) unsubscribe() {
	c.g.send(&livev1.ConnectRequest{Request: &livev1.ConnectRequest_Unsubscribe{Unsubscribe: c.id}})
	c.g.mu.Lock()
	delete(c.g.subs, c.id)
	c.g.mu.Unlock()
}

// next returns the next message that is not a bookmark.
func (c *client) next() *livev1.ConnectResponse {
	c.g.w.t.Helper()
	for {
		if m := c.any(); m.GetProgress() == nil {
			return m
		}
	}
}

func (c *client) any() *livev1.ConnectResponse {
	c.g.w.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		c.mu.Lock()
		if len(c.queue) > 0 {
			m := c.queue[0]
			c.queue = c.queue[1:]
			c.mu.Unlock()
			return m
		}
		c.mu.Unlock()
		select {
		case <-c.wake:
		case <-timer.C:
			c.g.w.t.Fatalf("subscription %d of %s: nothing came; last: %v", c.id, c.user, c.recent)
		}
	}
}

func (c *client) waitSubscribed() *livev1.Subscribed {
	c.g.w.t.Helper()
	m := c.next()
	if m.GetSubscribed() == nil {
		c.g.w.t.Fatalf("got %v instead of Subscribed", m)
	}
	return m.GetSubscribed()
}

func (c *client) waitRows() *livev1.InitialRows {
	c.g.w.t.Helper()
	m := c.next()
	if m.GetInitialRows() == nil {
		c.g.w.t.Fatalf("got %v instead of InitialRows", m)
	}
	return m.GetInitialRows()
}

func (c *client) waitChanged() *livev1.Changed {
	c.g.w.t.Helper()
	m := c.next()
	if m.GetChanged() == nil {
		c.g.w.t.Fatalf("got %v instead of Changed", m)
	}
	return m.GetChanged()
}

func (c *client) waitEnded() *livev1.Ended {
	c.g.w.t.Helper()
	m := c.next()
	if m.GetEnded() == nil {
		c.g.w.t.Fatalf("got %v instead of Ended", m)
	}
	return m.GetEnded()
}

// apply applies a message to the client's copy of the rows, strictly: an INSERT must be of a row it does
// not have, an UPDATE or DELETE of one it has.
func (c *client) apply(m *livev1.ConnectResponse, strict bool) error {
	c.recent = append(c.recent, fmt.Sprint(m))
	if len(c.recent) > 8 {
		c.recent = c.recent[1:]
	}
	if r := m.GetInitialRows(); r != nil {
		for id, text := range decodeRows(r.GetRows()) {
			if _, has := c.rows[id]; has && strict {
				return fmt.Errorf("row %d came twice", id)
			}
			c.rows[id] = text
		}
		return nil
	}
	ch := m.GetChanged()
	if ch == nil {
		return nil
	}
	if ch.GetSeq() <= c.seq {
		return fmt.Errorf("seq %d after %d", ch.GetSeq(), c.seq)
	}
	c.seq = ch.GetSeq()
	for id := range decodeRows(ch.GetOldRows()) {
		if _, has := c.rows[id]; !has && strict && ch.GetSeq() > c.gaps {
			return fmt.Errorf("%s of row %d, which was never sent", ch.GetKind(), id)
		}
		delete(c.rows, id)
	}
	for id, text := range decodeRows(ch.GetRows()) {
		if _, has := c.rows[id]; has && strict {
			return fmt.Errorf("%s of row %d, which is there", ch.GetKind(), id)
		}
		c.rows[id] = text
	}
	return nil
}

func decodeRows(b []byte) map[int64]string {
	out := map[int64]string{}
	if len(b) == 0 {
		return out
	}
	var rows []map[string]string
	if err := json.Unmarshal(b, &rows); err != nil {
		panic(fmt.Sprintf("rows %q: %v", b, err))
	}
	for _, r := range rows {
		id, err := strconv.ParseInt(r["id"], 10, 64)
		if err != nil {
			panic(fmt.Sprintf("rows %q: %v", b, err))
		}
		out[id] = r["room"] + "/" + r["body"]
	}
	return out
}

// truth is a partition as text.
func (w *world) truth(user string, keep func(room string) bool) map[int64]string {
	out := map[int64]string{}
	for id, v := range w.storage.Rows(messages, user) {
		if room := v[1].AsText(); keep(room) {
			out[id] = room + "/" + v[2].AsText()
		}
	}
	return out
}

func sameRows(got, want map[int64]string) error {
	if maps.Equal(got, want) {
		return nil
	}
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if got[id] != want[id] {
			return fmt.Errorf("row %d is %q instead of %q", id, got[id], want[id])
		}
	}
	for id := range got {
		if _, ok := want[id]; !ok {
			return fmt.Errorf("row %d should not be there", id)
		}
	}
	return nil
}
