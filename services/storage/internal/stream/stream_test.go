package stream_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/stream"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/watch"
)

const (
	shard = 4
	ttl   = 10 * time.Second
)

// node is one shard with STREAM tables and a clock that stands still.
type node struct {
	t      testing.TB
	hub    *watch.Hub
	memory *stream.Memory
	store  *stream.Store
	seqs   *snowflake.Generator
	tables map[uint32]*catalog.Table

	applied atomic.Uint64 // what the shard's other tables are at

	mu  sync.Mutex
	now time.Time
}

func newNode(t testing.TB, bytesMax int64) *node {
	t.Helper()
	n := &node{t: t, hub: watch.NewHub(shard, 0, nil), memory: stream.NewMemory(stream.MemoryConfig{BytesMax: bytesMax}),
		now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), tables: map[uint32]*catalog.Table{}}
	var err error
	if n.seqs, err = snowflake.New(snowflake.SeqEpoch, 1, n.clock); err != nil {
		t.Fatal(err)
	}
	for id, o := range []catalog.TableOptions{
		{TTLSeconds: 10}, {TTLSeconds: 10, MaxBufferRows: 5}, {TTLSeconds: 10, Ephemeral: true}, {TTLSeconds: 10},
	} {
		n.tables[uint32(id)] = (&catalog.Table{ID: uint32(id), Namespace: "app", Name: "events", Kind: catalog.StreamTable,
			SchemaVersion: 1, Options: o, Columns: []catalog.Column{
				{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, PrimaryKey: true, NotNull: true},
				{ID: 2, Name: "data", Type: catalog.Type{Kind: catalog.Text}},
			}}).Index()
	}
	n.store = stream.New(stream.Config{Shard: shard, Hub: n.hub, Memory: n.memory, Tables: n, NextSeq: n.seqs.Next,
		Now: n.clock, Complete: complete, Applied: n.applied.Load})
	n.store.Lead()
	return n
}

// complete fills in a default and refuses one value, as the shard's checks do.
func complete(t *catalog.Table, user string, row *rowcodec.Row, n int) error {
	if !row.Set[1] {
		row.Put(1, datum.Text("by "+user))
	}
	if row.Values[1].AsText() == "bad" {
		return dberr.New(dberr.ValueOutOfRange, "row %d is bad", n)
	}
	return nil
}

const (
	plain     = 0
	buffered  = 1
	ephemeral = 2
)

func (n *node) Table(id uint32) (*catalog.Table, bool) {
	t, ok := n.tables[id]
	return t, ok
}

func (n *node) Hub(uint32) (*watch.Hub, error) { return n.hub, nil }

func (n *node) clock() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

func (n *node) advance(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now = n.now.Add(d)
}

func (n *node) row(table uint32, id int64, data string) []byte {
	t := n.tables[table]
	r := rowcodec.NewRow(t)
	r.Put(0, datum.Int(id))
	if data != "" {
		r.Put(1, datum.Text(data))
	}
	return rowcodec.Append(nil, t, &r)
}

func (n *node) try(table uint32, user string, op storagev1.Operation, ids ...int64) (*storagev1.TableWriteResult, error) {
	w := &storagev1.TableWrite{TableId: table, SchemaVersion: 1, Operation: op}
	for _, id := range ids {
		w.Rows = append(w.Rows, n.row(table, id, ""))
	}
	return n.store.Write(n.t.Context(), n.tables[table], user, w, true)
}

func (n *node) insert(table uint32, user string, ids ...int64) []uint64 {
	n.t.Helper()
	res, err := n.try(table, user, storagev1.Operation_OPERATION_INSERT, ids...)
	if err != nil {
		n.t.Fatal(err)
	}
	return res.GetSeqs()
}

// ids lists the keys that a scan would see.
func (n *node) ids(table uint32, user string) []int64 {
	n.t.Helper()
	rows, _, _ := n.store.Rows(n.tables[table], user)
	out := make([]int64, 0, len(rows))
	for _, r := range rows {
		row := rowcodec.NewRow(n.tables[table])
		if err := rowcodec.Decode(r.Version.Row, n.tables[table], &row); err != nil {
			n.t.Fatal(err)
		}
		out = append(out, row.Values[0].AsInt())
	}
	slices.Sort(out)
	return out
}

