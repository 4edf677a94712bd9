// Package livetest runs the live role on the real storage role: what a subscriber is told must be what
// was written, exactly once and in order, across snapshots, resumes and a restart of storage.
package livetest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/live"
	"github.com/kalamdb/kalamdb-go/services/storage"
)

const (
	shards = 4
	// patience is how long a test waits for what must come.
	patience = 2 * time.Minute
)

// node is a storage and a live role.
type node struct {
	t       testing.TB
	fs      *vfs.MemFS
	network *rpcnet.Faults
	storage *storage.Storage
	live    *live.Live
	rows    storagev1.StorageServiceClient
	catalog catalogv1.CatalogServiceClient
	subs    livev1.LiveServiceClient
}

func start(t testing.TB, cfg live.Config) *node {
	t.Helper()
	n := &node{t: t, fs: vfs.NewMem(), network: rpcnet.NewFaults(rpcnet.NewLocal())}
	n.startStorage()
	cfg.Logger = slog.New(slog.DiscardHandler)
	n.live = live.New(cfg, n.network.As("live"))
	if err := n.live.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.rows = storagev1.NewStorageServiceClient(n.dial("storage"))
	n.catalog = catalogv1.NewCatalogServiceClient(n.dial("storage"))
	n.subs = livev1.NewLiveServiceClient(n.dial("live"))
	t.Cleanup(func() {
		n.stop(n.live.Stop)
		n.stop(n.storage.Stop)
	})
	return n
}

