package scan_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/scan"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/stream"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/watch"
)

const shard = 2

// seqStep puts every _seq of a test into its own millisecond.
const seqStep = 1 << 22

// node is a shard's rows, written as apply writes them.
type node struct {
	db   *pebble.DB
	seq  uint64
	cold *cold.Readers
	// segments counts them.
	segments uint64
	tables   map[uint32]*catalog.Table
	store    *stream.Store
	// roles are the accounts there are; lookups counts how often one was asked for.
	roles   map[string]catalog.Role
	lookups int
	// version is the catalog's; waited is the last that was waited for.
	waited uint64
	asked  []asked
}

// asked is a Reader call.
type asked struct {
	want   storagev1.Consistency
	maxAge time.Duration
}

var now = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// quiet keeps Pebble's notes out of the output.
type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(format string, args ...any) { slog.Error(fmt.Sprintf(format, args...)) }
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func newNode(t testing.TB) *node {
	t.Helper()
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), DisableWAL: true, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	readers, err := cold.NewReaders(cold.NewFiles(vfs.NewMem(), "segments"), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(readers.Close)
	n := &node{db: db, cold: readers, tables: map[uint32]*catalog.Table{}, roles: map[string]catalog.Role{"ann": catalog.RoleUser,
		"bob": catalog.RoleUser, "bot": catalog.RoleService, "dave": catalog.RoleDBA, "root": catalog.RoleSystem}}
	for i, kind := range []catalog.TableKind{catalog.UserTable, catalog.SharedTable, catalog.StreamTable} {
		n.tables[uint32(i+1)] = messages(uint32(i+1), kind)
	}
	n.tables[4] = pairs()
	n.store = stream.New(stream.Config{Shard: shard, Hub: watch.NewHub(shard, 0, nil), Memory: stream.NewMemory(stream.MemoryConfig{}),
		Tables: n, NextSeq: n.nextSeq, Now: func() time.Time { return now },
		Complete: func(*catalog.Table, string, *rowcodec.Row, int) error { return nil }})
	n.store.Lead()
	return n
}

// messages has the columns most tests need. Column 5 was dropped.
func messages(id uint32, kind catalog.TableKind) *catalog.Table {
	return (&catalog.Table{ID: id, Namespace: "app", Name: "m" + kind.String(), Kind: kind, SchemaVersion: 7, Columns: []catalog.Column{
		{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, PrimaryKey: true, NotNull: true},
		{ID: 2, Name: "room", Type: catalog.Type{Kind: catalog.Text}},
		{ID: 3, Name: "n", Type: catalog.Type{Kind: catalog.Double}},
		{ID: 6, Name: "body", Type: catalog.Type{Kind: catalog.Text}},
	}}).Index()
}

// pairs has a key of two columns.
func pairs() *catalog.Table {
	return (&catalog.Table{ID: 4, Namespace: "app", Name: "pairs", Kind: catalog.SharedTable, SchemaVersion: 7, Columns: []catalog.Column{
		{ID: 1, Name: "a", Type: catalog.Type{Kind: catalog.Text}, PrimaryKey: true},
		{ID: 2, Name: "b", Type: catalog.Type{Kind: catalog.BigInt}, PrimaryKey: true},
	}}).Index()
}

func (n *node) nextSeq() uint64 {
	n.seq += seqStep
	return n.seq
}

func (n *node) Reader(ctx context.Context, s uint32, want storagev1.Consistency, maxAge time.Duration) (pebble.Reader, error) {
	n.asked = append(n.asked, asked{want, maxAge})
	if s != shard {
		return nil, dberr.New(dberr.NotLeader, "shard %d is elsewhere", s)
	}
	return n.db, ctx.Err()
}

func (n *node) Streams(_ context.Context, s uint32) (*stream.Store, error) {
	if s != shard {
		return nil, dberr.New(dberr.NotLeader, "shard %d is elsewhere", s)
	}
	return n.store, nil
}

func (n *node) RoleOf(user string) (catalog.Role, bool, error) {
	n.lookups++
	r, ok := n.roles[user]
	return r, ok, nil
}

func (n *node) WaitVersion(ctx context.Context, version uint64) error {
	n.waited = version
	return ctx.Err()
}

func (n *node) Table(id uint32) (*catalog.Table, bool) {
	t, ok := n.tables[id]
	return t, ok
}

