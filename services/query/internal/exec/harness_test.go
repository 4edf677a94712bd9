package exec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/flight"
	flightgen "github.com/apache/arrow-go/v18/arrow/flight/gen/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/router"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/engine"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storageclient"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// batchRows is how many rows the storage of these tests sends at once: several batches a scan.
const batchRows = 100

// row is a version of a row: the values of the table's columns, in order.
type row struct {
	values  []datum.Datum
	seq     int64
	deleted bool
	owner   string // across users
}

const shardsOfTest = 4

// memoryStorage is the storage role's reading side over rows in memory, written from the contract in
// storage.proto and as plainly as possible: what it answers is the reference.
type memoryStorage struct {
	flight.BaseFlightServer
	catalogv1.UnimplementedCatalogServiceServer

	alloc memory.Allocator

	mu     sync.Mutex
	tables map[uint32]*catalog.Table
	rows   map[string][]row // by table id and user
	// scans are the requests of all scans so far.
	scans []*storagev1.ScanRequest
	// fail, when set, decides what a scan answers before it does anything.
	fail func(*storagev1.ScanRequest) error
}

func partitionKey(table uint32, user string) string { return fmt.Sprintf("%d/%s", table, user) }

func (m *memoryStorage) Watch(_ *catalogv1.WatchRequest, out grpc.ServerStreamingServer[catalogv1.WatchResponse]) error {
	m.mu.Lock()
	snapshot := &catalogv1.Snapshot{Shards: shardsOfTest, ClusterId: "test"}
	for _, t := range m.tables {
		snapshot.Tables = append(snapshot.Tables, catalog.TableToProto(t))
	}
	m.mu.Unlock()
	if err := out.Send(&catalogv1.WatchResponse{Version: 1, Event: &catalogv1.WatchResponse_Snapshot{Snapshot: snapshot}}); err != nil {
		return err
	}
	<-out.Context().Done()
	return nil
}

// ofShard are the rows of all users of a shard.
func (m *memoryStorage) ofShard(table, shard uint32) (out []row) {
	for name, rows := range m.rows {
		var id uint32
		var user string
		if n, err := fmt.Sscanf(name, "%d/%s", &id, &user); n != 2 || err != nil || id != table || shardmap.Even(shardsOfTest).User(user) != shard {
			continue
		}
		for _, r := range rows {
			r.owner = user
			out = append(out, r)
		}
	}
	return out
}

func (m *memoryStorage) DoGet(ticket *flight.Ticket, out flight.FlightService_DoGetServer) error {
	req := &storagev1.ScanRequest{}
	if err := proto.Unmarshal(ticket.GetTicket(), req); err != nil {
		return dberr.New(dberr.InvalidArgument, "decode ticket: %w", err)
	}
	m.mu.Lock()
	m.scans = append(m.scans, req)
	table := m.tables[req.GetTableId()]
	rows := m.rows[partitionKey(req.GetTableId(), req.GetUserId())]
	if req.GetAllUsers() {
		rows = m.ofShard(req.GetTableId(), req.GetShard())
	}
	fail := m.fail
	m.mu.Unlock()
	if fail != nil {
		if err := fail(req); err != nil {
			return err
		}
	}
	if table == nil || table.SchemaVersion != req.GetSchemaVersion() {
		return dberr.New(dberr.SchemaChanged, "table %d has another schema", req.GetTableId())
	}
	if req.GetUserId() != "" && req.GetUserId() != req.GetIdentity().GetUserId() {
		return dberr.New(dberr.PermissionDenied, "not your partition")
	}
	selected, err := answer(req, table, rows)
	if err != nil {
		return err
	}
	return m.send(req, table, selected, out)
}

// answer filters, sorts and cuts.
func answer(req *storagev1.ScanRequest, table *catalog.Table, rows []row) ([]row, error) {
	filter, err := predicate.CompileFilter(req.GetFilter(), table)
	if err != nil {
		return nil, err
	}
	env := &predicate.Env{NowUS: req.GetNowUs(), UserID: req.GetIdentity().GetUserId(), Role: catalog.Role(req.GetIdentity().GetRole())}
	var out []row
	for _, r := range rows {
		if r.deleted && !req.GetIncludeDeleted() {
			continue
		}
		ok, err := filter.Matches(env, &rowReader{table, r})
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, r)
		}
	}
	order := req.GetOrder()
	for i := range table.Key() {
		order = append(slices.Clip(order), orderBy(table.KeyColumn(i).ID))
	}
	slices.SortStableFunc(out, func(a, b row) int {
		for _, o := range order {
			if c := compareCells(o, (&rowReader{table, a}).Column(o.GetColumnId()), (&rowReader{table, b}).Column(o.GetColumnId())); c != 0 {
				return c
			}
		}
		return 0
	})
	out = out[min(req.GetOffset(), uint64(len(out))):]
	if req.GetLimit() > 0 {
		out = out[:min(req.GetLimit(), uint64(len(out)))]
	}
	return out, nil
}

