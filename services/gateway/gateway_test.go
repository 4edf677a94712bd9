package gateway

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"google.golang.org/grpc/metadata"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/gatewaytest"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/liveclient/fakelive"
)

const anyPort = "127.0.0.1:0"

type bench struct {
	t       *testing.T
	gateway *Gateway
	catalog *gatewaytest.Catalog
	query   *gatewaytest.Query
	live    *fakelive.Role
	client  kalamv1.KalamServiceClient
}

func newBench(t *testing.T, change ...func(*Config)) *bench {
	net := rpcnet.NewLocal()
	b := &bench{t: t, catalog: gatewaytest.NewCatalog(t, net), query: &gatewaytest.Query{}, live: fakelive.Serve(t, net)}
	b.query.Serve(t, net)
	for id, role := range map[string]catalogv1.Role{"alice": catalogv1.Role_ROLE_USER, "bob": catalogv1.Role_ROLE_USER, "dba": catalogv1.Role_ROLE_DBA,
		"root": catalogv1.Role_ROLE_SYSTEM} {
		b.catalog.AddUser(t, &catalogv1.User{UserId: id, Role: role, AuthType: "password"}, id+" secret")
	}
	cfg := Config{Listen: Listen{HTTPAddr: anyPort, GRPCAddr: anyPort, OpsAddr: anyPort}, Logger: slog.New(slog.DiscardHandler)}
	cfg.Auth.BcryptCost = gatewaytest.BcryptCost
	for _, f := range change {
		f(&cfg)
	}
	b.gateway = New(cfg, net, rpcnet.TCP{})
	if err := b.gateway.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.gateway.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	conn, err := rpcnet.Dial(rpcnet.TCP{}, b.gateway.GRPCAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	b.client = kalamv1.NewKalamServiceClient(conn)
	return b
}

// as is a context that authenticates with Basic.
func (b *bench) as(user string) context.Context {
	return metadata.AppendToOutgoingContext(b.t.Context(), "authorization", "Basic "+basic(user, user+" secret"))
}

func wantCode(t *testing.T, what string, err error, want dberr.Code) {
	t.Helper()
	if got := dberr.CodeOf(dberr.FromStatus(err)); got != want {
		t.Errorf("%s: got %v (%s), want %s", what, err, got, want)
	}
}

var columns = []catalog.Column{{Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, PrimaryKey: true},
	{Name: "body", Type: catalog.Type{Kind: catalog.Text}}}

func row(id int64, body string) []datum.Datum { return []datum.Datum{datum.Int(id), datum.Text(body)} }

func TestExecute(t *testing.T) {
	b := newBench(t)
	stream := gatewaytest.IPC(t, columns, row(1, "a"))
	b.query.OnExecute = func(r *queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
		if r.GetSql() == "fail" {
			return &queryv1.ExecuteResponse{Error: &storagev1.Error{Code: string(dberr.InvalidSQL), Message: "no", Fields: map[string]string{"line": "3"}}}, nil
		}
		if r.GetSql() == "break" {
			return nil, dberr.New(dberr.Internal, "secret path")
		}
		if r.GetIdentity().GetUserId() != "alice" || r.GetNamespace() != "app" || r.GetParams()[0].GetInteger() != 7 || !r.GetParams()[1].GetNull() {
			t.Errorf("request %v", r)
		}
		return &queryv1.ExecuteResponse{Results: []*queryv1.StatementResult{{ArrowIpc: stream, RowCount: 1, AsUser: "alice",
			Durability: storagev1.Durability_DURABILITY_QUORUM, Position: 9}}}, nil
	}
	resp, err := b.client.Execute(b.as("alice"), &kalamv1.ExecuteRequest{Sql: "x", NamespaceId: "app",
		Params: []*kalamv1.Value{{Kind: &kalamv1.Value_Integer{Integer: 7}}, {}}})
	if err != nil {
		t.Fatal(err)
	}
	r := resp.GetResults()[0]
	if !bytes.Equal(r.GetArrowIpc(), stream) || r.GetDurability() != kalamv1.Durability_DURABILITY_QUORUM || r.GetPosition() != 9 {
		t.Errorf("result %v", r)
	}
	_, err = b.client.Execute(b.as("alice"), &kalamv1.ExecuteRequest{Sql: "fail"})
	wantCode(t, "a failed statement", err, dberr.InvalidSQL)
	if dberr.FieldOf(err, "line") != "3" {
		t.Errorf("the line is lost: %v", err)
	}
	_, err = b.client.Execute(b.as("alice"), &kalamv1.ExecuteRequest{Sql: "break"})
	wantCode(t, "a fault of ours", err, dberr.Internal)
	if strings.Contains(err.Error(), "secret path") {
		t.Errorf("alice reads %v", err)
	}
	if _, err = b.client.Execute(b.as("dba"), &kalamv1.ExecuteRequest{Sql: "break"}); !strings.Contains(err.Error(), "secret path") {
		t.Errorf("an administrator reads %v", err)
	}
}

func TestGRPCCredentials(t *testing.T) {
	b := newBench(t)
	b.query.OnExecute = func(*queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
		return &queryv1.ExecuteResponse{}, nil
	}
	call := func(values ...string) error {
		ctx := t.Context()
		for _, v := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
		}
		_, err := b.client.Execute(ctx, &kalamv1.ExecuteRequest{Sql: "x"})
		return err
	}
	good := "Basic " + basic("alice", "alice secret")
	wantCode(t, "good", call(good), "")
	wantCode(t, "none", call(), dberr.Unauthenticated)
	wantCode(t, "two", call(good, good), dberr.Unauthenticated)
	wantCode(t, "wrong", call("Basic "+basic("alice", "x")), dberr.Unauthenticated)
	wantCode(t, "not base64", call("Basic ???"), dberr.Unauthenticated)
	wantCode(t, "no colon", call("Basic YWxpY2U="), dberr.Unauthenticated)
	wantCode(t, "bearer", call("Bearer abc"), dberr.Unauthenticated)
	wantCode(t, "empty", call("Bearer "), dberr.Unauthenticated)
}