// write puts one version of a row.
func (n *node) write(t testing.TB, table *catalog.Table, user string, row rowcodec.Row, deleted bool) {
	t.Helper()
	b := n.db.NewBatch()
	n.add(t, b, table, user, row, deleted)
	if err := b.Set(keycodec.AppliedKey(shard), keycodec.AppendApplied(nil, keycodec.Applied{Index: n.seq, Seq: n.seq}), nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		t.Fatal(err)
	}
}

func (n *node) add(t testing.TB, b *pebble.Batch, table *catalog.Table, user string, row rowcodec.Row, deleted bool) {
	t.Helper()
	var key []datum.Datum
	for _, i := range table.Key() {
		key = append(key, row.Values[i])
	}
	v := keycodec.Version{Seq: n.nextSeq(), Deleted: deleted, SchemaVersion: table.SchemaVersion, Row: rowcodec.Append(nil, table, &row)}
	if err := b.Set(keycodec.AppendRowKey(nil, shard, table.ID, user, key), keycodec.AppendVersion(nil, &v), nil); err != nil {
		t.Fatal(err)
	}
}

// flush moves every row into segments, as a flush and its apply do.
func (n *node) flush(t testing.TB) {
	t.Helper()
	for _, table := range n.tables {
		for _, owner := range n.owners(t, table) {
			p := cold.Partition{Shard: shard, Table: table, Owner: owner}
			out := cold.Output{Files: n.cold.Files(), Now: func() time.Time { return now }, Name: func() string { n.segments++; return fmt.Sprint(n.segments) },
				Commit: func(_ context.Context, seg *storagev1.Segment) error {
					raw, err := proto.Marshal(seg)
					if err != nil {
						return err
					}
					return n.db.Set(keycodec.SegmentKey(nil, shard, table.ID, owner, n.segments), raw, pebble.NoSync)
				}}
			if _, err := out.Flush(t.Context(), n.db, p); err != nil {
				t.Fatal(err)
			}
			span := keycodec.PrefixSpan(keycodec.PartitionPrefix(nil, shard, table.ID, owner))
			if err := n.db.DeleteRange(span.Start, span.End, pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// owners are those that have hot rows in a table.
func (n *node) owners(t testing.TB, table *catalog.Table) (list []string) {
	t.Helper()
	span := keycodec.PrefixSpan(keycodec.TablePrefix(shard, table.ID))
	it, err := n.db.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		_, owner, err := keycodec.UserOf(it.Key())
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 || list[len(list)-1] != owner {
			list = append(list, owner)
		}
	}
	return list
}

// sink receives a scan's messages.
type sink struct {
	sent []*flight.FlightData
	fail error
}

func (s *sink) Send(d *flight.FlightData) error {
	s.sent = append(s.sent, d)
	return s.fail
}

func (s *sink) Recv() (*flight.FlightData, error) {
	if len(s.sent) == 0 {
		return nil, io.EOF
	}
	d := s.sent[0]
	s.sent = s.sent[1:]
	return d, nil
}

// filled has rows of one user's conversations.
func filled(t testing.TB, rows, rooms int) *node {
	t.Helper()
	n := newNode(t)
	b := n.db.NewBatch()
	table := n.tables[1]
	for i := range rows {
		row := rowcodec.NewRow(table)
		row.Put(0, datum.Int(int64(i)))
		row.Put(1, datum.Text(fmt.Sprint("room-", i%rooms)))
		row.Put(2, datum.Float(float64((i*7919)%rows)))
		row.Put(3, datum.Text("a message of some length, as people write them to each other"))
		n.add(t, b, table, "alice", row, false)
	}
	if err := b.Set(keycodec.AppliedKey(shard), keycodec.AppendApplied(nil, keycodec.Applied{Seq: n.seq}), nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	return n
}

func ask(columns ...uint32) *storagev1.ScanRequest {
	return &storagev1.ScanRequest{Shard: shard, TableId: 1, SchemaVersion: 7, UserId: "alice",
		Identity: &catalogv1.Identity{UserId: "alice"}, ColumnIds: columns}
}

func newServer(t testing.TB, n *node) *scan.Server {
	t.Helper()
	s, err := scan.NewServer(n, scan.Config{Cold: n.cold})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