func (m *memoryStorage) send(req *storagev1.ScanRequest, table *catalog.Table, rows []row, out flight.FlightService_DoGetServer) error {
	columns := make([]catalog.Column, len(req.GetColumnIds()))
	for i, id := range req.GetColumnIds() {
		c, ok := table.AnyColumn(id)
		if !ok {
			return dberr.New(dberr.ColumnNotFound, "no column %d", id)
		}
		columns[i] = *c
	}
	schema, err := rowbatch.SchemaOf(columns)
	if err != nil {
		return err
	}
	header, err := proto.Marshal(&storagev1.ScanHeader{Position: 7})
	if err != nil {
		return err
	}
	w := rowbatch.NewFlightWriter(out, m.alloc)
	if err := w.Start(rowbatch.SchemaHeader(schema, m.alloc), header); err != nil {
		return err
	}
	b := rowbatch.NewBuilder(m.alloc, schema, columns)
	defer b.Release()
	for chunk := range slices.Chunk(rows, batchRows) {
		for _, r := range chunk {
			for i := range columns {
				if err := b.Append(i, (&rowReader{table, r}).Column(columns[i].ID)); err != nil {
					return err
				}
			}
			b.EndRow()
		}
		batch := b.NewBatch()
		err := w.Write(batch)
		batch.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

type rowReader struct {
	table *catalog.Table
	row
}

func (r *rowReader) Column(id uint32) datum.Datum {
	switch id {
	case catalog.SeqColumnID:
		return datum.Int(r.seq)
	case catalog.UserIDColumnID:
		return datum.Text(r.owner)
	case catalog.DeletedColumnID:
		return datum.Bool(r.deleted)
	case catalog.UpdatedColumnID:
		return datum.Timestamp(r.seq * 1000)
	}
	for i := range r.table.Columns {
		if r.table.Columns[i].ID == id {
			return r.values[i]
		}
	}
	return datum.Null
}

// fixture is a running query side over memoryStorage.
type fixture struct {
	*Runner
	storage *memoryStorage
	env     plan.Env
}

// nowUS is the statements' time: 2026-01-02 03:04:05.
const nowUS = 1767323045000000

func start(t testing.TB, alloc memory.Allocator, tables ...*catalog.Table) *fixture {
	t.Helper()
	st := &memoryStorage{alloc: alloc, tables: map[uint32]*catalog.Table{}, rows: map[string][]row{}}
	for _, table := range tables {
		st.tables[table.ID] = table.Index()
	}
	net := rpcnet.NewLocal()
	srv, err := rpcnet.NewServer(net, "storage", rpcnet.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	flightgen.RegisterFlightServiceServer(srv.Registrar(), st)
	catalogv1.RegisterCatalogServiceServer(srv.Registrar(), st)
	srv.Serve()
	route := router.New(router.Config{Network: net, Seeds: []string{"storage"}, Logger: slog.New(slog.DiscardHandler)})
	if err := route.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	view := route.View()
	var next int64
	eng, err := engine.New(engine.Config{SnowflakeID: func() int64 { next++; return next }})
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{Catalog: view, Systems: systemtable.New(systemtable.Config{Catalog: view}), Engine: eng,
		Storage: storageclient.New(route).WithAllocator(alloc)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		route.Stop()
		if err := eng.Close(ctx); err != nil {
			t.Error(err)
		}
		srv.Stop(ctx)
	})
	return &fixture{Runner: r, storage: st, env: plan.Env{Namespace: "app", NowUS: nowUS,
		Identity: catalog.Identity{UserID: "alice", Role: catalog.RoleUser}}}
}

// put adds a row; values are given as the table's columns, in order.
func (f *fixture) put(t testing.TB, table *catalog.Table, user string, values ...datum.Datum) {
	t.Helper()
	f.storage.mu.Lock()
	defer f.storage.mu.Unlock()
	key := partitionKey(table.ID, user)
	f.storage.rows[key] = append(f.storage.rows[key], row{values: values, seq: int64(1000 + len(f.storage.rows[key]))})
}

func (f *fixture) lastScans() []*storagev1.ScanRequest {
	f.storage.mu.Lock()
	defer f.storage.mu.Unlock()
	out := f.storage.scans
	f.storage.scans = nil
	return out
}

func parse(t testing.TB, sql string) *sqlfront.Select {
	t.Helper()
	list, err := sqlfront.Parse(sql, sqlfront.Limits{})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	sel, ok := list[0].(*sqlfront.Select)
	if !ok {
		t.Fatalf("%s: a %T", sql, list[0])
	}
	return sel
}

// run reads a whole result as text.
func (f *fixture) run(ctx context.Context, sel *sqlfront.Select, params ...datum.Datum) ([]string, error) {
	env := f.env
	env.Params = params
	rows, err := f.Select(ctx, env, sel)
	if err != nil {
		return nil, err
	}
	defer rows.Release()
	return readAll(ctx, rows)
}

func (f *fixture) query(t testing.TB, sql string, params ...datum.Datum) ([]string, error) {
	t.Helper()
	list, err := sqlfront.Parse(sql, sqlfront.Limits{})
	if err != nil {
		return nil, err
	}
	sel, ok := list[0].(*sqlfront.Select)
	if !ok {
		return nil, fmt.Errorf("a %T", list[0])
	}
	return f.run(t.Context(), sel, params...)
}

func readAll(ctx context.Context, rows Source) ([]string, error) {
	var out []string
	for {
		b, err := rows.Next(ctx)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		for i := range int(b.NumRows()) {
			var cells []string
			for c := range int(b.NumCols()) {
				d := rowbatch.DatumAt(b.Column(c), i, rowbatch.TypeOf(b.Schema().Field(c)))
				cells = append(cells, datum.FormatText(d, rowbatch.TypeOf(b.Schema().Field(c))))
			}
			out = append(out, strings.Join(cells, "|"))
		}
		b.Release()
	}
}
