package membership

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
)

// leader answers as a test says and keeps what it was told.
type leader struct {
	clusterv1.UnimplementedClusterServiceServer
	mu       sync.Mutex
	refusals []error // of the next registrations, in order
	asked    []*clusterv1.RegisterRequest
	// beat answers a heartbeat; each is first sent to beats.
	beat  func() error
	beats chan *clusterv1.HeartbeatRequest
}

func (l *leader) Register(_ context.Context, r *clusterv1.RegisterRequest) (*clusterv1.RegisterResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, r)
	if len(l.refusals) > 0 {
		err := l.refusals[0]
		l.refusals = l.refusals[1:]
		return nil, err
	}
	return &clusterv1.RegisterResponse{Node: &catalogv1.Node{NodeId: 42, ServerId: r.GetNode().GetServerId(), Role: r.GetNode().GetRole()}}, nil
}

func (l *leader) Heartbeat(_ context.Context, r *clusterv1.HeartbeatRequest) (*clusterv1.HeartbeatResponse, error) {
	l.beats <- r
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.beat != nil {
		return nil, l.beat()
	}
	return &clusterv1.HeartbeatResponse{}, nil
}

func (l *leader) setBeat(f func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.beat = f
}

func newLeader(refusals ...error) *leader {
	return &leader{refusals: refusals, beats: make(chan *clusterv1.HeartbeatRequest, 1000)}
}

func serveLeader(t *testing.T, l *leader) *rpcnet.Conn {
	t.Helper()
	n := rpcnet.NewLocal()
	s, err := rpcnet.NewServer(n, "storage", rpcnet.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	clusterv1.RegisterClusterServiceServer(s.Registrar(), l)
	s.Serve()
	t.Cleanup(func() { s.Stop(context.Background()) })
	conn, err := rpcnet.Dial(n, "storage")
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func newAgent(t *testing.T, l *leader, load func() uint64) *Agent {
	t.Helper()
	return NewAgent(AgentConfig{Node: &catalogv1.Node{Role: "query", RpcAddr: "h:1"}, Interval: time.Millisecond, Load: load,
		Logger: slog.New(slog.DiscardHandler)}, serveLeader(t, l))
}

func TestAgentRegistersAndReports(t *testing.T) {
	l := newLeader()
	a := newAgent(t, l, func() uint64 { return 5 })
	id, err := a.Register(t.Context())
	if err != nil || id != 42 {
		t.Fatalf("%d, %v", id, err)
	}
	server := l.asked[0].GetNode().GetServerId()
	if !strings.HasPrefix(server, "query-") || len(server) != len("query-")+2*incarnationBytes {
		t.Errorf("server id %q", server)
	}
	a.Start(t.Context())
	for range 3 {
		r := <-l.beats
		if r.GetNodeId() != 42 || r.GetServerId() != server || r.GetReport().GetLoad() != 5 || r.GetReport().GetStopping() || r.GetReport().GetMemoryBytes() == 0 {
			t.Fatalf("report %v", r)
		}
	}
	a.Leave(t.Context())
	if err := a.Err(); err != nil {
		t.Error(err)
	}
	var last *clusterv1.HeartbeatRequest
	for stopped := 0; len(l.beats) > 0; {
		last = <-l.beats
		if last.GetReport().GetStopping() {
			stopped++
		}
		if stopped > 0 && len(l.beats) > 0 {
			t.Fatal("reports go on after saying that it stops")
		}
	}
	if !last.GetReport().GetStopping() {
		t.Fatalf("the last report is %v", last)
	}
}

func TestEachProcessHasItsOwnServerID(t *testing.T) {
	l := newLeader()
	for range 2 {
		if _, err := newAgent(t, l, nil).Register(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if l.asked[0].GetNode().GetServerId() == l.asked[1].GetNode().GetServerId() {
		t.Fatal("two processes with one name")
	}
}

func TestRegisterTriesAgain(t *testing.T) {
	l := newLeader(dberr.New(dberr.AlreadyExists, "taken by the process before"), dberr.New(dberr.NotLeader, "elsewhere"), dberr.New(dberr.Unavailable, "later"))
	if id, err := newAgent(t, l, nil).Register(t.Context()); err != nil || id != 42 || len(l.asked) != 4 {
		t.Fatalf("%d, %v after %d", id, err, len(l.asked))
	}
}

func TestRegisterGivesUp(t *testing.T) {
	l := newLeader(dberr.New(dberr.InvalidArgument, "another cluster"))
	if _, err := newAgent(t, l, nil).Register(t.Context()); !dberr.Is(err, dberr.InvalidArgument) || len(l.asked) != 1 {
		t.Fatalf("%v after %d", err, len(l.asked))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newAgent(t, newLeader(dberr.New(dberr.Unavailable, "later")), nil).Register(ctx); err == nil {
		t.Fatal("registered without a context")
	}
}

// A number that stays taken belongs to another process: after a while that is told.
func TestANumberThatStaysTaken(t *testing.T) {
	taken := dberr.New(dberr.AlreadyExists, "node 7 lives elsewhere")
	a := newAgent(t, newLeader(taken, taken), nil)
	a.takenFor = time.Nanosecond
	if _, err := a.Register(t.Context()); !dberr.Is(err, dberr.AlreadyExists) {
		t.Fatal(err)
	}
}

func TestAnExpelledAgentFails(t *testing.T) {
	l := newLeader()
	a := newAgent(t, l, nil)
	if _, err := a.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.Start(t.Context())
	<-l.beats
	l.setBeat(func() error { return dberr.New(dberr.Unavailable, "no leader") }) // passes by itself
	for range 3 {
		<-l.beats
	}
	select {
	case <-a.Failed():
		t.Fatal("failed for an outage")
	default:
	}
	l.setBeat(func() error { return dberr.New(dberr.NotFound, "removed") })
	<-a.Failed()
	if err := a.Err(); !dberr.Is(err, dberr.NotFound) || !strings.Contains(err.Error(), "node 42") {
		t.Fatal(err)
	}
	a.Leave(t.Context())
}

func TestLeaveBeforeStart(t *testing.T) {
	l := newLeader()
	newAgent(t, l, nil).Leave(t.Context())
	if len(l.beats) > 0 {
		t.Fatal("a node that never registered says goodbye")
	}
}
