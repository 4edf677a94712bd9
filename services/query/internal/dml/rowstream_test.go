package dml

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/router"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storageclient"
)

// notes is the table of these tests.
func notes() *catalog.Table {
	t := &catalog.Table{ID: 7, Namespace: "app", Name: "notes", Kind: catalog.UserTable, SchemaVersion: 1, Columns: []catalog.Column{
		{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.Int}, NotNull: true, PrimaryKey: true},
		{ID: 2, Name: "v", Type: catalog.Type{Kind: catalog.Text}},
		{ID: 3, Name: "at", Type: catalog.Type{Kind: catalog.Timestamp}}}}
	return t.Index()
}

// fakeStorage serves one catalog with the tables given and remembers what is written.
type fakeStorage struct {
	storagev1.UnimplementedStorageServiceServer
	catalogv1.UnimplementedCatalogServiceServer
	tables []*catalog.Table
	// late, when set, is closed by GetUser; only then does the watch tell of the tables.
	late chan struct{}

	mu     sync.Mutex
	writes []*storagev1.WriteRequest
	// breakAfter ends the stream of writes with an error after so many requests; 0 means never.
	breakAfter int
	broken     []*storagev1.WriteRequest // lost in such an end
	// altered is the table from the first request on a stream of writes; the watch tells of it when one was refused.
	altered *catalog.Table
	tell    chan struct{}
}

func (f *fakeStorage) Watch(_ *catalogv1.WatchRequest, out grpc.ServerStreamingServer[catalogv1.WatchResponse]) error {
	snapshot := &catalogv1.Snapshot{Shards: 4}
	for _, t := range f.tables {
		if f.late == nil {
			snapshot.Tables = append(snapshot.Tables, catalog.TableToProto(t))
		}
	}
	if err := out.Send(&catalogv1.WatchResponse{Version: 1, Event: &catalogv1.WatchResponse_Snapshot{Snapshot: snapshot}}); err != nil {
		return err
	}
	select {
	case <-f.late: // never, when nil
		for _, t := range f.tables {
			m := &catalogv1.WatchResponse{Version: 2, Event: &catalogv1.WatchResponse_TableChanged{TableChanged: catalog.TableToProto(t)}}
			if err := out.Send(m); err != nil {
				return err
			}
		}
	case <-f.tell: // never, when nil
		if err := out.Send(&catalogv1.WatchResponse{Version: 2, Event: &catalogv1.WatchResponse_TableChanged{TableChanged: catalog.TableToProto(f.altered)}}); err != nil {
			return err
		}
	case <-out.Context().Done():
	}
	<-out.Context().Done()
	return nil
}

func (f *fakeStorage) GetUser(_ context.Context, req *catalogv1.GetUserRequest) (*catalogv1.GetUserResponse, error) {
	if req.GetUserId() == "boss" {
		return &catalogv1.GetUserResponse{User: &catalogv1.User{UserId: "boss", Role: catalogv1.Role_ROLE_SYSTEM}}, nil
	}
	if f.late != nil {
		close(f.late) // asked once
		return &catalogv1.GetUserResponse{Version: 2}, nil
	}
	return &catalogv1.GetUserResponse{}, nil
}

// WriteStream answers each request with its number as position; a first column of 13 is refused.
func (f *fakeStorage) WriteStream(s grpc.BidiStreamingServer[storagev1.WriteStreamRequest, storagev1.WriteStreamResponse]) error {
	for n := 1; ; n++ {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n == f.breakAfter {
			f.mu.Lock()
			f.broken = append(f.broken, m.GetRequest())
			f.mu.Unlock()
			return dberr.New(dberr.Unavailable, "the shard moved")
		}
		f.mu.Lock()
		f.writes = append(f.writes, m.GetRequest())
		f.mu.Unlock()
		resp := &storagev1.WriteStreamResponse{}
		if f.altered != nil && m.GetRequest().GetWrites()[0].GetSchemaVersion() != f.altered.SchemaVersion {
			resp.Error = &storagev1.Error{Code: string(dberr.SchemaChanged), Message: "the table was altered"}
			if n == 1 {
				close(f.tell)
			}
		} else if f.firstIs(m.GetRequest(), 13) {
			resp.Error = &storagev1.Error{Code: string(dberr.PrimaryKeyViolation), Message: "Primary key violation"}
		} else {
			resp.Response = &storagev1.WriteResponse{Durability: storagev1.Durability_DURABILITY_QUORUM, Position: uint64(n),
				Results: []*storagev1.TableWriteResult{{RowsAffected: uint64(len(m.GetRequest().GetWrites()[0].GetRows()))}}}
		}
		if err := s.Send(resp); err != nil {
			return err
		}
	}
}

