package ws

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/coder/websocket"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/liveclient"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/liveclient/fakelive"
)

// clock is a clock that stands until it is moved.
type clock struct{ us atomic.Int64 }

func (c *clock) now() time.Time          { return time.UnixMicro(c.us.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.us.Add(d.Microseconds()) }

// accounts is an Authenticator: the token of user x is "x-token", the password "x-password".
type accounts struct {
	clock *clock
	mu    sync.Mutex
	done  map[string]chan struct{}
	held  atomic.Int64
}

func (a *accounts) session(user string) (Session, error) {
	if user == "" || user == "mallory" {
		return Session{}, dberr.New(dberr.Unauthenticated, "Invalid credentials")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done[user] == nil {
		a.done[user] = make(chan struct{})
	}
	a.held.Add(1)
	s := Session{Identity: catalog.Identity{UserID: user, Role: catalog.RoleUser}, Done: a.done[user],
		Release: func() { a.held.Add(-1) }}
	if user == "shortlived" {
		s.ExpiresAt = a.clock.now().Add(5 * time.Second)
	}
	return s, nil
}

func (a *accounts) Bearer(_ context.Context, token string, _ netip.Addr) (Session, error) {
	user, ok := strings.CutSuffix(token, "-token")
	if !ok {
		return a.session("")
	}
	return a.session(user)
}

func (a *accounts) Basic(_ context.Context, user, password string, _ netip.Addr) (Session, error) {
	if password != user+"-password" {
		return a.session("")
	}
	return a.session(user)
}

func (a *accounts) revoke(user string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.done[user])
	delete(a.done, user)
}

// planner is the query role: SQL that names a code fails with it, anything else is table 7 on shard 3.
type planner struct {
	queryv1.UnimplementedQueryServiceServer
}

func (planner) PlanSubscription(_ context.Context, in *queryv1.PlanSubscriptionRequest) (*queryv1.PlanSubscriptionResponse, error) {
	sql := in.GetSql()
	for _, code := range []dberr.Code{dberr.TableNotFound, dberr.PermissionDenied, dberr.InvalidSQL, dberr.Unsupported, dberr.Internal} {
		if strings.HasPrefix(sql, "FAIL "+string(code)) {
			return nil, dberr.New(code, "this SQL fails with %s", code)
		}
	}
	resp := &queryv1.PlanSubscriptionResponse{Plan: &queryv1.SubscriptionPlan{Identity: in.GetIdentity(), Shard: 3, TableId: 7,
		UserId: in.GetIdentity().GetUserId(), Sql: sql}}
	if strings.Contains(sql, "OPTIONS (last_rows=5)") {
		n := uint64(5)
		resp.LastRows = &n
	}
	return resp, nil
}

// world is a handler with everything around it.
type world struct {
	handler *Handler
	live    *fakelive.Role
	auth    *accounts
	clock   *clock
	server  *httptest.Server
}

func newWorld(t testing.TB, cfg Config) *world {
	t.Helper()
	w := &world{clock: &clock{}}
	w.clock.us.Store(1761645600_000000)
	w.auth = &accounts{clock: w.clock, done: map[string]chan struct{}{}}
	network := rpcnet.NewLocal()
	w.live = fakelive.Serve(t, network)
	query, err := rpcnet.NewServer(network, "query", rpcnet.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	queryv1.RegisterQueryServiceServer(query.Registrar(), planner{})
	query.Serve()
	queryConn, err := rpcnet.Dial(network, "query")
	if err != nil {
		t.Fatal(err)
	}
	client := liveclient.New(liveclient.Config{Nodes: directory{rpcnet.NewPool(network)}})
	cfg.Now, cfg.ClusterID = w.clock.now, "test"
	w.handler = New(cfg, Deps{Auth: w.auth, Planner: queryv1.NewQueryServiceClient(queryConn), Live: client})
	if err := errors.Join(client.Start(t.Context()), w.handler.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	w.server = httptest.NewServer(w.handler)
	t.Cleanup(func() {
		w.server.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(w.handler.Stop(ctx), client.Stop(ctx)); err != nil {
			t.Error(err)
		}
		query.Stop(ctx)
		if n := w.auth.held.Load(); n != 0 {
			t.Errorf("%d sessions were not released", n)
		}
		if n := len(w.handler.users); n != 0 {
			t.Errorf("%d users are still counted", n)
		}
	})
	return w
}

// directory knows no nodes: the one named live is meant.
type directory struct{ *rpcnet.Pool }

func (directory) Nodes(string) []*catalogv1.Node { return nil }

func (d directory) Conn(addr string) (*rpcnet.Conn, error) { return d.Get(addr) }

func (w *world) dial(t testing.TB, path string, header http.Header) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	c, resp, err := websocket.Dial(t.Context(), w.server.URL+path, &websocket.DialOptions{HTTPHeader: header})
	if c != nil {
		c.SetReadLimit(64 << 20)
		t.Cleanup(func() { _ = c.CloseNow() })
	}
	return c, resp, err
}

// pass lets time pass, after the sweeper has noted what was heard before.
func (w *world) pass(d time.Duration) {
	w.handler.sweep()
	w.clock.advance(d)
	w.handler.sweep()
}

// login opens a socket as a user.
func (w *world) login(t testing.TB, user string) *websocket.Conn {
	t.Helper()
	c, _, err := w.dial(t, "/v1/ws", http.Header{"Authorization": {"Bearer " + user + "-token"}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func say(t testing.TB, c *websocket.Conn, text string) {
	t.Helper()
	if err := c.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// hear reads a frame and shows how it came.
func hear(t testing.TB, c *websocket.Conn) string {
	t.Helper()
	kind, b, err := c.Read(t.Context())
	if err != nil {
		var ce websocket.CloseError
		if errors.As(err, &ce) {
			return fmt.Sprintf("closed %d %s", ce.Code, ce.Reason)
		}
		t.Fatalf("no frame: %v", err)
	}
	if kind == websocket.MessageText {
		return string(b)
	}
	prefix := ""
	if isGzip(b) {
		prefix, b = "gzip ", gunzip(t, b)
	}
	if looksLikeJSON(b) {
		return prefix + string(b)
	}
	var v any
	if err := msgpack.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return prefix + "msgpack " + string(text)
}

func gunzip(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// subscribe opens a subscription without snapshot and returns its id on the live stream.
func (w *world) subscribe(t testing.TB, c *websocket.Conn, id string) uint64 {
	t.Helper()
	say(t, c, fmt.Sprintf(`{"type":"subscribe","subscription":{"id":%q,"sql":"SELECT * FROM app.t"}}`, id))
	live := w.live.Subscribe(t).GetSubscription()
	w.live.Subscribed(t, &livev1.Subscribed{Subscription: live, Position: 100, SchemaIpc: schemaOf(t, "id,body")})
	if got := hear(t, c); !strings.HasPrefix(got, `{"type":"subscription_ack"`) {
		t.Fatalf("got %s", got)
	}
	return live
}

// schemaOf encodes the schema of some of the test table's columns.
func schemaOf(t testing.TB, names string) []byte {
	t.Helper()
	all := map[string]catalog.Column{
		"id":    {ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true, PrimaryKey: true, Unique: true},
		"body":  {ID: 2, Name: "body", Type: catalog.Type{Kind: catalog.Text}},
		"price": {ID: 3, Name: "price", Type: catalog.Type{Kind: catalog.Decimal, Precision: 10, Scale: 2}, NotNull: true},
		"emb":   {ID: 4, Name: "emb", Type: catalog.Type{Kind: catalog.Embedding, Dimension: 3}},
	}
	var cols []catalog.Column
	for name := range strings.SplitSeq(names, ",") {
		cols = append(cols, all[name])
	}
	cols = append(cols, catalog.SystemColumns[0])
	schema, err := rowbatch.SchemaOf(cols)
	if err != nil {
		t.Fatal(err)
	}
	b, err := rowbatch.Encode(memory.DefaultAllocator, schema, nil, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// repack makes MessagePack of JSON rows.
func repack(t testing.TB, rows []byte) []byte {
	t.Helper()
	var v any
	if err := json.Unmarshal(rows, &v); err != nil {
		t.Fatal(err)
	}
	b, err := msgpack.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}
