package querypool

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/apache/arrow-go/v18/arrow/flight"
	genflight "github.com/apache/arrow-go/v18/arrow/flight/gen/flight"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
)

// world is query nodes and what the catalog says of them.
type world struct {
	network *rpcnet.Local
	pool    *rpcnet.Pool
	mu      sync.Mutex
	names   []string
	nodes   map[string]*fake
}

func (w *world) Nodes(role string) (out []*catalogv1.Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.names {
		out = append(out, &catalogv1.Node{ServerId: n, RpcAddr: n, Role: role})
	}
	return out
}

func (w *world) Conn(addr string) (*rpcnet.Conn, error) { return w.pool.Get(addr) }

// fake is a query node that answers with its name.
type fake struct {
	queryv1.UnimplementedQueryServiceServer
	flight.BaseFlightServer
	name   string
	server *rpcnet.Server

	mu     sync.Mutex
	refuse error // the answer to everything
	after  int   // DoGet breaks after so many messages
	asked  []*queryv1.ExecuteRequest
	held   chan struct{} // Execute waits for it
}

func newWorld(t *testing.T, names ...string) (*world, *Pool) {
	w := &world{network: rpcnet.NewLocal(), names: names, nodes: map[string]*fake{}}
	w.pool = rpcnet.NewPool(w.network)
	for _, name := range names {
		server, err := rpcnet.NewServer(w.network, name, rpcnet.ServerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n := &fake{name: name, server: server}
		queryv1.RegisterQueryServiceServer(server.Registrar(), n)
		genflight.RegisterFlightServiceServer(server.Registrar(), n)
		server.Serve()
		w.nodes[name] = n
		t.Cleanup(n.stop)
	}
	return w, New(Config{Nodes: w})
}

func (n *fake) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.server.Stop(ctx)
}

func (n *fake) say(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refuse = err
}

func (n *fake) Execute(ctx context.Context, req *queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
	n.mu.Lock()
	n.asked = append(n.asked, req)
	err, held := n.refuse, n.held
	n.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
		}
	}
	if err != nil {
		return nil, err
	}
	return &queryv1.ExecuteResponse{Results: []*queryv1.StatementResult{{Message: n.name}}}, nil
}

func (n *fake) Describe(context.Context, *queryv1.DescribeRequest) (*queryv1.DescribeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &queryv1.DescribeResponse{SchemaIpc: []byte(n.name)}, n.refuse
}

func (n *fake) DoGet(ticket *flight.Ticket, stream flight.FlightService_DoGetServer) error {
	n.mu.Lock()
	err, after := n.refuse, n.after
	n.mu.Unlock()
	for range after {
		if err := stream.Send(&flight.FlightData{DataBody: []byte(n.name + string(ticket.GetTicket()))}); err != nil {
			return err
		}
	}
	return err
}

func (n *fake) WriteStream(stream queryv1.QueryService_WriteStreamServer) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refuse
}

var errDown = dberr.New(dberr.Unavailable, "down")

func execute(t *testing.T, p grpc.ClientConnInterface, id string) (string, error) {
	t.Helper()
	resp, err := queryv1.NewQueryServiceClient(p).Execute(t.Context(), &queryv1.ExecuteRequest{RequestId: []byte(id)})
	if err != nil {
		return "", err
	}
	return resp.GetResults()[0].GetMessage(), nil
}