func (f *fakeStorage) firstIs(req *storagev1.WriteRequest, id int64) bool {
	t := f.tables[0]
	row := rowcodec.NewRow(t)
	rows := req.GetWrites()[0].GetRows()
	return len(rows) > 0 && rowcodec.Decode(rows[0], t, &row) == nil && row.Values[0].AsInt() == id
}

// catalogServer lets one struct serve two services that both have a method named Watch.
type catalogServer struct{ *fakeStorage }

// storageServer is the other half.
type storageServer struct {
	storagev1.UnimplementedStorageServiceServer
	f *fakeStorage
}

func (s storageServer) WriteStream(st grpc.BidiStreamingServer[storagev1.WriteStreamRequest, storagev1.WriteStreamResponse]) error {
	return s.f.WriteStream(st)
}

func (s storageServer) Write(ctx context.Context, req *storagev1.WriteRequest) (*storagev1.WriteResponse, error) {
	return s.f.Write(ctx, req)
}

// streamServer is QueryService with its WriteStream only.
type streamServer struct {
	queryv1.UnimplementedQueryServiceServer
	streams *RowStreams
}

func (s streamServer) WriteStream(st grpc.BidiStreamingServer[queryv1.WriteStreamRequest, queryv1.WriteStreamResponse]) error {
	return s.streams.Serve(st)
}

