package query

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	flightv1 "github.com/apache/arrow-go/v18/arrow/flight/gen/flight"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
)

// laggingCatalog is a catalog in which another node has just made app and app.notes. Its watch says so only when the
// leader has been asked for the newest version.
type laggingCatalog struct {
	catalogv1.UnimplementedCatalogServiceServer
	once sync.Once
	ask  chan struct{}

	mu       sync.Mutex
	asked    int
	commands int
}

const versionBefore, versionNow = 1, 3

func (c *laggingCatalog) Watch(_ *catalogv1.WatchRequest, out grpc.ServerStreamingServer[catalogv1.WatchResponse]) error {
	notes := &catalog.Table{ID: 7, Namespace: "app", Name: "notes", Kind: catalog.UserTable, SchemaVersion: 1,
		Columns: []catalog.Column{{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.Int}, NotNull: true, PrimaryKey: true}}}
	first := &catalogv1.WatchResponse{Version: versionBefore, Event: &catalogv1.WatchResponse_Snapshot{
		Snapshot: &catalogv1.Snapshot{Shards: 1, ClusterId: "c"}}}
	if err := out.Send(first); err != nil {
		return err
	}
	select {
	case <-c.ask:
	case <-out.Context().Done():
		return out.Context().Err()
	}
	for _, m := range []*catalogv1.WatchResponse{
		{Version: versionBefore + 1, Event: &catalogv1.WatchResponse_NamespaceCreated{NamespaceCreated: &catalogv1.Namespace{Name: "app"}}},
		{Version: versionNow, Event: &catalogv1.WatchResponse_TableChanged{TableChanged: catalog.TableToProto(notes.Index())}}} {
		if err := out.Send(m); err != nil {
			return err
		}
	}
	<-out.Context().Done()
	return out.Context().Err()
}

func (c *laggingCatalog) GetUser(context.Context, *catalogv1.GetUserRequest) (*catalogv1.GetUserResponse, error) {
	c.mu.Lock()
	c.asked++
	c.mu.Unlock()
	c.once.Do(func() { close(c.ask) })
	return &catalogv1.GetUserResponse{Version: versionNow}, nil
}

func (c *laggingCatalog) Apply(context.Context, *catalogv1.ApplyRequest) (*catalogv1.ApplyResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commands++
	return &catalogv1.ApplyResponse{Changed: true, Version: versionBefore}, nil
}

// startLagging starts the role over a catalog that it knows an old version of.
func startLagging(t *testing.T) (*laggingCatalog, *rpcnet.Conn) {
	t.Helper()
	network, log := rpcnet.NewLocal(), slog.New(slog.DiscardHandler)
	c := &laggingCatalog{ask: make(chan struct{})}
	s, err := rpcnet.NewServer(network, "storage", rpcnet.ServerOptions{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(s.Registrar(), c)
	s.Serve()
	ended, cancel := context.WithCancel(context.Background())
	cancel() // nothing is waited for
	t.Cleanup(func() { s.Stop(ended) })
	q := New(Config{Logger: log}, network)
	if err := q.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Stop(context.Background()) })
	conn, err := rpcnet.Dial(network, "query")
	if err != nil {
		t.Fatal(err)
	}
	return c, conn
}

var dba = &catalogv1.Identity{UserId: "root", Role: catalogv1.Role_ROLE_DBA}

func execute(t *testing.T, conn *rpcnet.Conn, text string) error {
	resp, err := queryv1.NewQueryServiceClient(conn).Execute(t.Context(), &queryv1.ExecuteRequest{Identity: dba, Sql: text})
	if err == nil && resp.GetError() != nil {
		return dberr.FromMessage(resp.GetError())
	}
	return err
}

func TestWhatAnotherNodeMadeIsFound(t *testing.T) {
	sql := func(text string) func(*testing.T, *rpcnet.Conn) error {
		return func(t *testing.T, conn *rpcnet.Conn) error { return execute(t, conn, text) }
	}
	for name, do := range map[string]func(*testing.T, *rpcnet.Conn) error{
		"namespace": sql("USE app"),
		"plan":      sql("EXPLAIN SELECT id FROM app.notes WHERE id > 1"),
		"subscribe": sql("SUBSCRIBE TO app.notes"),
		"as user":   sql("EXECUTE AS USER 'ann' (SUBSCRIBE TO app.notes)"),
		"describe": func(t *testing.T, conn *rpcnet.Conn) error {
			_, err := queryv1.NewQueryServiceClient(conn).Describe(t.Context(), &queryv1.DescribeRequest{
				Statement: &queryv1.StatementTicket{Identity: dba, Sql: "SELECT id FROM app.notes"}})
			return err
		},
		"subscription": func(t *testing.T, conn *rpcnet.Conn) error {
			_, err := queryv1.NewQueryServiceClient(conn).PlanSubscription(t.Context(), &queryv1.PlanSubscriptionRequest{
				Identity: dba, Sql: "SELECT * FROM app.notes"})
			return err
		},
		"flight": func(t *testing.T, conn *rpcnet.Conn) error {
			ticket, err := proto.Marshal(&queryv1.StatementTicket{Identity: dba, Sql: "EXPLAIN SELECT id FROM app.notes"})
			if err != nil {
				return err
			}
			stream, err := flightv1.NewFlightServiceClient(conn).DoGet(t.Context(), &flightv1.Ticket{Ticket: ticket})
			if err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, conn := startLagging(t)
			if err := do(t, conn); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOnlyTheStatementThatFailedRunsAgain(t *testing.T) {
	c, conn := startLagging(t)
	if err := execute(t, conn, "CREATE NAMESPACE other; SUBSCRIBE TO app.notes"); err != nil {
		t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.commands != 1 || c.asked != 1 {
		t.Errorf("the catalog got %d commands and %d questions, want 1 and 1", c.commands, c.asked)
	}
}

func TestWhatNobodyMadeIsMissing(t *testing.T) {
	_, conn := startLagging(t)
	if err := execute(t, conn, "SUBSCRIBE TO app.nosuch"); dberr.CodeOf(err) != dberr.TableNotFound {
		t.Errorf("got %v, want %s", err, dberr.TableNotFound)
	}
}