func (n *node) dial(addr string) *rpcnet.Conn {
	c, err := rpcnet.Dial(n.network.As("client"), addr)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

func (n *node) startStorage() {
	n.t.Helper()
	n.storage = storage.New(storage.Config{FS: n.fs, Dir: "data", Shards: shards, Logger: slog.New(slog.DiscardHandler)}, n.network.As("storage"))
	if err := n.storage.Start(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) stop(stop func(context.Context) error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := stop(ctx); err != nil {
		n.t.Error(err)
	}
}

// restartStorage stops storage, which has lost its followers before, and starts it on the same files.
func (n *node) restartStorage() {
	n.t.Helper()
	n.network.Cut("live", "storage")
	n.stop(n.storage.Stop)
	n.startStorage()
	n.network.Heal()
	n.rows = storagev1.NewStorageServiceClient(n.dial("storage")) // at once, not after the old connection's pause
}

// partitioned names a SHARED table that is partitioned, with one partition.
const partitioned = "spread"

// table creates a table of id, room, body.
func (n *node) table(name string, kind catalog.TableKind) *catalog.Table {
	n.t.Helper()
	t := &catalog.Table{Namespace: "default", Name: name, Kind: kind, Owner: "root", Access: catalog.AccessOpen, Columns: []catalog.Column{
		{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true, PrimaryKey: true},
		{ID: 2, Name: "room", Type: catalog.Type{Kind: catalog.Text}},
		{ID: 3, Name: "body", Type: catalog.Type{Kind: catalog.Text}}}, NextColumnID: 4}
	if kind == catalog.StreamTable {
		t.Options.TTLSeconds = 3600
	}
	if name == partitioned {
		t.PartitionColumnID, t.Partitions = 1, 1
	}
	resp, err := n.catalog.Apply(n.t.Context(), &catalogv1.ApplyRequest{Command: &catalogv1.Command{Command: &catalogv1.Command_CreateTable{
		CreateTable: &catalogv1.CreateTable{Table: catalog.TableToProto(t.Index())}}}})
	if err != nil {
		n.t.Fatal(err)
	}
	return catalog.TableFromProto(resp.GetTable())
}

// user creates an account: the live role ends the subscriptions of users who do not exist.
func (n *node) user(id string) {
	n.t.Helper()
	_, err := n.catalog.Apply(n.t.Context(), &catalogv1.ApplyRequest{Command: &catalogv1.Command{Command: &catalogv1.Command_CreateUser{
		CreateUser: &catalogv1.CreateUser{User: &catalogv1.User{UserId: id, Role: catalogv1.Role_ROLE_USER, AuthType: "internal"}}}}})
	if err != nil {
		n.t.Fatal(err)
	}
}

// followed is one user's rows of a table, or a shared table.
type followed struct {
	n     *node
	table *catalog.Table
	user  string // who writes and subscribes
}

func (p *followed) place() partition.Place {
	if p.table.Partitioned() {
		return partition.At(shardmap.Even(shards), p.table, 0)
	}
	return partition.Home(shardmap.Even(shards), p.table, p.user)
}

func (p *followed) owner() string { return p.place().Owner }
func (p *followed) shard() uint32 { return p.place().Shard }

func (p *followed) identity() *catalogv1.Identity {
	return &catalogv1.Identity{UserId: p.user, Role: catalogv1.Role_ROLE_USER}
}

// write writes one row and returns its _seq. expected is the _seq of the version that an UPDATE or DELETE
// replaces.
func (p *followed) write(op storagev1.Operation, id int64, room, body string, expected uint64) uint64 {
	p.n.t.Helper()
	r := rowcodec.NewRow(p.table)
	r.Put(0, datum.Int(id))
	if op != storagev1.Operation_OPERATION_DELETE {
		r.Put(1, datum.Text(room))
		r.Put(2, datum.Text(body))
	}
	w := &storagev1.TableWrite{TableId: p.table.ID, SchemaVersion: p.table.SchemaVersion, Operation: op,
		Rows: [][]byte{rowcodec.Append(nil, p.table, &r)}}
	if expected != 0 {
		w.ExpectedSeqs = []uint64{expected}
	}
	req := &storagev1.WriteRequest{Identity: p.identity(), Shard: p.shard(), UserId: p.owner(), Writes: []*storagev1.TableWrite{w}}
	resp, err := p.n.rows.Write(context.Background(), req)
	if err != nil {
		p.n.t.Errorf("write: %v", err)
		return 0
	}
	return resp.GetResults()[0].GetSeqs()[0]
}

func (p *followed) insert(id int64, room, body string) uint64 {
	return p.write(storagev1.Operation_OPERATION_INSERT, id, room, body, 0)
}

// subscriber is one subscription on a stream of its own.
type subscriber struct {
	p      *followed
	stream livev1.LiveService_ConnectClient
	cancel context.CancelFunc
}

func (p *followed) subscribe(change func(*livev1.Subscribe)) *subscriber {
	p.n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	stream, err := p.n.subs.Connect(ctx)
	if err != nil {
		p.n.t.Fatal(err)
	}
	req := &livev1.Subscribe{Subscription: 1, Encoding: livev1.Encoding_ENCODING_JSON, PushBatches: true, Plan: &queryv1.SubscriptionPlan{
		Identity: p.identity(), Shard: p.shard(), TableId: p.table.ID, SchemaVersion: p.table.SchemaVersion, UserId: p.owner(),
		ColumnIds: []uint32{1, 2, 3}, Namespace: p.table.Namespace, Table: p.table.Name}}
	change(req)
	if err := stream.Send(&livev1.ConnectRequest{Request: &livev1.ConnectRequest_Subscribe{Subscribe: req}}); err != nil {
		p.n.t.Fatal(err)
	}
	return &subscriber{p: p, stream: stream, cancel: cancel}
}

func onlyChanges(*livev1.Subscribe) {}

func withSnapshot(s *livev1.Subscribe) { s.Snapshot = true }

func from(seq uint64) func(*livev1.Subscribe) { return func(s *livev1.Subscribe) { s.FromSeq = &seq } }

// next returns the next message besides bookmarks; nil when the stream was closed.
func (s *subscriber) next() *livev1.ConnectResponse {
	for {
		m, err := s.stream.Recv()
		if err != nil {
			if dberr.Is(err, dberr.Canceled) {
				return nil
			}
			s.p.n.t.Errorf("subscription of %s: %v", s.p.user, err)
			return nil
		}
		if m.GetProgress() == nil {
			return m
		}
	}
}

func (s *subscriber) subscribed() *livev1.Subscribed {
	s.p.n.t.Helper()
	m := s.next()
	if m.GetSubscribed() == nil {
		s.p.n.t.Fatalf("got %v instead of Subscribed", m)
	}
	return m.GetSubscribed()
}

func (s *subscriber) changed(want uint64) *livev1.Changed {
	s.p.n.t.Helper()
	m := s.next()
	if m.GetChanged().GetSeq() != want {
		s.p.n.t.Fatalf("got %v, want the change %d", m, want)
	}
	return m.GetChanged()
}

// Written right after the acknowledgement: never missed, never twice.
func TestSubscribeAndWriteAtOnce(t *testing.T) {
	n := start(t, live.Config{})
	rounds := 10_000
	if testing.Short() {
		rounds = 500
	}
	table := n.table("messages", catalog.UserTable)
	const writers = 4
	var wg sync.WaitGroup
	for w := range writers {
		n.user(fmt.Sprint("u", w))
		p := &followed{n: n, table: table, user: fmt.Sprint("u", w)}
		wg.Go(func() {
			for i := range rounds / writers {
				s := p.subscribe(onlyChanges)
				at := s.next().GetSubscribed().GetPosition()
				seq := p.insert(int64(i), "a", "x")
				if m := s.next(); m.GetChanged().GetSeq() != seq || seq <= at {
					t.Errorf("round %d: got %v, want %d", i, m, seq)
				}
				s.cancel()
			}
		})
	}
	wg.Wait()
}

func TestEveryKindOfTable(t *testing.T) {
	n := start(t, live.Config{})
	n.user("alice")
	for name, kind := range map[string]catalog.TableKind{"mine": catalog.UserTable, "ours": catalog.SharedTable, "passing": catalog.StreamTable,
		partitioned: catalog.SharedTable} {
		p := &followed{n: n, table: n.table(name, kind), user: "alice"}
		first := p.insert(1, "a", "one")
		s := p.subscribe(withSnapshot)
		if at := s.subscribed().GetPosition(); at < first {
			t.Errorf("%s: position %d, before %d", name, at, first)
		}
		if r := s.next().GetInitialRows(); r.GetRowCount() != 1 || r.GetHasMore() {
			t.Errorf("%s: %v", name, r)
		}
		second := p.insert(2, "a", "two")
		s.changed(second)
		third := p.insert(3, "a", "three")
		s.changed(third)
		s.cancel()
		if kind == catalog.StreamTable {
			second = 0 // has no versions to compare
		}
		want := []uint64{p.write(storagev1.Operation_OPERATION_DELETE, 2, "", "", second), p.insert(4, "a", "four")}
		again := p.subscribe(from(third))
		again.subscribed()
		for _, seq := range want {
			again.changed(seq)
		}
		again.changed(p.insert(5, "a", "five"))
		again.cancel()
	}
}

func TestStorageRestarts(t *testing.T) {
	n := start(t, live.Config{})
	n.user("alice")
	p := &followed{n: n, table: n.table("messages", catalog.UserTable), user: "alice"}
	s := p.subscribe(withSnapshot)
	s.subscribed()
	s.next()
	for i := range int64(3) {
		s.changed(p.insert(10*i, "a", "x"))
		n.restartStorage()
		s.changed(p.insert(10*i+1, "a", "y"))
	}
	n.restartStorage()
	// A subscriber that resumes after the restart reads what was logged before it.
	seq := p.insert(100, "a", "z")
	again := p.subscribe(from(seq - 1))
	again.subscribed()
	again.changed(seq)
}

// Random writes against subscribers of rooms who come, go and resume; each keeps a copy, which in the
// end equals what was written.
func TestCopiesEqualTheTable(t *testing.T) {
	n := start(t, live.Config{BufferRows: 16, PageRows: 64, QueueMessages: 2000})
	table := n.table("messages", catalog.UserTable)
	steps := 4000
	if testing.Short() {
		steps = 500
	}
	var wg sync.WaitGroup
	for u := range 3 {
		n.user(fmt.Sprint("u", u))
		p := &followed{n: n, table: table, user: fmt.Sprint("u", u)}
		final := make(chan map[int64]string, 2)
		wg.Go(func() {
			rows := p.writeAtRandom(rand.New(rand.NewPCG(uint64(u), 1)), steps)
			rows[1000], rows[1001] = "r0/last", "r1/last"
			final <- rows
			final <- rows
			p.insert(1000, "r0", "last") // everybody looks for the final rows with this change at the latest
			p.insert(1001, "r1", "last")
		})
		for f := range 2 {
			wg.Go(func() {
				c := &keeper{p: p, rnd: rand.New(rand.NewPCG(uint64(u), uint64(f+2))), room: fmt.Sprint("r", f)}
				if err := c.run(final); err != nil {
					t.Errorf("%s of %s: %v", c.room, p.user, err)
				}
			})
		}
	}
	wg.Wait()
}

// writeAtRandom returns the rows at the end, as room/body by id.
func (p *followed) writeAtRandom(rnd *rand.Rand, steps int) map[int64]string {
	rows, seqs := map[int64]string{}, map[int64]uint64{}
	for i := range steps {
		id, room, body := int64(rnd.IntN(100)), fmt.Sprint("r", rnd.IntN(3)), fmt.Sprint(i)
		switch _, there := rows[id]; {
		case !there:
			seqs[id] = p.insert(id, room, body)
		case rnd.IntN(4) == 0:
			p.write(storagev1.Operation_OPERATION_DELETE, id, "", "", seqs[id])
			delete(rows, id)
			continue
		default:
			seqs[id] = p.write(storagev1.Operation_OPERATION_UPDATE, id, room, body, seqs[id])
		}
		rows[id] = room + "/" + body
	}
	return rows
}

// keeper keeps a copy of one room.
type keeper struct {
	p    *followed
	rnd  *rand.Rand
	room string
	rows map[int64]string
	seq  uint64
}

func (k *keeper) run(final <-chan map[int64]string) error {
	var want map[int64]string
	for {
		resume := k.seq != 0 && k.rnd.IntN(3) > 0
		s := k.p.subscribe(func(req *livev1.Subscribe) {
			req.Plan.Filter = predicate.Call("=", predicate.Column(2), predicate.Literal(datum.Text(k.room)))
			if req.BatchSize = uint32(1 + k.rnd.IntN(30)); resume {
				req.FromSeq = &k.seq
			} else {
				req.Snapshot = true
			}
		})
		for messages, least := 0, k.rnd.IntN(100); messages < least || want != nil; messages++ {
			if want != nil && maps.Equal(k.rows, want) {
				s.cancel()
				return nil
			}
			m := s.next()
			if m == nil {
				return fmt.Errorf("%d rows instead of %d", len(k.rows), len(want))
			}
			if e := m.GetEnded(); e != nil {
				if e.GetCode() != string(dberr.Lagged) {
					return fmt.Errorf("ended: %v", e)
				}
				k.seq = 0
				break
			}
			if err := k.apply(m); err != nil {
				return err
			}
			// A snapshot may hold the last change already: no other one follows.
			whole := m.GetInitialRows() != nil && !m.GetInitialRows().GetHasMore()
			if want == nil && (whole || m.GetChanged() != nil) {
				want = k.whenDone(final)
			}
			if m.GetInitialRows().GetHasMore() {
				least++ // leave only with a whole snapshot
			}
		}
		s.cancel()
	}
}

// whenDone is the rows of the room, once the writer has finished.
func (k *keeper) whenDone(final <-chan map[int64]string) map[int64]string {
	select {
	case all := <-final:
		want := map[int64]string{}
		for id, text := range all {
			if text[:len(k.room)] == k.room {
				want[id] = text
			}
		}
		return want
	default:
		return nil
	}
}

// apply applies a message; what is impossible is an error.
func (k *keeper) apply(m *livev1.ConnectResponse) error {
	if s := m.GetSubscribed(); s != nil {
		k.seq = s.GetPosition()
		if s.GetSnapshotFollows() {
			k.rows = map[int64]string{}
		}
		return nil
	}
	if ch := m.GetChanged(); ch != nil {
		if ch.GetSeq() <= k.seq {
			return fmt.Errorf("change %d after %d", ch.GetSeq(), k.seq)
		}
		k.seq = ch.GetSeq()
		for id := range decode(ch.GetOldRows()) {
			if _, there := k.rows[id]; !there {
				return fmt.Errorf("%s of row %d, which was never sent", ch.GetKind(), id)
			}
			delete(k.rows, id)
		}
	}
	for id, text := range decode(append(m.GetChanged().GetRows(), m.GetInitialRows().GetRows()...)) {
		if _, there := k.rows[id]; there {
			return fmt.Errorf("row %d came twice", id)
		}
		k.rows[id] = text
	}
	return nil
}

func decode(b []byte) map[int64]string {
	out := map[int64]string{}
	var rows []map[string]string
	if len(b) == 0 {
		return out
	}
	if err := json.Unmarshal(b, &rows); err != nil {
		panic(fmt.Sprintf("%q: %v", b, err))
	}
	for _, r := range rows {
		id, err := strconv.ParseInt(r["id"], 10, 64)
		if err != nil {
			panic(fmt.Sprintf("%q: %v", b, err))
		}
		out[id] = r["room"] + "/" + r["body"]
	}
	return out
}