// startStreams serves RowStreams before a fake storage role and opens one client stream.
func startStreams(t *testing.T, f *fakeStorage) grpc.BidiStreamingClient[queryv1.WriteStreamRequest, queryv1.WriteStreamResponse] {
	t.Helper()
	ctx := t.Context()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	network := rpcnet.NewLocal()
	serve := func(addr string, register func(grpc.ServiceRegistrar)) *rpcnet.Conn {
		srv, err := rpcnet.NewServer(network, addr, rpcnet.ServerOptions{Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		register(srv.Registrar())
		srv.Serve()
		t.Cleanup(func() {
			stop, cancel := context.WithCancel(context.WithoutCancel(ctx))
			cancel()
			srv.Stop(stop)
		})
		conn, err := rpcnet.Dial(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	serve("storage", func(r grpc.ServiceRegistrar) {
		catalogv1.RegisterCatalogServiceServer(r, catalogServer{f})
		storagev1.RegisterStorageServiceServer(r, storageServer{f: f})
	})
	route := router.New(router.Config{Network: network, Seeds: []string{"storage"}, Logger: log})
	if err := route.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(route.Stop)
	streams := &RowStreams{Catalog: route.View(), Storage: storageclient.New(route), DefaultNamespace: "default"}
	t.Cleanup(streams.Wait)
	query := serve("query", func(r grpc.ServiceRegistrar) { queryv1.RegisterQueryServiceServer(r, streamServer{streams: streams}) })
	client, err := queryv1.NewQueryServiceClient(query).WriteStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func rowSet(table string, ids ...int64) *queryv1.WriteStreamRequest {
	set := &queryv1.RowSet{Columns: []string{"id", "v"}}
	for _, id := range ids {
		set.Rows = append(set.Rows, &queryv1.RowValues{Values: []*queryv1.Param{{Value: &queryv1.Param_Integer{Integer: id}},
			{Value: &queryv1.Param_Text{Text: fmt.Sprint("row ", id)}}}})
	}
	return &queryv1.WriteStreamRequest{Table: table, Rows: &queryv1.WriteStreamRequest_RowSet{RowSet: set}}
}

var aliceUser = &catalogv1.Identity{UserId: "alice", Role: catalogv1.Role_ROLE_USER}

func TestRowStreamAnswersInOrder(t *testing.T) {
	f := &fakeStorage{tables: []*catalog.Table{notes()}}
	client := startStreams(t, f)
	requests := []*queryv1.WriteStreamRequest{
		rowSet("app.notes", 1, 2), rowSet("app.nosuch", 3), rowSet("APP.Notes", 13), rowSet("app.notes"), rowSet("app.notes", 4)}
	requests[0].Identity = aliceUser
	short := rowSet("app.notes", 5)
	short.GetRowSet().Rows[0].Values = short.GetRowSet().Rows[0].Values[:1]
	big := rowSet("app.notes", 1<<40)
	as := rowSet("app.notes", 6)
	as.AsUser = "bob"
	self := rowSet("app.notes", 7)
	self.AsUser = "alice"
	requests = append(requests, short, big, as, self, &queryv1.WriteStreamRequest{Table: "app.notes"})
	want := []string{"2 rows", "TableNotFound", "PrimaryKeyViolation", "0 rows", "1 rows", "InvalidArgument", "ValueOutOfRange",
		"PermissionDenied", "1 rows", "InvalidArgument"}
	for _, r := range requests {
		if err := client.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for i, w := range want {
		got, err := client.Recv()
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		text := got.GetError().GetCode()
		if got.GetError() == nil {
			text = fmt.Sprint(got.GetRows(), " rows")
		}
		if text != w {
			t.Errorf("answer %d: %s (%s), want %s", i, text, got.GetError().GetMessage(), w)
		}
	}
	if _, err := client.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: %v", err)
	}
	for _, w := range f.writes {
		if w.GetUserId() != "alice" || w.GetIdentity().GetUserId() != "alice" {
			t.Errorf("a batch went to %q as %v", w.GetUserId(), w.GetIdentity())
		}
	}
}

func TestRowStreamFindsWhatAnotherNodeMade(t *testing.T) {
	client := startStreams(t, &fakeStorage{tables: []*catalog.Table{notes()}, late: make(chan struct{})})
	req := rowSet("app.notes", 1, 2)
	req.Identity = aliceUser
	if err := client.Send(req); err != nil {
		t.Fatal(err)
	}
	if got, err := client.Recv(); err != nil || got.GetError() != nil || got.GetRows() != 2 {
		t.Errorf("got %v, %v, want 2 rows", got, err)
	}
}

// Write answers as position 100 what is bound to the table as it is.
func (f *fakeStorage) Write(_ context.Context, req *storagev1.WriteRequest) (*storagev1.WriteResponse, error) {
	if req.GetWrites()[0].GetSchemaVersion() != f.altered.SchemaVersion {
		return nil, dberr.New(dberr.SchemaChanged, "the table was altered")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes = append(f.writes, req)
	return &storagev1.WriteResponse{Position: 100, Results: []*storagev1.TableWriteResult{{RowsAffected: uint64(len(req.GetWrites()[0].GetRows()))}}}, nil
}

// A batch that meets ALTER TABLE is bound again, and keeps its place and its id.
func TestRowStreamMeetsAlterTable(t *testing.T) {
	altered := notes()
	altered.SchemaVersion = 2
	s := &fakeStorage{tables: []*catalog.Table{notes()}, altered: altered.Index(), tell: make(chan struct{})}
	stream := startStreams(t, s)
	req := rowSet("app.notes", 1)
	req.Identity = aliceUser
	if err := stream.Send(req); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil || resp.GetError() != nil || resp.GetRows() != 1 || resp.GetPosition() != 100 {
		t.Fatalf("%v, %v", resp, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.writes); n != 2 || !bytes.Equal(s.writes[0].GetRequestId(), s.writes[1].GetRequestId()) {
		t.Errorf("%d writes, %v", n, s.writes)
	}
}

func TestRowStreamManyInFlight(t *testing.T) {
	f := &fakeStorage{tables: []*catalog.Table{notes()}}
	client := startStreams(t, f)
	const batches = 4 * inFlightMax
	sent := make(chan error, 1)
	go func() {
		for i := range int64(batches) {
			r := rowSet("app.notes", i)
			if i == 0 {
				r.Identity = aliceUser
			}
			if err := client.Send(r); err != nil {
				sent <- err
				return
			}
		}
		sent <- client.CloseSend()
	}()
	refused, last := 0, uint64(0)
	for i := range batches {
		got, err := client.Recv()
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if got.GetError() != nil {
			refused++
			continue
		}
		if got.GetPosition() <= last {
			t.Fatalf("answer %d has position %d after %d", i, got.GetPosition(), last)
		}
		last = got.GetPosition()
	}
	if err := <-sent; err != nil || refused != 1 {
		t.Errorf("sending ended with %v, %d batches were refused", err, refused)
	}
}

// A stream that breaks is opened again, and what was not answered is sent again under the same id.
func TestRowStreamOutlivesStorage(t *testing.T) {
	f := &fakeStorage{tables: []*catalog.Table{notes()}, breakAfter: 2}
	client := startStreams(t, f)
	first := rowSet("app.notes", 1)
	first.Identity = aliceUser
	for _, r := range []*queryv1.WriteStreamRequest{first, rowSet("app.notes", 2)} {
		if err := client.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		if got, err := client.Recv(); err != nil || got.GetError() != nil || got.GetRows() != 1 {
			t.Fatalf("batch %d: %v, %v", i, got, err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.writes) != 2 || len(f.broken) != 1 {
		t.Fatalf("%d writes, %d lost requests", len(f.writes), len(f.broken))
	}
	if a, b := f.broken[0].GetRequestId(), f.writes[1].GetRequestId(); len(a) != 16 || !bytes.Equal(a, b) || bytes.Equal(a, f.writes[0].GetRequestId()) {
		t.Errorf("request ids: lost %x, again %x, first %x", a, b, f.writes[0].GetRequestId())
	}
}

func TestRowStreamArrow(t *testing.T) {
	f := &fakeStorage{tables: []*catalog.Table{notes()}}
	client := startStreams(t, f)
	columns := []catalog.Column{{ID: 1, Name: "V", Type: catalog.Type{Kind: catalog.Text}}, {ID: 2, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}}}
	schema, err := rowbatch.SchemaOf(columns)
	if err != nil {
		t.Fatal(err)
	}
	b := rowbatch.NewBuilder(memory.DefaultAllocator, schema, columns)
	defer b.Release()
	for i := range int64(3) {
		for j, d := range []datum.Datum{datum.Text(fmt.Sprint("v", i)), datum.Int(i)} {
			if err := b.Append(j, d); err != nil {
				t.Fatal(err)
			}
		}
		b.EndRow()
	}
	rec := b.NewBatch()
	defer rec.Release()
	encoded, err := rowbatch.Encode(memory.DefaultAllocator, schema, []arrow.RecordBatch{rec}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for i, data := range [][]byte{encoded, []byte("not arrow"), encoded[:len(encoded)/2]} {
		r := &queryv1.WriteStreamRequest{Table: "notes", Namespace: "app", Rows: &queryv1.WriteStreamRequest_ArrowIpc{ArrowIpc: data}}
		if i == 0 {
			r.Identity = aliceUser
		}
		if err := client.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := client.Recv(); err != nil || got.GetRows() != 3 {
		t.Errorf("got %v, %v", got, err)
	}
	for range 2 {
		if got, err := client.Recv(); err != nil || got.GetError() == nil {
			t.Errorf("malformed data: got %v, %v", got, err)
		}
	}
	row := rowcodec.NewRow(f.tables[0])
	if err := rowcodec.Decode(f.writes[0].GetWrites()[0].GetRows()[2], f.tables[0], &row); err != nil {
		t.Fatal(err)
	}
	if row.Values[0] != datum.Int(2) || row.Values[1] != datum.Text("v2") || row.Set[2] {
		t.Errorf("row 3 is %v, present %v", row.Values, row.Set)
	}
}

func TestExecuteAsOnAStream(t *testing.T) {
	f := &fakeStorage{tables: []*catalog.Table{notes()}}
	client := startStreams(t, f)
	for i, as := range []string{"bob", "boss", "a\x00b"} {
		r := rowSet("app.notes", int64(i))
		r.Identity = &catalogv1.Identity{UserId: "admin", Role: catalogv1.Role_ROLE_DBA}
		r.AsUser = as
		if err := client.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"", string(dberr.PermissionDenied), string(dberr.InvalidArgument)} {
		got, err := client.Recv()
		if err != nil || got.GetError().GetCode() != want {
			t.Errorf("got %v, %v, want %q", got, err, want)
		}
	}
	if w := f.writes[0]; w.GetUserId() != "bob" || w.GetIdentity().GetActorUserId() != "admin" {
		t.Errorf("written for %q as %v", w.GetUserId(), w.GetIdentity())
	}
}
