package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// role is a running storage role and its clients.
type role struct {
	t       testing.TB
	node    *Storage
	storage storagev1.StorageServiceClient
	catalog catalogv1.CatalogServiceClient
	flight  flight.FlightServiceClient
	stopped bool
}

func start(t testing.TB, cfg Config) *role {
	t.Helper()
	r, err := tryStart(t, cfg, rpcnet.NewLocal())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tryStart(t testing.TB, cfg Config, net rpcnet.Network) (*role, error) {
	t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	if cfg.Shards == 0 {
		cfg.Shards = 2
	}
	r := &role{t: t, node: New(cfg, net)}
	if err := r.node.Start(t.Context()); err != nil {
		return nil, err
	}
	conn, err := rpcnet.Dial(net, "storage")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); r.stop() })
	r.storage, r.catalog = storagev1.NewStorageServiceClient(conn), catalogv1.NewCatalogServiceClient(conn)
	r.flight = flight.NewFlightServiceClient(conn)
	return r, nil
}

func (r *role) stop() {
	r.t.Helper()
	if r.stopped {
		return
	}
	r.stopped = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), 30*time.Second)
	defer cancel()
	if err := r.node.Stop(ctx); err != nil {
		r.t.Errorf("stop: %v", err)
	}
}

func (r *role) apply(c *catalogv1.Command) *catalogv1.ApplyResponse {
	r.t.Helper()
	resp, err := r.catalog.Apply(r.t.Context(), &catalogv1.ApplyRequest{Command: c})
	if err != nil {
		r.t.Fatal(err)
	}
	return resp
}

// createTable makes app.<name> with columns id BIGINT and body TEXT.
func (r *role) createTable(name string, kind catalog.TableKind) *catalog.Table {
	r.t.Helper()
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_CreateNamespace{CreateNamespace: &catalogv1.CreateNamespace{Name: "app", IfNotExists: true}}})
	table := &catalog.Table{Namespace: "app", Name: name, Kind: kind, Columns: []catalog.Column{
		{Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true, PrimaryKey: true},
		{Name: "body", Type: catalog.Type{Kind: catalog.Text}}}}
	if kind == catalog.StreamTable {
		table.Options.TTLSeconds = 60
	}
	resp := r.apply(&catalogv1.Command{Command: &catalogv1.Command_CreateTable{CreateTable: &catalogv1.CreateTable{Table: catalog.TableToProto(table)}}})
	return catalog.TableFromProto(resp.GetTable())
}

func encodeRow(t *catalog.Table, id int, body string) []byte {
	row := rowcodec.NewRow(t)
	row.Put(0, datum.Int(int64(id)))
	row.Put(1, datum.Text(body))
	return rowcodec.Append(nil, t, &row)
}

// insertion is a request that inserts ids for a user.
func (r *role) insertion(t *catalog.Table, user string, ids ...int) *storagev1.WriteRequest {
	_, shards := r.node.catalog.Cluster()
	w := &storagev1.TableWrite{TableId: t.ID, SchemaVersion: t.SchemaVersion, Operation: storagev1.Operation_OPERATION_INSERT}
	for _, id := range ids {
		w.Rows = append(w.Rows, encodeRow(t, id, fmt.Sprint("body ", id)))
	}
	req := &storagev1.WriteRequest{Identity: &catalogv1.Identity{UserId: user, Role: catalogv1.Role_ROLE_USER}, UserId: user,
		Shard: shardmap.Even(shards).User(user), Writes: []*storagev1.TableWrite{w}}
	if t.Kind == catalog.SharedTable {
		req.Shard = shardmap.Even(shards).Table(t.ID)
	}
	return req
}

func (r *role) insert(t *catalog.Table, user string, ids ...int) *storagev1.WriteResponse {
	r.t.Helper()
	resp, err := r.storage.Write(r.t.Context(), r.insertion(t, user, ids...))
	if err != nil {
		r.t.Fatal(err)
	}
	return resp
}