func (n *node) wantIDs(table uint32, user string, want ...int64) {
	n.t.Helper()
	if got := n.ids(table, user); !slices.Equal(got, want) {
		n.t.Errorf("table %d of %s holds %v, want %v", table, user, got, want)
	}
}

func TestRowsLiveForTheirTTL(t *testing.T) {
	n := newNode(t, 0)
	n.insert(plain, "alice", 1)
	n.advance(ttl / 2)
	n.insert(plain, "alice", 2)
	n.wantIDs(plain, "alice", 1, 2)
	n.wantIDs(plain, "bob")
	n.advance(ttl/2 - time.Millisecond)
	n.wantIDs(plain, "alice", 1, 2)
	n.advance(time.Millisecond)
	n.wantIDs(plain, "alice", 2)
	n.insert(plain, "alice", 1) // its key is free again
	n.advance(ttl)
	n.wantIDs(plain, "alice")
	if n.memory.Used() != 0 {
		t.Errorf("%d bytes are still counted", n.memory.Used())
	}
}

func TestEvictionFreesWhatNobodyTouches(t *testing.T) {
	n := newNode(t, 0)
	for i := range int64(100) {
		n.insert(plain, fmt.Sprint("u", i), i)
	}
	n.advance(ttl - time.Millisecond)
	n.memory.Evict()
	if rows, bytes := n.store.Stats(plain); rows != 100 || int64(bytes) != n.memory.Used() {
		t.Errorf("%d rows, %d bytes of %d", rows, bytes, n.memory.Used())
	}
	n.advance(time.Millisecond)
	n.memory.Evict()
	if rows, bytes := n.store.Stats(plain); rows != 0 || bytes != 0 || n.memory.Used() != 0 {
		t.Errorf("%d rows, %d bytes of %d", rows, bytes, n.memory.Used())
	}
}

func TestNewestRowsAreKept(t *testing.T) {
	n := newNode(t, 0)
	for id := range int64(8) {
		n.insert(buffered, "alice", id)
	}
	n.wantIDs(buffered, "alice", 3, 4, 5, 6, 7)
	n.insert(buffered, "alice", 10, 11, 12, 13, 14, 15, 16)
	n.wantIDs(buffered, "alice", 12, 13, 14, 15, 16)
}

// Rows that come and go neither grow nor push out those that stay.
func TestInsertingAndDeletingDoesNotGrow(t *testing.T) {
	n := newNode(t, 0)
	n.insert(buffered, "alice", 1, 2)
	for range 10_000 {
		n.insert(buffered, "alice", 9)
		if _, err := n.try(buffered, "alice", storagev1.Operation_OPERATION_DELETE, 9); err != nil {
			t.Fatal(err)
		}
	}
	n.wantIDs(buffered, "alice", 1, 2)
	if used := n.memory.Used(); used > 1<<20 {
		t.Errorf("two rows and their history hold %d bytes", used)
	}
}

func TestDelete(t *testing.T) {
	n := newNode(t, 0)
	seqs := n.insert(plain, "alice", 1, 2, 3)
	res, err := n.try(plain, "alice", storagev1.Operation_OPERATION_DELETE, 2, 77, 2)
	if err != nil || res.GetRowsAffected() != 1 || len(res.GetRows()) != 1 {
		t.Fatalf("%v, %v", res, err)
	}
	n.wantIDs(plain, "alice", 1, 3)
	w := &storagev1.TableWrite{SchemaVersion: 1, Operation: storagev1.Operation_OPERATION_DELETE,
		Rows: [][]byte{n.row(plain, 1, ""), n.row(plain, 3, "")}, ExpectedSeqs: []uint64{seqs[0], seqs[1]}}
	if _, err := n.store.Write(t.Context(), n.tables[plain], "alice", w, false); !dberr.Is(err, dberr.Conflict) {
		t.Errorf("another version: %v", err)
	}
	n.wantIDs(plain, "alice", 1, 3)
	changes, _, err := n.store.Read(plain, "alice", seqs[2])
	if err != nil || len(changes) != 1 || changes[0].GetKind() != storagev1.ChangeKind_CHANGE_KIND_DELETE ||
		changes[0].GetOldSeq() != seqs[1] || len(changes[0].GetOldRow()) == 0 {
		t.Errorf("%v, %v", changes, err)
	}
}