func TestTurnsAndLeastOutstanding(t *testing.T) {
	w, p := newWorld(t, "a", "b", "c")
	counts := map[string]int{}
	for range 30 {
		name, err := execute(t, p, "i")
		if err != nil {
			t.Fatal(err)
		}
		counts[name]++
	}
	if counts["a"] != 10 || counts["b"] != 10 || counts["c"] != 10 {
		t.Errorf("%v", counts)
	}
	held := make(chan struct{})
	for _, n := range w.nodes {
		n.held = held
	}
	var calls sync.WaitGroup
	for range 3 {
		calls.Go(func() {
			if _, err := queryv1.NewQueryServiceClient(p).Execute(t.Context(), &queryv1.ExecuteRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
	for p.load() < 3 { // ends when all have begun
		runtime.Gosched()
	}
	for name, n := range p.nodes {
		if n.outstanding.Load() != 1 {
			t.Errorf("%s has %d calls", name, n.outstanding.Load())
		}
	}
	close(held)
	calls.Wait()
}

// load is the number of calls under way.
func (p *Pool) load() (sum int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.nodes {
		sum += n.outstanding.Load()
	}
	return sum
}

func TestAnotherNodeIsAskedTheSame(t *testing.T) {
	w, p := newWorld(t, "a", "b", "c")
	w.nodes["a"].stop()
	w.nodes["b"].say(errDown)
	for range 5 {
		if name, err := execute(t, p, "0123456789abcdef"); err != nil || name != "c" {
			t.Fatalf("answered by %q, %v", name, err)
		}
	}
	for _, req := range w.nodes["b"].asked {
		if string(req.GetRequestId()) != "0123456789abcdef" {
			t.Errorf("asked with id %q", req.GetRequestId())
		}
	}
	if n := len(w.nodes["b"].asked); n > 2 {
		t.Errorf("a node that failed was asked %d times at once", n)
	}
	w.nodes["c"].say(dberr.New(dberr.Timeout, "too slow"))
	if _, err := execute(t, p, "i"); !dberr.Is(err, dberr.Timeout) {
		t.Errorf("an answer was not passed on: %v", err)
	}
}

func TestWhatMayNotBeRepeatedIsNot(t *testing.T) {
	w, p := newWorld(t, "a", "b")
	for _, n := range w.nodes {
		n.say(errDown)
	}
	if _, err := execute(t, p, ""); !dberr.Is(err, dberr.Unavailable) {
		t.Fatal(err)
	}
	if n := len(w.nodes["a"].asked) + len(w.nodes["b"].asked); n != 1 {
		t.Errorf("a request without an id was made %d times", n)
	}
	stream, err := queryv1.NewQueryServiceClient(p).WriteStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&queryv1.WriteStreamRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !dberr.Is(err, dberr.Unavailable) || p.Retries() != 0 {
		t.Errorf("%v, %d retries", err, p.Retries())
	}
}

func get(t *testing.T, p *Pool) (got []string, err error) {
	t.Helper()
	stream, err := flight.NewFlightServiceClient(p).DoGet(t.Context(), &flight.Ticket{Ticket: []byte("!")})
	if err != nil {
		return nil, err
	}
	for {
		data, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		got = append(got, string(data.GetDataBody()))
	}
}

func TestAScanMovesBeforeItsFirstMessageOnly(t *testing.T) {
	w, p := newWorld(t, "a", "b")
	w.nodes["a"].say(errDown)
	w.nodes["b"].after = 2
	for range 3 {
		if got, err := get(t, p); err != nil || len(got) != 2 || got[0] != "b!" {
			t.Fatalf("got %v, %v", got, err)
		}
	}
	if p.load() != 0 {
		t.Errorf("%d calls are still counted", p.load())
	}
	w.nodes["b"].say(errDown)
	w.nodes["a"].after = 2
	w.nodes["a"].say(errDown)
	if got, err := get(t, p); !dberr.Is(err, dberr.Unavailable) || len(got) != 2 {
		t.Errorf("broken in the middle: %v, %v", got, err)
	}
}

func TestWhenNoneIsNamedAnyMoreTheLastAreAsked(t *testing.T) {
	w, p := newWorld(t, "a", "b")
	ask := func() error {
		_, err := queryv1.NewQueryServiceClient(p).Execute(t.Context(), &queryv1.ExecuteRequest{RequestId: []byte("0123456789abcdef")})
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.names = nil
	w.mu.Unlock()
	if err := ask(); err != nil {
		t.Fatal(err)
	}
}

func TestWithoutNodesTheNamedOneIsAsked(t *testing.T) {
	w, p := newWorld(t, "query")
	w.mu.Lock()
	w.names = nil
	w.mu.Unlock()
	if name, err := execute(t, p, "i"); err != nil || name != "query" {
		t.Fatalf("%q, %v", name, err)
	}
	w.nodes["query"].stop()
	if _, err := execute(t, p, "i"); !dberr.Is(err, dberr.Unavailable) {
		t.Fatal(err)
	}
}