// count reads a partition and returns how many rows it has.
func (r *role) count(t *catalog.Table, user string) (int, error) {
	req := r.insertion(t, user)
	scan := &storagev1.ScanRequest{Identity: req.GetIdentity(), Shard: req.GetShard(), TableId: t.ID, SchemaVersion: t.SchemaVersion, ColumnIds: []uint32{1, 2}}
	if t.Kind.PerUser() {
		scan.UserId = user
	}
	raw, err := proto.Marshal(scan)
	if err != nil {
		return 0, err
	}
	s, err := r.flight.DoGet(r.t.Context(), &flight.Ticket{Ticket: raw})
	if err != nil {
		return 0, err
	}
	rd, err := flight.NewRecordReader(s)
	if err != nil {
		return 0, err
	}
	defer rd.Release()
	n := 0
	for rd.Next() {
		n += int(rd.RecordBatch().NumRows())
	}
	return n, rd.Err()
}

func (r *role) wantRows(t *catalog.Table, user string, want int) {
	r.t.Helper()
	if n, err := r.count(t, user); n != want || err != nil {
		r.t.Fatalf("%s has %d rows of %s (%v), want %d", user, n, t.QualifiedName(), err, want)
	}
}

func TestWhatIsWrittenIsReadAlsoAfterARestart(t *testing.T) {
	for name, cfg := range map[string]Config{"disk": {Dir: t.TempDir()}, "memory": {FS: vfs.NewMem()}} {
		t.Run(name, func(t *testing.T) {
			r := start(t, cfg)
			messages, settings := r.createTable("messages", catalog.UserTable), r.createTable("settings", catalog.SharedTable)
			r.insert(messages, "ann", 1, 2, 3)
			r.insert(messages, "bob", 1)
			r.insert(settings, "ann", 1, 2)
			_, err := r.storage.Write(t.Context(), r.insertion(messages, "ann", 1))
			if !dberr.Is(err, dberr.PrimaryKeyViolation) {
				t.Errorf("key again: %v", err)
			}
			for range 2 {
				r.wantRows(messages, "ann", 3)
				r.wantRows(messages, "bob", 1)
				r.wantRows(messages, "eve", 0)
				r.wantRows(settings, "bob", 2)
				r.stop()
				r = start(t, cfg)
			}
			if got := r.createTable("later", catalog.UserTable).ID; got != 3 {
				t.Errorf("table id %d after a restart, want 3", got)
			}
		})
	}
}

