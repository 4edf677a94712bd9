package gateway

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/gatewaytest"
)

func TestAGatewayOfAClusterNeedsTheSharedSecret(t *testing.T) {
	net := rpcnet.NewLocal()
	gatewaytest.NewCatalog(t, net)
	start := func(secret string) error {
		g := New(Config{Listen: Listen{HTTPAddr: anyPort, GRPCAddr: anyPort, OpsAddr: NoListener}, Seeds: []string{"storage"},
			Auth: Auth{JWTSecret: secret, BcryptCost: gatewaytest.BcryptCost}, Logger: slog.New(slog.DiscardHandler)}, net, rpcnet.TCP{})
		err := g.Start(t.Context())
		if err == nil {
			err = g.Stop(t.Context())
		}
		return err
	}
	if err := start(""); !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), "auth.jwt_secret") {
		t.Errorf("without a secret: %v", err)
	}
	if err := start(strings.Repeat("s", 32)); err != nil {
		t.Errorf("with a secret: %v", err)
	}
}

func TestReadinessAsksTheOtherRoles(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := newBench(t, func(c *Config) { c.Now = func() time.Time { return now } })
	if err := b.gateway.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.live.Stop()
	if err := b.gateway.Ready(t.Context()); err != nil {
		t.Errorf("asked again within %v: %v", probeEvery, err)
	}
	now = now.Add(probeEvery)
	if err := b.gateway.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "a live node") {
		t.Errorf("without a live node: %v", err)
	}
	if status, body := get(t, "http://"+b.gateway.OpsAddr().String()+"/ready"); status != 503 || !strings.Contains(body, "a live node") {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := get(t, "http://"+b.gateway.OpsAddr().String()+"/live"); status != 200 {
		t.Errorf("alive: %d", status)
	}
}

// While it stops the gateway first says that it is not ready, and goes on serving until balancers know.
func TestDrainDelay(t *testing.T) {
	b := newBench(t, func(c *Config) { c.DrainDelay = config.Duration(time.Hour) })
	b.query.OnExecute = func(*queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
		return &queryv1.ExecuteResponse{}, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- b.gateway.Stop(ctx) }()
	for status := 200; status == 200; { // asked as a balancer asks
		status, _ = get(t, "http://"+b.gateway.OpsAddr().String()+"/ready")
	}
	if err := b.gateway.Ready(t.Context()); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("ready while stopping: %v", err)
	}
	if _, err := b.client.Execute(b.as("alice"), &kalamv1.ExecuteRequest{Sql: "x"}); err != nil {
		t.Errorf("a request during the delay: %v", err)
	}
	cancel()
	<-stopped // what is cut is an error of its own
}

func TestRequestIDAndConsistencyOverGRPC(t *testing.T) {
	b := newBench(t)
	var got []*queryv1.ExecuteRequest
	b.query.OnExecute = func(r *queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
		got = append(got, r)
		return &queryv1.ExecuteResponse{}, nil
	}
	for range 2 {
		if _, err := b.client.Execute(b.as("alice"), &kalamv1.ExecuteRequest{Sql: "x", IdempotencyKey: "k",
			Consistency: kalamv1.Consistency_CONSISTENCY_STALE, MaxStalenessMs: 40}); err != nil {
			t.Fatal(err)
		}
	}
	if string(got[0].GetRequestId()) != string(got[1].GetRequestId()) || len(got[0].GetRequestId()) != 16 ||
		got[0].GetConsistency() != storagev1.Consistency_CONSISTENCY_STALE || got[0].GetMaxStalenessMs() != 40 {
		t.Errorf("%v", got)
	}
	_, err := b.client.Execute(b.as("alice"), &kalamv1.ExecuteRequest{Sql: "x", IdempotencyKey: strings.Repeat("k", 256)})
	wantCode(t, "a long key", err, dberr.InvalidArgument)
	_, err = b.client.Execute(b.as("alice"), &kalamv1.ExecuteRequest{Sql: "x", Consistency: 9})
	wantCode(t, "an unknown consistency", err, dberr.InvalidArgument)
	stream, err := b.client.Query(b.as("alice"), &kalamv1.QueryRequest{Sql: "x", MaxStalenessMs: 1})
	if err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, "a staleness without need", err, dberr.InvalidArgument)
}

// A write stream whose query node is gone says up to where it is written.
func TestBrokenWriteStreamNamesThePosition(t *testing.T) {
	b := newBench(t)
	b.query.OnWrite = func(r *queryv1.WriteStreamRequest) *queryv1.WriteStreamResponse {
		if r.GetTable() == "down" {
			return nil
		}
		return &queryv1.WriteStreamResponse{Rows: 1, Position: 77}
	}
	stream, err := b.client.Write(b.as("alice"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&kalamv1.WriteRequest{BatchId: 1, Table: "t"}); err != nil {
		t.Fatal(err)
	}
	if resp, err := stream.Recv(); err != nil || resp.GetPosition() != 77 {
		t.Fatalf("%v, %v", resp, err)
	}
	if err := stream.Send(&kalamv1.WriteRequest{BatchId: 2, Table: "down"}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if err = dberr.FromStatus(err); !dberr.Is(err, dberr.Unavailable) || dberr.FieldOf(err, dberr.FieldPosition) != "77" {
		t.Errorf("%v, position %s", err, dberr.FieldOf(err, dberr.FieldPosition))
	}
}