// TestQuery: the chunks concatenated are the batches the query role sent, whatever their size.
func TestQuery(t *testing.T) {
	b := newBench(t)
	small := gatewaytest.Batch(t, columns, row(1, "a"), row(2, "b"))
	defer small.Release()
	large := gatewaytest.Batch(t, columns, row(3, strings.Repeat("x", 3<<20)))
	defer large.Release()
	b.query.OnGet = func(s *queryv1.StatementTicket, stream flight.FlightService_DoGetServer) error {
		if s.GetSql() == "fail" {
			return dberr.New(dberr.TableNotFound, "no such table")
		}
		if s.GetIdentity().GetUserId() != "alice" {
			t.Errorf("ticket %v", s)
		}
		return gatewaytest.SendBatches(stream, small, large, small)
	}
	stream, err := b.client.Query(b.as("alice"), &kalamv1.QueryRequest{Sql: "SELECT"})
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(m.GetArrowIpc()) > 2<<20 {
			t.Errorf("a chunk of %d bytes", len(m.GetArrowIpc()))
		}
		all.Write(m.GetArrowIpc())
	}
	checkBatches(t, &all, small, large, small)
	if all.Len() != 0 {
		t.Errorf("%d bytes after the end", all.Len())
	}
	stream, err = b.client.Query(b.as("alice"), &kalamv1.QueryRequest{Sql: "fail"})
	if err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, "a failed query", err, dberr.TableNotFound)
}