func TestWriteStreamAnswersInOrderFailuresIncluded(t *testing.T) {
	r := start(t, Config{FS: vfs.NewMem()})
	messages := r.createTable("messages", catalog.UserTable)
	stream, err := r.storage.WriteStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const n = 300
	go func() {
		for i := range n {
			id := i
			if i%10 == 9 {
				id = i - 1 // taken by the write before
			}
			if err := stream.Send(&storagev1.WriteStreamRequest{Request: r.insertion(messages, "ann", id)}); err != nil {
				t.Error(err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Error(err)
		}
	}()
	last := uint64(0)
	for i := range n {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if i%10 == 9 {
			if m.GetError().GetCode() != string(dberr.PrimaryKeyViolation) {
				t.Fatalf("write %d: %v", i, m)
			}
			continue
		}
		if p := m.GetResponse().GetPosition(); p <= last {
			t.Fatalf("write %d: position %d after %d (%v)", i, p, last, m.GetError())
		}
		last = m.GetResponse().GetPosition()
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("end: %v", err)
	}
	r.wantRows(messages, "ann", n-n/10)
}

func TestStreamTables(t *testing.T) {
	r := start(t, Config{FS: vfs.NewMem()})
	events, messages := r.createTable("events", catalog.StreamTable), r.createTable("messages", catalog.UserTable)
	resp := r.insert(events, "ann", 1, 2)
	if resp.GetDurability() != storagev1.Durability_DURABILITY_MEMORY || resp.GetPosition() != resp.GetResults()[0].GetSeqs()[1] {
		t.Errorf("got %v", resp)
	}
	r.wantRows(events, "ann", 2)
	stats, err := r.storage.TableStats(t.Context(), &storagev1.TableStatsRequest{TableId: events.ID})
	if err != nil || stats.GetStreamRows() != 2 {
		t.Errorf("stats %v, %v", stats, err)
	}
	mixed := r.insertion(messages, "ann", 1)
	mixed.Writes = append(mixed.Writes, r.insertion(events, "ann", 3).GetWrites()...)
	if _, err := r.storage.Write(t.Context(), mixed); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("together with another table: %v", err)
	}
	other := r.insertion(events, "ann", 5)
	other.UserId = "bob"
	if _, err := r.storage.Write(t.Context(), other); !dberr.Is(err, dberr.PermissionDenied) {
		t.Errorf("for another user: %v", err)
	}
}

func TestADroppedTableIsPurgedAndItsWatchesEnd(t *testing.T) {
	r := start(t, Config{FS: vfs.NewMem()})
	messages := r.createTable("messages", catalog.UserTable)
	r.insert(messages, "ann", 1, 2, 3)
	watch, err := r.storage.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	req := r.insertion(messages, "ann")
	if err := watch.Send(&storagev1.WatchRequest{Request: &storagev1.WatchRequest_Add{Add: &storagev1.WatchAdd{WatchId: 1,
		Shard: req.GetShard(), TableId: messages.ID, UserId: "ann", Identity: req.GetIdentity()}}}); err != nil {
		t.Fatal(err)
	}
	started := false
	for {
		m, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetStarted() != nil {
			started = true
			r.apply(&catalogv1.Command{Command: &catalogv1.Command_DropTable{DropTable: &catalogv1.DropTable{Namespace: "app", Name: "messages"}}})
		}
		if e := m.GetEnded(); e != nil {
			if e.GetCode() != string(dberr.NotFound) || !started {
				t.Fatalf("ended: %v", e)
			}
			break
		}
	}
	if _, err := r.storage.Write(t.Context(), r.insertion(messages, "ann", 9)); !dberr.Is(err, dberr.TableNotFound) {
		t.Errorf("write: %v", err)
	}
	for left := 1; left > 0; { // the catalog is told last
		ids, err := r.node.catalog.ToPurge()
		if err != nil {
			t.Fatal(err)
		}
		left = len(ids)
	}
	stats, err := r.storage.NodeStats(t.Context(), &storagev1.NodeStatsRequest{})
	if err != nil || stats.GetMetrics()["storage_shards_led"] != "2" {
		t.Errorf("stats %v, %v", stats, err)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	cfg := Config{FS: vfs.NewMem()}
	start(t, cfg)
	if _, err := tryStart(t, cfg, rpcnet.NewLocal()); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("a second start: %v", err)
	}
}

func TestANewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	for text, code := range map[string]dberr.Code{formatPrefix + "2\n": dberr.Unsupported, "garbage": dberr.Corrupt} {
		if err := os.WriteFile(filepath.Join(dir, formatFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := tryStart(t, Config{Dir: dir}, rpcnet.NewLocal()); !dberr.Is(err, code) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	r := start(t, Config{FS: vfs.NewMem(), Metrics: reg})
	r.insert(r.createTable("messages", catalog.UserTable), "ann", 1)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, f := range families {
		found[f.GetName()] = len(f.GetMetric())
	}
	for name, n := range map[string]int{"kalamdb_storage_write_seconds": 1, "kalamdb_storage_raft_applied_index": 3,
		"kalamdb_storage_store_disk_bytes": 2, "kalamdb_storage_apply_commands": 1, "kalamdb_storage_failed": 1} {
		if found[name] != n {
			t.Errorf("%s has %d series, want %d", name, found[name], n)
		}
	}
	r.stop()
	if families, err = reg.Gather(); err != nil || len(families) != 0 {
		t.Errorf("after Stop: %d families, %v", len(families), err)
	}
}
