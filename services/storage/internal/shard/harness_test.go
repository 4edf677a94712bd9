package shard

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftlog"
)

// testTables is a catalog made by hand.
type testTables map[uint32]*catalog.Table

func (t testTables) Table(id uint32) (*catalog.Table, bool) {
	table, ok := t[id]
	return table, ok
}

func (t testTables) encode(id uint32, values ...datum.Datum) []byte {
	row := rowcodec.NewRow(t[id])
	for i, v := range values {
		row.Put(i, v)
	}
	return rowcodec.Append(nil, t[id], &row)
}

// Tables of most tests: messages belongs to users, settings is shared.
const (
	messagesID = 1
	settingsID = 2
)

func tables() testTables {
	messages := (&catalog.Table{ID: messagesID, Namespace: "app", Name: "messages", Kind: catalog.UserTable, SchemaVersion: 1,
		Columns: []catalog.Column{
			{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true, PrimaryKey: true,
				Default: catalog.Default{Kind: catalog.DefaultSnowflakeID}},
			{ID: 2, Name: "body", Type: catalog.Type{Kind: catalog.Text}, NotNull: true},
			{ID: 3, Name: "tag", Type: catalog.Type{Kind: catalog.Text}, Unique: true},
			{ID: 4, Name: "n", Type: catalog.Type{Kind: catalog.SmallInt}},
		}}).Index()
	settings := (&catalog.Table{ID: settingsID, Namespace: "app", Name: "settings", Kind: catalog.SharedTable, SchemaVersion: 1,
		Columns: []catalog.Column{
			{ID: 1, Name: "name", Type: catalog.Type{Kind: catalog.Text}, NotNull: true, PrimaryKey: true},
			{ID: 2, Name: "value", Type: catalog.Type{Kind: catalog.Text}},
		}}).Index()
	return testTables{messagesID: messages, settingsID: settings}
}

type quiet struct{}

func (quiet) Infof(string, ...any)         {}
func (quiet) Errorf(string, ...any)        {}
func (quiet) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

// node is one replica of shard 0 with everything below it.
type node struct {
	t      testing.TB
	fs     vfs.FS
	hot    *pebble.DB
	log    *raftlog.DB
	mux    *raftgroup.Mux
	group  *raftgroup.Group
	shard  *Shard
	leads  chan uint64
	failed chan struct{}
	cold   *cold.Readers

	mu  sync.Mutex
	err error
}

type nodeOptions struct {
	fs        vfs.FS
	dir       string
	net       rpcnet.Network
	id        string
	joining   bool // wait to be added instead of being the first voter
	settings  raftgroup.Settings
	tables    Tables
	now       func() time.Time
	hotLogger pebble.Logger
	format    func() uint32
	readIndex func(context.Context) (uint64, error)
	number    uint16 // of the node in _seq; zero means 1
}

func openNode(t testing.TB, opt nodeOptions) *node {
	t.Helper()
	if opt.fs == nil {
		opt.fs = vfs.NewMem()
	}
	if opt.net == nil {
		opt.net = rpcnet.NewLocal()
	}
	if opt.id == "" {
		opt.id = "n1"
	}
	if opt.tables == nil {
		opt.tables = tables()
	}
	if opt.hotLogger == nil {
		opt.hotLogger = quiet{}
	}
	n := &node{t: t, fs: opt.fs, leads: make(chan uint64, 16), failed: make(chan struct{})}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	path := func(name string) string { return opt.fs.PathJoin(opt.dir, name) }
	n.hot, err = pebble.Open(path("hot"), &pebble.Options{FS: opt.fs, DisableWAL: true, Logger: opt.hotLogger,
		MemTableSize: 1 << 20, FormatMajorVersion: pebble.FormatValueSeparation})
	check(err)
	n.log, err = raftlog.Open(path("raft"), raftlog.Options{FS: opt.fs, Logger: quiet{}})
	check(err)
	n.mux, err = raftgroup.Listen(opt.net, opt.id+"/raft", opt.id, book{}, slog.New(slog.DiscardHandler))
	check(err)
	if opt.number == 0 {
		opt.number = 1
	}
	ids, err := snowflake.New(snowflake.IDEpoch, opt.number, opt.now)
	check(err)
	n.cold, err = cold.NewReaders(cold.NewFiles(opt.fs, path("cold")), 0, nil)
	check(err)
	n.shard, err = New(Config{ID: 0, Shards: shardmap.Even(1), DB: n.hot, Cold: n.cold, ServerID: opt.id, Tables: opt.tables, Node: opt.number, IDs: ids,
		FormatVersion: opt.format, ReadIndex: opt.readIndex, Now: opt.now, Fail: n.fail, Failed: n.failed, Logger: slog.New(slog.DiscardHandler)})
	check(err)
	n.group, err = raftgroup.Open(context.Background(), raftgroup.Config{Group: 1, State: n.shard,
		Log: n.log, Mux: n.mux, FS: opt.fs, SpoolDir: path("spool"), Settings: opt.settings, Bootstrap: !opt.joining,
		OnLead:   func(term uint64) { n.shard.Lead(term); n.leads <- term },
		OnFollow: n.shard.Follow, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	check(err)
	n.shard.Attach(n.group)
	if !opt.joining {
		<-n.leads
	}
	return n
}

// book knows that a server listens for Raft at its name and "/raft".
type book struct{}

func (book) RaftAddr(server string) (string, bool) { return server + "/raft", true }

// addVoter adds a replica that votes.
func (n *node) addVoter(ctx context.Context, id string) error {
	if err := n.group.AddLearner(ctx, id); err != nil {
		return err
	}
	return n.group.Promote(ctx, id)
}

func (n *node) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		n.err = err
		close(n.failed)
	}
}

