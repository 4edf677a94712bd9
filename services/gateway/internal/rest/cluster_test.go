package rest

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/clusterhealth"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
)

// leader answers Status as the leader of the catalog.
type leader struct {
	clusterv1.ClusterServiceClient
	status *clusterv1.StatusResponse
	err    error
}

func (l *leader) Status(context.Context, *clusterv1.StatusRequest, ...grpc.CallOption) (*clusterv1.StatusResponse, error) {
	return l.status, l.err
}

func TestClusterHealth(t *testing.T) {
	l := &leader{status: &clusterv1.StatusResponse{ClusterId: "prod", Leader: "n1", Nodes: []*clusterv1.NodeStatusReport{
		{Node: &catalogv1.Node{NodeId: 4, ServerId: "n1", Role: "storage", Status: catalogv1.NodeStatus_NODE_STATUS_ACTIVE},
			Report: &clusterv1.NodeReport{Groups: []*clusterv1.GroupReport{{ServerId: "n1", State: "Leader", Term: 7}}}}},
		Placements: []*catalogv1.Placement{{Replicas: []*catalogv1.Replica{{ServerId: "n1"}}}}}}
	b := newBench(t, func(c *Config) {
		c.Cluster = &Cluster{Client: l, ID: "prod", Self: clusterhealth.Self{ServerID: "g", Version: c.Version}}
	})
	const path = "/v1/api/cluster/health"
	if a := b.do(http.MethodGet, path, "", ""); a.status != 200 || !strings.Contains(a.body, `"status":"healthy"`) || !strings.Contains(a.body, `"current_term":7`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	l.status.Nodes[0].Report.Groups[0].State = "Candidate"
	if a := b.do(http.MethodGet, path, "", ""); a.status != 503 || !strings.Contains(a.body, `"status":"unhealthy"`) {
		t.Errorf("without a leader: %d %s", a.status, a.body)
	}
	l.err = dberr.New(dberr.Unavailable, "secret address")
	if a := b.do(http.MethodGet, path, "", ""); a.status != 503 || !strings.Contains(a.body, `"cluster_id":"prod"`) || strings.Contains(a.body, "secret") {
		t.Errorf("nobody answers: %d %s", a.status, a.body)
	}
	if a := newBench(t).do(http.MethodGet, path, "", ""); a.status != 404 {
		t.Errorf("without a cluster: %d", a.status)
	}
}

// From another machine only administrators are told.
func TestClusterHealthIsNotForStrangers(t *testing.T) {
	proxies, err := edge.ParseProxies([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(c *Config) { c.Cluster = &Cluster{Client: &leader{status: &clusterv1.StatusResponse{}}} })
	b.behind(proxies)
	for user, want := range map[string]int{"": 403, "alice": 403, "dba": 200} {
		if a := b.do(http.MethodGet, "/v1/api/cluster/health", user, "", "X-Forwarded-For", "192.0.2.1"); a.status != want {
			t.Errorf("%q: %d %s", user, a.status, a.body)
		}
	}
}

func TestIdempotencyKeyBecomesTheRequestID(t *testing.T) {
	b := newBench(t)
	var ids [][]byte
	b.query.OnExecute = func(r *queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
		ids = append(ids, r.GetRequestId())
		return &queryv1.ExecuteResponse{}, nil
	}
	send := func(user string, header ...string) answer {
		return b.do(http.MethodPost, "/v1/api/sql", user, `{"sql":"x"}`, header...)
	}
	send("alice", "Idempotency-Key", "k")
	send("alice", "Idempotency-Key", "k")
	send("dba", "Idempotency-Key", "k")
	send("alice")
	send("alice")
	if len(ids) != 5 || len(ids[0]) != 16 || !bytes.Equal(ids[0], ids[1]) || bytes.Equal(ids[0], ids[2]) || bytes.Equal(ids[3], ids[4]) {
		t.Fatalf("%x", ids)
	}
	if a := send("alice", "Idempotency-Key", strings.Repeat("k", edge.IdempotencyKeyMax+1)); a.status != 400 || !strings.Contains(a.body, "idempotency key") {
		t.Errorf("a long key: %d %s", a.status, a.body)
	}
}

func TestConsistencyOfReads(t *testing.T) {
	b := newBench(t)
	var got *queryv1.ExecuteRequest
	b.query.OnExecute = func(r *queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
		got = r
		return &queryv1.ExecuteResponse{}, nil
	}
	for body, want := range map[string]storagev1.Consistency{
		`{"sql":"x"}`: storagev1.Consistency_CONSISTENCY_UNSPECIFIED,
		`{"sql":"x","consistency":null,"max_staleness_ms":null}`:          storagev1.Consistency_CONSISTENCY_UNSPECIFIED,
		`{"sql":"x","consistency":"linearizable"}`:                        storagev1.Consistency_CONSISTENCY_LINEARIZABLE,
		`{"sql":"x","consistency":"leader"}`:                              storagev1.Consistency_CONSISTENCY_LEADER,
		`{"sql":"x","consistency":"stale","max_staleness_ms":250}`:        storagev1.Consistency_CONSISTENCY_STALE,
		`{"sql":"x","max_staleness_ms":4294967295,"consistency":"stale"}`: storagev1.Consistency_CONSISTENCY_STALE,
	} {
		got = nil
		if a := b.do(http.MethodPost, "/v1/api/sql", "alice", body); a.status != 200 || got.GetConsistency() != want {
			t.Errorf("%s: %d %s %v", body, a.status, a.body, got)
		}
	}
	for _, body := range []string{`{"sql":"x","consistency":"eventual"}`, `{"sql":"x","consistency":1}`, `{"sql":"x","consistency":"stale"}`,
		`{"sql":"x","max_staleness_ms":5}`, `{"sql":"x","consistency":"stale","max_staleness_ms":-1}`,
		`{"sql":"x","consistency":"stale","max_staleness_ms":1.5}`, `{"sql":"x","consistency":"stale","max_staleness_ms":"5"}`,
		`{"sql":"x","consistency":"stale","max_staleness_ms":4294967296}`, `{"sql":"x","consistency":"stale","max_staleness_ms":{}}`} {
		if a := b.do(http.MethodPost, "/v1/api/sql", "alice", body); a.status != 400 {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	form := "--x\r\nContent-Disposition: form-data; name=\"sql\"\r\n\r\nSELECT 2\r\n--x\r\nContent-Disposition: form-data; name=\"consistency\"\r\n\r\nstale\r\n" +
		"--x\r\nContent-Disposition: form-data; name=\"max_staleness_ms\"\r\n\r\n90\r\n--x--\r\n"
	if a := b.do(http.MethodPost, "/v1/api/sql", "alice", form, "Content-Type", "multipart/form-data; boundary=x"); a.status != 200 || got.GetMaxStalenessMs() != 90 {
		t.Errorf("multipart: %d %s %v", a.status, a.body, got)
	}
}
