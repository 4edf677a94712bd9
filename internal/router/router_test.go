package router

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// world is a cluster whose storage nodes say what the test tells them.
type world struct {
	t       testing.TB
	faults  *rpcnet.Faults
	nodes   []*fakeNode
	mu      sync.Mutex
	leader  string // server id; empty: none
	version uint64
}

type fakeNode struct {
	catalogv1.UnimplementedCatalogServiceServer
	world  *world
	id     string
	addr   string
	server *rpcnet.Server
	calls  int
	// hint is what it says when asked and it does not lead; empty: the truth.
	hint string
	// hang makes it answer nothing.
	hang bool
	// lag is subtracted from the version of its snapshot.
	lag uint64
}

func newWorld(t testing.TB, n int) *world {
	w := &world{t: t, faults: rpcnet.NewFaults(rpcnet.NewLocal()), version: 10}
	for i := range n {
		node := &fakeNode{world: w, id: fmt.Sprintf("n%d", i+1), addr: fmt.Sprintf("storage-%d", i+1)}
		w.nodes = append(w.nodes, node)
		node.start()
	}
	w.leader = "n1"
	return w
}

func (n *fakeNode) start() {
	server, err := rpcnet.NewServer(n.world.faults.As(n.id), n.addr, rpcnet.ServerOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		n.world.t.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(server.Registrar(), n)
	storagev1.RegisterStorageServiceServer(server.Registrar(), fakeShard{})
	server.Serve()
	n.server = server
	n.world.t.Cleanup(n.stop)
}

func (n *fakeNode) stop() {
	if n.server == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.server.Stop(ctx)
	n.server = nil
}

func (n *fakeNode) GetUser(ctx context.Context, req *catalogv1.GetUserRequest) (*catalogv1.GetUserResponse, error) {
	n.world.mu.Lock()
	n.calls++
	leader, hint, hang := n.world.leader, n.hint, n.hang
	n.world.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if leader != n.id {
		err := dberr.New(dberr.NotLeader, "not me")
		if hint == "" {
			hint = leader
		}
		if hint != "" {
			err = err.With(dberr.FieldLeader, hint)
		}
		return nil, err
	}
	if req.GetUserId() == "refused" {
		return nil, dberr.New(dberr.PermissionDenied, "no")
	}
	return &catalogv1.GetUserResponse{User: &catalogv1.User{UserId: n.id}}, nil
}

func (n *fakeNode) Watch(_ *catalogv1.WatchRequest, stream grpc.ServerStreamingServer[catalogv1.WatchResponse]) error {
	snap := &catalogv1.Snapshot{Shards: 1, ClusterId: "c"}
	placement := &catalogv1.Placement{}
	for i, other := range n.world.nodes {
		snap.Nodes = append(snap.Nodes, &catalogv1.Node{NodeId: uint32(i + 1), Role: "storage", ServerId: other.id, RpcAddr: other.addr,
			Status: catalogv1.NodeStatus_NODE_STATUS_ACTIVE})
		placement.Replicas = append(placement.Replicas, &catalogv1.Replica{NodeId: uint32(i + 1), ServerId: other.id})
	}
	snap.Placements = []*catalogv1.Placement{placement, {Group: 1, Replicas: placement.GetReplicas()}}
	n.world.mu.Lock()
	version := n.world.version - n.lag
	n.world.mu.Unlock()
	if err := stream.Send(&catalogv1.WatchResponse{Version: version, Event: &catalogv1.WatchResponse_Snapshot{Snapshot: snap}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

// fakeShard answers Flush and Purge with an error when its caller waits only so long.
type fakeShard struct {
	storagev1.UnimplementedStorageServiceServer
}

func (fakeShard) Flush(ctx context.Context, _ *storagev1.FlushRequest) (*storagev1.FlushResponse, error) {
	return &storagev1.FlushResponse{}, bounded(ctx)
}

func (fakeShard) Purge(ctx context.Context, _ *storagev1.PurgeRequest) (*storagev1.PurgeResponse, error) {
	return &storagev1.PurgeResponse{}, bounded(ctx)
}

func bounded(ctx context.Context) error {
	if _, ok := ctx.Deadline(); ok {
		return dberr.New(dberr.LimitExceeded, "the call is bounded")
	}
	return nil
}

func (w *world) router(change func(*Config)) *Router {
	cfg := Config{Network: w.faults.As("client"), Seeds: []string{w.nodes[0].addr, w.nodes[len(w.nodes)-1].addr}, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	r := New(cfg)
	if err := r.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.Stop)
	return r
}

func get(ctx context.Context, r *Router, id string) (string, error) {
	resp, err := catalogv1.NewCatalogServiceClient(r.Catalog()).GetUser(ctx, &catalogv1.GetUserRequest{UserId: id})
	return resp.GetUser().GetUserId(), err
}

func (w *world) lead(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leader = id
}

func TestFollowsTheLeader(t *testing.T) {
	w := newWorld(t, 3)
	r := w.router(nil)
	for _, leader := range []string{"n1", "n3", "n2", "n2"} {
		w.lead(leader)
		if got, err := get(t.Context(), r, "u"); err != nil || got != leader {
			t.Fatalf("led by %s: answered by %q, %v", leader, got, err)
		}
	}
	before := r.Counts().Retries.Load()
	if _, err := get(t.Context(), r, "u"); err != nil || r.Counts().Retries.Load() != before {
		t.Error("a known leader was not asked first")
	}
}

func TestErrorsThatAreAnswersAreNotRetried(t *testing.T) {
	w := newWorld(t, 3)
	r := w.router(nil)
	if _, err := get(t.Context(), r, "u"); err != nil {
		t.Fatal(err)
	}
	before := w.nodes[0].calls
	if _, err := get(t.Context(), r, "refused"); !dberr.Is(err, dberr.PermissionDenied) {
		t.Fatal(err)
	}
	if n := w.nodes[0].calls - before; n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// Hints that lead in a circle, to nobody, or to a stopped node end at the leader all the same.
func TestWrongHints(t *testing.T) {
	w := newWorld(t, 3)
	r := w.router(nil)
	w.mu.Lock()
	w.leader, w.nodes[0].hint, w.nodes[1].hint = "n3", "n2", "n1"
	w.mu.Unlock()
	if got, err := get(t.Context(), r, "u"); err != nil || got != "n3" {
		t.Fatalf("a circle: %q, %v", got, err)
	}
	w.mu.Lock()
	w.leader, w.nodes[0].hint, w.nodes[2].hint = "n2", "n9", "n9"
	w.mu.Unlock()
	if got, err := get(t.Context(), r, "u"); err != nil || got != "n2" {
		t.Fatalf("an unknown node: %q, %v", got, err)
	}
}

func TestLeaderDiesAndAnotherIsElectedLater(t *testing.T) {
	w := newWorld(t, 3)
	r := w.router(nil)
	if _, err := get(t.Context(), r, "u"); err != nil {
		t.Fatal(err)
	}
	w.nodes[0].stop()
	w.lead("")
	retries := r.Counts().Retries.Load()
	done := make(chan error, 1)
	go func() {
		got, err := get(t.Context(), r, "u")
		if err == nil && got != "n3" {
			err = fmt.Errorf("answered by %s", got)
		}
		done <- err
	}()
	for r.Counts().Retries.Load() < retries+3 { // it meets nobody who leads
		select {
		case err := <-done:
			t.Fatalf("it gave up without a leader: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	w.lead("n3")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestSilentReplicaIsLeft(t *testing.T) {
	w := newWorld(t, 3)
	r := w.router(func(c *Config) { c.AttemptTimeout = 50 * time.Millisecond })
	if _, err := get(t.Context(), r, "u"); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.nodes[0].hang, w.leader = true, "n2"
	w.mu.Unlock()
	if got, err := get(t.Context(), r, "u"); err != nil || got != "n2" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestACallThatTakesLongIsNotCut(t *testing.T) {
	r := newWorld(t, 1).router(nil)
	shard := storagev1.NewStorageServiceClient(r.Shard(0))
	if _, err := shard.Flush(t.Context(), &storagev1.FlushRequest{}); err != nil {
		t.Errorf("a flush: %v", err)
	}
	if _, err := shard.Purge(t.Context(), &storagev1.PurgeRequest{}); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("another call: %v", err)
	}
}

func TestDeadlineAndRetryForEndIt(t *testing.T) {
	w := newWorld(t, 3)
	r := w.router(func(c *Config) { c.RetryFor = 100 * time.Millisecond })
	w.lead("")
	if _, err := get(t.Context(), r, "u"); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("after RetryFor: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := get(ctx, r, "u"); !dberr.Is(err, dberr.Timeout) {
		t.Errorf("after the caller's deadline: %v", err)
	}
}

// The view stays where it was while only a node that lags can be asked.
func TestViewNeverGoesBack(t *testing.T) {
	w := newWorld(t, 2)
	r := w.router(nil)
	if err := r.View().WaitVersion(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	for _, n := range w.nodes {
		n.lag = 3
	}
	w.mu.Unlock()
	for _, n := range w.nodes {
		n.stop()
		n.start()
	}
	w.mu.Lock()
	w.version = 12 // both are at 9 now
	w.mu.Unlock()
	if v := r.View().State().Version; v < 10 {
		t.Fatalf("the view went back to %d", v)
	}
	w.mu.Lock()
	for _, n := range w.nodes {
		n.lag = 0
	}
	w.mu.Unlock()
	if err := r.View().WaitVersion(t.Context(), 12); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkInvoke(b *testing.B) {
	local := rpcnet.NewLocal()
	w := &world{t: b, faults: rpcnet.NewFaults(local), leader: "n1", version: 1}
	server, err := rpcnet.NewServer(local, "storage-1", rpcnet.ServerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	n := &fakeNode{world: w, id: "n1", addr: "storage-1", server: server}
	w.nodes = []*fakeNode{n}
	catalogv1.RegisterCatalogServiceServer(server.Registrar(), n)
	server.Serve()
	b.Cleanup(n.stop)
	r := New(Config{Network: local, Seeds: []string{"storage-1"}, Logger: slog.New(slog.DiscardHandler)})
	if err := r.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(r.Stop)
	direct, err := r.Conn("storage-1")
	if err != nil {
		b.Fatal(err)
	}
	req := &catalogv1.GetUserRequest{UserId: "u"}
	for name, conn := range map[string]grpc.ClientConnInterface{"direct": direct, "routed": r.Catalog()} {
		client := catalogv1.NewCatalogServiceClient(conn)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.GetUser(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