// stop ends the node in good order.
func (n *node) stop() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for what, err := range map[string]error{"drain": n.shard.Drain(ctx), "group": n.group.Stop(ctx), "shard": n.shard.Close(ctx)} {
		if err != nil {
			n.t.Errorf("stop %s: %v", what, err)
		}
	}
	n.mux.Close()
	n.cold.Close()
	if err := n.log.Close(); err != nil {
		n.t.Error(err)
	}
	if err := n.hot.Close(); err != nil {
		n.t.Error(err)
	}
}

// message encodes a row of messages; a nil value leaves the column out.
func message(id any, body, tag any) []byte {
	t := tables()[messagesID]
	row := rowcodec.NewRow(t)
	for i, v := range []any{id, body, tag} {
		switch v := v.(type) {
		case int:
			row.Put(i, datum.Int(int64(v)))
		case string:
			row.Put(i, datum.Text(v))
		case datum.Datum:
			row.Put(i, v)
		}
	}
	return rowcodec.Append(nil, t, &row)
}

func request(user string, writes ...*storagev1.TableWrite) *storagev1.WriteRequest {
	return &storagev1.WriteRequest{Identity: &catalogv1.Identity{UserId: user, Role: catalogv1.Role_ROLE_USER},
		UserId: user, Writes: writes, ReturnRows: true}
}

func insert(rows ...[]byte) *storagev1.TableWrite {
	return &storagev1.TableWrite{TableId: messagesID, SchemaVersion: 1, Operation: storagev1.Operation_OPERATION_INSERT, Rows: rows}
}

func update(seq uint64, row []byte) *storagev1.TableWrite {
	return &storagev1.TableWrite{TableId: messagesID, SchemaVersion: 1, Operation: storagev1.Operation_OPERATION_UPDATE,
		Rows: [][]byte{row}, ExpectedSeqs: []uint64{seq}}
}

func remove(seq uint64, row []byte) *storagev1.TableWrite {
	w := update(seq, row)
	w.Operation = storagev1.Operation_OPERATION_DELETE
	return w
}

func (n *node) write(user string, writes ...*storagev1.TableWrite) (*storagev1.WriteResponse, error) {
	return n.shard.Write(context.Background(), request(user, writes...))
}

func (n *node) mustWrite(user string, writes ...*storagev1.TableWrite) *storagev1.WriteResponse {
	n.t.Helper()
	resp, err := n.write(user, writes...)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp
}

// flush moves all rows of messages into segments.
func (n *node) flush() Flushed {
	n.t.Helper()
	f, err := n.shard.Flush(context.Background(), tables()[messagesID], "", func(context.Context, *storagev1.Segment) error { return nil })
	if err != nil {
		n.t.Fatal(err)
	}
	return f
}

// merge merges segments of messages.
func (n *node) merge(whole bool) Merged {
	n.t.Helper()
	m, err := n.shard.Merge(context.Background(), tables()[messagesID], "", whole, func(context.Context, *storagev1.Segment) error { return nil })
	if err != nil {
		n.t.Fatal(err)
	}
	return m
}

// allRows returns every row of messages by user and id, from the hot store and from segments, tombstones included.
func (n *node) allRows() map[string]keycodec.Version {
	n.t.Helper()
	out := n.rows()
	entries, err := manifest.ReadTable(n.hot, 0, messagesID)
	if err != nil {
		n.t.Fatal(err)
	}
	byUser := map[string][]manifest.Entry{}
	for _, e := range entries {
		byUser[e.User] = append(byUser[e.User], e)
	}
	for user, list := range byUser {
		m := n.cold.NewMerge(0, list, cold.Range{Table: tables()[messagesID]})
		defer m.Close()
		for {
			key, v, ok, err := m.Next(context.Background())
			if err != nil {
				n.t.Fatal(err)
			}
			if !ok {
				break
			}
			id, _, err := keycodec.DecodeDatum(key)
			if err != nil {
				n.t.Fatal(err)
			}
			name := fmt.Sprintf("%s/%d", user, id.AsInt())
			if hot, ok := out[name]; !ok || hot.Seq < v.Seq {
				out[name] = v
			}
		}
	}
	return out
}

// rows returns every row that messages has in the hot store, by user and id, tombstones included.
func (n *node) rows() map[string]keycodec.Version {
	n.t.Helper()
	out := map[string]keycodec.Version{}
	span := keycodec.PrefixSpan(keycodec.TablePrefix(0, messagesID))
	it, err := n.hot.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		n.t.Fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		_, _, user, key, err := keycodec.DecodeRowKey(it.Key())
		if err != nil {
			n.t.Fatal(err)
		}
		v, err := keycodec.DecodeVersion(append([]byte(nil), it.Value()...))
		if err != nil {
			n.t.Fatal(err)
		}
		out[fmt.Sprintf("%s/%d", user, key[0].AsInt())] = v
	}
	return out
}

func decodeMessage(t testing.TB, src []byte) rowcodec.Row {
	t.Helper()
	table := tables()[messagesID]
	row := rowcodec.NewRow(table)
	if err := rowcodec.Decode(src, table, &row); err != nil {
		t.Fatal(err)
	}
	return row
}

func partitionOf(user string) cold.Partition {
	return cold.Partition{Table: tables()[messagesID], Owner: user}
}