func TestRefusals(t *testing.T) {
	n := newNode(t, 0)
	n.insert(plain, "alice", 1)
	_, err := n.try(plain, "alice", storagev1.Operation_OPERATION_UPDATE, 1)
	if !dberr.Is(err, dberr.InvalidOperation) || err.Error() != "UPDATE is not supported for STREAM tables" {
		t.Errorf("update: %v", err)
	}
	if _, err := n.try(plain, "alice", storagev1.Operation_OPERATION_INSERT, 2, 1); !dberr.Is(err, dberr.PrimaryKeyViolation) {
		t.Errorf("a key that exists: %v", err)
	}
	if _, err := n.try(plain, "alice", storagev1.Operation_OPERATION_INSERT, 2, 2); !dberr.Is(err, dberr.PrimaryKeyViolation) {
		t.Errorf("a key twice: %v", err)
	}
	if _, err := n.try(plain, "bob", storagev1.Operation_OPERATION_INSERT, 1); err != nil {
		t.Errorf("another user's key: %v", err)
	}
	bad := &storagev1.TableWrite{SchemaVersion: 1, Operation: storagev1.Operation_OPERATION_INSERT,
		Rows: [][]byte{n.row(plain, 5, ""), n.row(plain, 6, "bad")}}
	if _, err := n.store.Write(t.Context(), n.tables[plain], "alice", bad, false); !dberr.Is(err, dberr.ValueOutOfRange) {
		t.Errorf("a bad row: %v", err)
	}
	old := &storagev1.TableWrite{SchemaVersion: 2, Operation: storagev1.Operation_OPERATION_INSERT}
	if _, err := n.store.Write(t.Context(), n.tables[plain], "alice", old, false); !dberr.Is(err, dberr.SchemaChanged) {
		t.Errorf("another schema: %v", err)
	}
	n.wantIDs(plain, "alice", 1) // nothing of a refused statement stays
	skip := &storagev1.TableWrite{SchemaVersion: 1, Operation: storagev1.Operation_OPERATION_INSERT,
		OnConflict: storagev1.OnConflict_ON_CONFLICT_DO_NOTHING, Rows: [][]byte{n.row(plain, 1, ""), n.row(plain, 2, "")}}
	if res, err := n.store.Write(t.Context(), n.tables[plain], "alice", skip, false); err != nil || res.GetRowsAffected() != 1 {
		t.Errorf("do nothing: %v, %v", res, err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	n := newNode(t, 64<<10)
	var err error
	id := int64(0)
	for ; err == nil; id++ {
		_, err = n.try(plain, fmt.Sprint("u", id%10), storagev1.Operation_OPERATION_INSERT, id)
	}
	if !dberr.Is(err, dberr.LimitExceeded) || n.memory.Used() > 64<<10 {
		t.Fatalf("%v with %d bytes", err, n.memory.Used())
	}
	n.advance(ttl)
	n.insert(plain, "another", 1) // the expired rows of others make room
	n.store.DropTable(plain)
	if n.memory.Used() != 0 {
		t.Errorf("%d bytes are still counted", n.memory.Used())
	}
}

func TestHistory(t *testing.T) {
	n := newNode(t, 0)
	before := n.store.Position()
	seqs := n.insert(buffered, "alice", 1, 2, 3, 4, 5, 6, 7)
	read := func(after uint64) (seqs []uint64, err error) {
		changes, _, err := n.store.Read(buffered, "alice", after)
		for _, ch := range changes {
			seqs = append(seqs, ch.GetSeq())
		}
		return seqs, err
	}
	if _, err := read(before); !dberr.Is(err, dberr.PositionGone) {
		t.Errorf("before what MAX_BUFFER keeps: %v", err)
	}
	if got, err := read(seqs[1]); err != nil || !slices.Equal(got, seqs[2:]) {
		t.Errorf("got %v, %v; want %v", got, err, seqs[2:])
	}
	if got, err := read(seqs[6]); err != nil || len(got) != 0 {
		t.Errorf("at the end: %v, %v", got, err)
	}
	if _, err := read(seqs[6] + 1); !dberr.Is(err, dberr.PositionGone) {
		t.Errorf("ahead: %v", err)
	}
	n.advance(ttl + time.Second)
	if _, err := read(seqs[5]); !dberr.Is(err, dberr.PositionGone) {
		t.Errorf("expired: %v", err)
	}
	n.store.Reset()
	n.store.Lead()
	if _, err := read(seqs[6]); !dberr.Is(err, dberr.PositionGone) {
		t.Errorf("another leader's memory: %v", err)
	}
}

// conn is one Watch stream; it takes everything it is sent.
type conn struct {
	ctx      context.Context
	requests chan *storagev1.WatchRequest
	events   chan *storagev1.WatchResponse
}

func (c *conn) Context() context.Context { return c.ctx }

func (c *conn) Send(r *storagev1.WatchResponse) error {
	if r.GetProgress() != nil {
		return nil
	}
	select {
	case c.events <- r:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

func (c *conn) Recv() (*storagev1.WatchRequest, error) {
	select {
	case r, ok := <-c.requests:
		if !ok {
			return nil, io.EOF
		}
		return r, nil
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	}
}

func (n *node) watch(table uint32, user string, after uint64) (c *conn, stop func()) {
	ctx, cancel := context.WithCancel(n.t.Context())
	c = &conn{ctx: ctx, requests: make(chan *storagev1.WatchRequest), events: make(chan *storagev1.WatchResponse)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = watch.NewServer(n).Watch(c) // ends when the test cancels it
		cancel()
	}()
	stop = func() {
		cancel()
		<-done
	}
	n.t.Cleanup(stop)
	c.requests <- &storagev1.WatchRequest{Request: &storagev1.WatchRequest_Add{Add: &storagev1.WatchAdd{WatchId: 1, Shard: shard,
		TableId: table, UserId: user, Identity: &catalogv1.Identity{UserId: user}, AfterSeq: after}}}
	return c, stop
}

func (n *node) changes(c *conn, count int) (seqs []uint64) {
	n.t.Helper()
	for len(seqs) < count {
		e := <-c.events
		if e.GetChanges() == nil {
			n.t.Fatalf("got %v, want changes", e)
		}
		for _, ch := range e.GetChanges().GetChanges() {
			seqs = append(seqs, ch.GetSeq())
		}
	}
	return seqs
}

func TestWatch(t *testing.T) {
	n := newNode(t, 0)
	first := n.insert(plain, "alice", 1)
	c, _ := n.watch(plain, "alice", 0)
	if p := (<-c.events).GetStarted().GetPosition(); p != first[0] {
		t.Fatalf("started at %d, want %d", p, first[0])
	}
	n.insert(plain, "bob", 1)
	second := n.insert(plain, "alice", 2, 3)
	if got := n.changes(c, 2); !slices.Equal(got, second) {
		t.Errorf("got %v, want %v", got, second)
	}
	again, _ := n.watch(plain, "alice", first[0])
	if p := (<-again.events).GetStarted().GetPosition(); p != first[0] {
		t.Fatalf("started at %d", p)
	}
	if got := n.changes(again, 2); !slices.Equal(got, second) {
		t.Errorf("resumed: got %v, want %v", got, second)
	}
	n.advance(ttl + time.Second)
	gone, _ := n.watch(plain, "alice", first[0])
	if e := (<-gone.events).GetEnded(); e.GetCode() != string(dberr.PositionGone) {
		t.Errorf("got %v", e)
	}
}

// A reader slower than its queue goes on from memory.
func TestSlowWatchMissesNothing(t *testing.T) {
	n := newNode(t, 0)
	c, _ := n.watch(plain, "alice", 0)
	<-c.events
	var want []uint64
	for i := range int64(30) {
		ids := make([]int64, 100)
		for j := range ids {
			ids[j] = i*100 + int64(j)
		}
		want = append(want, n.insert(plain, "alice", ids...)...)
	}
	if got := n.changes(c, len(want)); !slices.Equal(got, want) {
		t.Errorf("%d changes, want %d", len(got), len(want))
	}
}

func TestEphemeralNeedsAWatch(t *testing.T) {
	n := newNode(t, 0)
	n.insert(ephemeral, "alice", 1)
	n.wantIDs(ephemeral, "alice")
	c, stop := n.watch(ephemeral, "alice", 0)
	<-c.events
	n.insert(ephemeral, "alice", 1, 2) // 1 was not kept, so its key is free
	n.changes(c, 2)
	n.insert(ephemeral, "bob", 1)
	n.wantIDs(ephemeral, "alice", 1, 2)
	n.wantIDs(ephemeral, "bob")
	stop()
	n.wantIDs(ephemeral, "alice")
	if n.memory.Used() != 0 {
		t.Errorf("%d bytes are still counted", n.memory.Used())
	}
}

// Whoever starts watching while others write gets exactly what comes after the position it was told.
func TestWatchesJoinWritersWithoutGap(t *testing.T) {
	for _, table := range []uint32{plain, ephemeral} {
		n := newNode(t, 0)
		const writes = 300
		var all []uint64
		var wg sync.WaitGroup
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range int64(writes) {
				res, err := n.try(table, "alice", storagev1.Operation_OPERATION_INSERT, i)
				if err != nil {
					t.Error(err)
					return
				}
				all = append(all, res.GetSeqs()...)
			}
		}()
		type result struct {
			start uint64
			got   []uint64
		}
		results := make([]result, 8)
		conns := make([]*conn, len(results))
		for i := range results {
			conns[i], _ = n.watch(table, "alice", 0)
			results[i].start = (<-conns[i].events).GetStarted().GetPosition()
		}
		wg.Wait()
		last := n.insert(table, "alice", writes)
		all = append(all, last...)
		for i := range results {
			r := &results[i]
			for len(r.got) == 0 || r.got[len(r.got)-1] != last[0] {
				r.got = append(r.got, n.changes(conns[i], 1)...)
			}
			want := all
			for len(want) > 0 && want[0] <= r.start {
				want = want[1:]
			}
			if !slices.Equal(r.got, want) {
				t.Errorf("table %d: after %d got %d changes, want %d", table, r.start, len(r.got), len(want))
			}
		}
	}
}

func TestEvictionRunsByItself(t *testing.T) {
	n := newNode(t, 0)
	m := stream.NewMemory(stream.MemoryConfig{EvictEvery: time.Millisecond})
	s := stream.New(stream.Config{Hub: watch.NewHub(shard, 0, nil), Memory: m, Tables: n, NextSeq: n.seqs.Next, Now: n.clock, Complete: complete})
	s.Lead()
	w := &storagev1.TableWrite{SchemaVersion: 1, Operation: storagev1.Operation_OPERATION_INSERT, Rows: [][]byte{n.row(plain, 1, "")}}
	if _, err := s.Write(t.Context(), n.tables[plain], "alice", w, false); err != nil {
		t.Fatal(err)
	}
	n.advance(ttl)
	m.Start(t.Context())
	for m.Used() != 0 && t.Context().Err() == nil {
		runtime.Gosched() // a test that hangs here has found that nothing evicts
	}
	m.Stop()
}

func BenchmarkWrite(b *testing.B) {
	n := newNode(b, 0)
	id := int64(0)
	for b.Loop() {
		id++
		n.insert(buffered, "alice", id)
	}
}