func checkBatches(t *testing.T, from io.Reader, want ...arrow.RecordBatch) {
	t.Helper()
	r, err := ipc.NewReader(from)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	for i, w := range want {
		if !r.Next() {
			t.Fatalf("batch %d is missing: %v", i, r.Err())
		}
		if got := r.RecordBatch(); got.NumRows() != w.NumRows() || got.Column(1).String() != w.Column(1).String() {
			t.Errorf("batch %d differs", i)
		}
	}
	if r.Next() || r.Err() != nil {
		t.Errorf("more batches than sent, or %v", r.Err())
	}
}

func TestWrite(t *testing.T) {
	b := newBench(t)
	first := true
	b.query.OnWrite = func(r *queryv1.WriteStreamRequest) *queryv1.WriteStreamResponse {
		if (r.GetIdentity().GetUserId() == "alice") != first {
			t.Errorf("identity %v in message", r.GetIdentity())
		}
		first = false
		n := r.GetRowSet().GetRows()[0].GetValues()[0].GetInteger()
		if n%10 == 3 {
			return &queryv1.WriteStreamResponse{Error: &storagev1.Error{Code: string(dberr.PrimaryKeyViolation), Message: "taken"}}
		}
		return &queryv1.WriteStreamResponse{Rows: 1, Position: uint64(n), Durability: storagev1.Durability_DURABILITY_QUORUM}
	}
	stream, err := b.client.Write(b.as("alice"))
	if err != nil {
		t.Fatal(err)
	}
	const batches = 3 * 1024 // more than may be in flight
	sent := make(chan error, 1)
	go func() {
		for i := range batches {
			set := &kalamv1.RowSet{Columns: []string{"id"}, Rows: []*kalamv1.Row{{Values: []*kalamv1.Value{{Kind: &kalamv1.Value_Integer{Integer: int64(i)}}}}}}
			if err := stream.Send(&kalamv1.WriteRequest{BatchId: uint64(i) + 100, Table: "app.t", Rows: &kalamv1.WriteRequest_RowSet{RowSet: set}}); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	for i := range batches {
		ack, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		failed := i%10 == 3
		if ack.GetBatchId() != uint64(i)+100 || (ack.GetError().GetCode() == string(dberr.PrimaryKeyViolation)) != failed || (ack.GetRows() == 1) == failed {
			t.Fatalf("ack %d: %v", i, ack)
		}
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("after the last ack: %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestStreamsEndWithTheSession: a logout ends an open write stream and a subscription.
func TestStreamsEndWithTheSession(t *testing.T) {
	b := newBench(t)
	b.query.OnSubscribe = func(*queryv1.PlanSubscriptionRequest) (*queryv1.PlanSubscriptionResponse, error) {
		return &queryv1.PlanSubscriptionResponse{Plan: &queryv1.SubscriptionPlan{}}, nil
	}
	write, err := b.client.Write(b.as("alice"))
	if err != nil {
		t.Fatal(err)
	}
	sub, err := b.client.Subscribe(b.as("alice"), &kalamv1.SubscribeRequest{Sql: "x"})
	if err != nil {
		t.Fatal(err)
	}
	b.live.Subscribe(t)
	b.catalog.Change("alice", func(u *catalogv1.User) *catalogv1.User { u.TokenVersion++; return u })
	_, err = write.Recv()
	wantCode(t, "write", err, dberr.Unauthenticated)
	_, err = sub.Recv()
	wantCode(t, "subscribe", err, dberr.Unauthenticated)
}

func TestSubscribe(t *testing.T) {
	b := newBench(t)
	fromSQL := uint64(3)
	b.query.OnSubscribe = func(r *queryv1.PlanSubscriptionRequest) (*queryv1.PlanSubscriptionResponse, error) {
		if r.GetSql() == "denied" {
			return nil, dberr.New(dberr.PermissionDenied, "no")
		}
		return &queryv1.PlanSubscriptionResponse{Plan: &queryv1.SubscriptionPlan{TableId: 5, UserId: r.GetIdentity().GetUserId()}, LastRows: &fromSQL}, nil
	}
	stream, err := b.client.Subscribe(b.as("alice"), &kalamv1.SubscribeRequest{Sql: "x", BatchSize: 5000})
	if err != nil {
		t.Fatal(err)
	}
	sub := b.live.Subscribe(t)
	if sub.GetPlan().GetUserId() != "alice" || !sub.GetSnapshot() || sub.GetLastRows() != 3 || sub.GetBatchSize() != 1000 ||
		sub.GetEncoding() != livev1.Encoding_ENCODING_ARROW_IPC || sub.GetPushBatches() {
		t.Errorf("subscribe %v", sub)
	}
	id := sub.GetSubscription()
	b.live.Subscribed(t, &livev1.Subscribed{Subscription: id, Position: 10, SnapshotFollows: true})
	b.live.InitialRows(t, &livev1.InitialRows{Subscription: id, Rows: []byte("one"), RowCount: 2, HasMore: true, LastSeq: 8})
	if got := b.live.Next(t).GetNextBatch(); got != id {
		t.Errorf("next batch of %d", got)
	}
	b.live.InitialRows(t, &livev1.InitialRows{Subscription: id, Rows: []byte("two"), RowCount: 1, LastSeq: 9})
	b.live.Changed(t, &livev1.Changed{Subscriptions: []uint64{id}, Kind: livev1.Kind_KIND_UPDATE, Seq: 11, Rows: []byte("new"), OldRows: []byte("old")})
	b.live.Progress(t, &livev1.Progress{Subscriptions: []uint64{id}, Position: 12})
	b.live.Ended(t, &livev1.Ended{Subscription: id, Code: string(dberr.Lagged), Message: "too slow", Position: 12})
	for _, want := range []string{`ack:{position:10}`, `initial_rows:{arrow_ipc:"one" row_count:2 has_more:true}`,
		`initial_rows:{arrow_ipc:"two" row_count:1}`, `change:{kind:CHANGE_KIND_UPDATE seq:11 arrow_ipc:"new" old_arrow_ipc:"old"}`, `progress:12`} {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(m.String()), " "); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	_, err = stream.Recv()
	wantCode(t, "the end", err, dberr.Lagged)
	if p := dberr.FieldOf(dberr.FromStatus(err), dberr.FieldPosition); p != "12" {
		t.Errorf("position %q", p)
	}
	stream, err = b.client.Subscribe(b.as("alice"), &kalamv1.SubscribeRequest{Sql: "denied"})
	if err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, "denied", err, dberr.PermissionDenied)
}

func TestSubscriptionsPerUser(t *testing.T) {
	b := newBench(t, func(c *Config) { c.RateLimit.SubscriptionsMax = 1 })
	b.query.OnSubscribe = func(*queryv1.PlanSubscriptionRequest) (*queryv1.PlanSubscriptionResponse, error) {
		return &queryv1.PlanSubscriptionResponse{Plan: &queryv1.SubscriptionPlan{}}, nil
	}
	if _, err := b.client.Subscribe(b.as("alice"), &kalamv1.SubscribeRequest{Sql: "x"}); err != nil {
		t.Fatal(err)
	}
	b.live.Subscribe(t)
	second, err := b.client.Subscribe(b.as("alice"), &kalamv1.SubscribeRequest{Sql: "x"})
	if err == nil {
		_, err = second.Recv()
	}
	wantCode(t, "the second", err, dberr.LimitExceeded)
	if _, err := b.client.Subscribe(b.as("bob"), &kalamv1.SubscribeRequest{Sql: "x"}); err != nil {
		t.Fatal(err)
	}
	b.live.Subscribe(t)
}

func TestHTTPAndOperations(t *testing.T) {
	b := newBench(t)
	b.query.OnExecute = func(*queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
		return &queryv1.ExecuteResponse{}, nil
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	for name, client := range map[string]*http.Client{"HTTP/1.1": {Transport: &http.Transport{}},
		"HTTP/2.0": {Transport: &http.Transport{Protocols: protocols}}} {
		req, err := http.NewRequest(http.MethodPost, "http://"+b.gateway.HTTPAddr().String()+"/v1/api/sql", strings.NewReader(`{"sql":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("alice", "alice secret")
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.Proto != name {
			t.Errorf("%s: %d over %s", name, resp.StatusCode, resp.Proto)
		}
		client.CloseIdleConnections()
	}
	ops := "http://" + b.gateway.OpsAddr().String()
	if status, body := get(t, ops+"/ready"); status != 200 {
		t.Errorf("ready: %d %s", status, body)
	}
	if status, body := get(t, ops+"/metrics"); status != 200 || !strings.Contains(body, `kalamdb_http_requests_total{route="/v1/api/sql",status="200"} 2`) {
		t.Errorf("metrics: %d %s", status, body)
	}
	if status, _ := get(t, ops+"/debug/pprof/cmdline"); status != 200 {
		t.Errorf("pprof: %d", status)
	}
	for _, path := range []string{"/metrics", "/debug/pprof/", "/ready"} {
		if status, _ := get(t, "http://"+b.gateway.HTTPAddr().String()+path); status != 404 {
			t.Errorf("%s on the public listener: %d", path, status)
		}
	}
	b.gateway.ready.Store(false)
	if status, _ := get(t, ops+"/ready"); status != 503 {
		t.Errorf("not ready: %d", status)
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestStop: an open subscription ends resumably, a request that waits is cut, and Stop returns.
func TestStop(t *testing.T) {
	b := newBench(t)
	b.query.OnSubscribe = func(*queryv1.PlanSubscriptionRequest) (*queryv1.PlanSubscriptionResponse, error) {
		return &queryv1.PlanSubscriptionResponse{Plan: &queryv1.SubscriptionPlan{}}, nil
	}
	sub, err := b.client.Subscribe(b.as("alice"), &kalamv1.SubscribeRequest{Sql: "x"})
	if err != nil {
		t.Fatal(err)
	}
	b.live.Subscribe(t)
	write, err := b.client.Write(b.as("alice"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := b.gateway.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	_, err = sub.Recv()
	wantCode(t, "subscribe", err, dberr.Unavailable)
	if _, err = write.Recv(); err == nil {
		t.Error("the write stream goes on")
	}
	<-b.gateway.Failed()
	if b.gateway.Err() != nil {
		t.Errorf("a stop counts as a failure: %v", b.gateway.Err())
	}
}

func TestRefusesWeakSecretsForStrangers(t *testing.T) {
	for addr, ok := range map[string]bool{"127.0.0.1:0": true, "localhost:0": true, "[::1]:0": true, "0.0.0.0:0": false, ":0": false,
		"[::]:0": false, "203.0.113.7:80": false, "db.example:80": false, "gateway": true} {
		for _, secret := range []string{"", strings.Repeat("x", 31), strings.Repeat("x", 32)} {
			cfg := Config{Listen: Listen{HTTPAddr: "127.0.0.1:0", GRPCAddr: addr}, Auth: Auth{JWTSecret: secret}}
			_, err := cfg.withDefaults()
			if want := ok || len(secret) == 32; (err == nil) != want {
				t.Errorf("%s with %d bytes: %v", addr, len(secret), err)
			}
			if err != nil && secret != "" && strings.Contains(err.Error(), secret) {
				t.Error("the error shows the secret")
			}
		}
	}
}

func TestStartFailsCleanly(t *testing.T) {
	b := newBench(t)
	net := rpcnet.NewLocal()
	gatewaytest.NewCatalog(t, net)
	taken := b.gateway.HTTPAddr().String()
	second := New(Config{Listen: Listen{HTTPAddr: taken, GRPCAddr: anyPort, OpsAddr: anyPort}, Logger: slog.New(slog.DiscardHandler),
		Auth: Auth{BcryptCost: gatewaytest.BcryptCost}}, net, rpcnet.TCP{})
	if err := second.Start(t.Context()); err == nil {
		t.Fatal("started on a taken address")
	}
}
