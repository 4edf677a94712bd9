package watch_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/watch"
)

const (
	shard       = 1
	userTable   = 10
	sharedTable = 11
	// base is the first _seq: a position of zero would mean "now".
	base = 1000
)

// node is a shard's state with its hub, and an apply loop that does what the shard's does.
type node struct {
	t   testing.TB
	db  *pebble.DB
	hub *watch.Hub

	// beforeRead runs before the log is read; pieces limits the changes of one read.
	beforeRead func()
	pieces     int

	mu   sync.Mutex
	last uint64
}

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
	n := &node{t: t, db: db, last: base}
	n.hub = watch.NewHub(shard, base, n)
	n.commit(0, "")
	return n
}

// Read is the shard's change log, with what a test puts around it.
func (n *node) Read(table uint32, user string, after uint64) ([]*storagev1.Change, bool, error) {
	if n.beforeRead != nil {
		n.beforeRead()
	}
	if n.pieces > 0 {
		return changelog.Read(n.db, shard, table, user, after, changelog.Limits{Rows: n.pieces})
	}
	return changelog.Log{Reader: n.db, Shard: shard}.Read(table, user, after)
}

func (n *node) Hub(s uint32) (*watch.Hub, error) {
	if s != shard {
		return nil, dberr.New(dberr.NotLeader, "shard %d is elsewhere", s)
	}
	return n.hub, nil
}

func (n *node) Table(id uint32) (*catalog.Table, bool) {
	kinds := map[uint32]catalog.TableKind{userTable: catalog.UserTable, sharedTable: catalog.SharedTable}
	kind, ok := kinds[id]
	return (&catalog.Table{ID: id, Kind: kind, Namespace: "app", Name: "t"}).Index(), ok
}

// write applies a batch of changes of one partition.
func (n *node) write(table uint32, user string, rows int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ch := range n.commit(rows, user) {
		n.hub.Publish(table, user, ch)
	}
	n.hub.Advance(n.last)
}

func (n *node) commit(rows int, user string) []*storagev1.Change {
	b := n.db.NewBatch()
	changes := make([]*storagev1.Change, rows)
	for i := range changes {
		n.last++
		changes[i] = &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_INSERT, Seq: n.last, Row: []byte(user)}
		table := uint32(userTable)
		if user == "" {
			table = sharedTable
		}
		if err := changelog.Append(b, shard, table, user, changes[i]); err != nil {
			n.t.Error(err)
		}
	}
	applied := keycodec.AppendApplied(nil, keycodec.Applied{Index: n.last, Term: 1, Seq: n.last})
	if err := b.Set(keycodec.AppliedKey(shard), applied, nil); err != nil {
		n.t.Error(err)
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		n.t.Error(err)
	}
	return changes
}

// conn is one Watch stream, both ends.
type conn struct {
	ctx      context.Context
	cancel   context.CancelFunc
	requests chan *storagev1.WatchRequest
	events   chan *storagev1.WatchResponse
	done     chan error
}

func connect(t testing.TB, shards watch.Shards) *conn {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &conn{ctx: ctx, cancel: cancel, requests: make(chan *storagev1.WatchRequest),
		events: make(chan *storagev1.WatchResponse), done: make(chan error, 1)}
	go func() {
		c.done <- watch.NewServer(shards).Watch(c)
		cancel() // as gRPC does when the handler returns
	}()
	t.Cleanup(func() {
		cancel()
		<-c.done
	})
	return c
}

func (c *conn) Context() context.Context { return c.ctx }

func (c *conn) Send(r *storagev1.WatchResponse) error {
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

func (c *conn) add(id uint64, table uint32, user string, after uint64) {
	c.ask(&storagev1.WatchAdd{WatchId: id, Shard: shard, TableId: table, UserId: user, AfterSeq: after,
		Identity: &catalogv1.Identity{UserId: user}})
}

func (c *conn) ask(a *storagev1.WatchAdd) {
	select {
	case c.requests <- &storagev1.WatchRequest{Request: &storagev1.WatchRequest_Add{Add: a}}:
	case <-c.ctx.Done():
	}
}

// next returns the next event that is not Progress.
func (c *conn) next(t testing.TB) *storagev1.WatchResponse {
	t.Helper()
	for {
		select {
		case e := <-c.events:
			if e.GetProgress() == nil {
				return e
			}
		case <-c.ctx.Done():
			t.Fatal("the stream ended")
		}
	}
}

// started waits for WatchStarted and returns its position.
func (c *conn) started(t testing.TB) uint64 {
	t.Helper()
	e := c.next(t)
	if e.GetStarted() == nil {
		t.Fatalf("got %v, want WatchStarted", e)
	}
	return e.GetStarted().GetPosition()
}

// follow collects changes until the one with the _seq last.
func (c *conn) follow(t testing.TB, last uint64) []uint64 {
	t.Helper()
	var seqs []uint64
	for len(seqs) == 0 || seqs[len(seqs)-1] < last {
		e := c.next(t)
		if e.GetChanges() == nil {
			t.Fatalf("got %v, want changes", e)
		}
		for _, ch := range e.GetChanges().GetChanges() {
			seqs = append(seqs, ch.GetSeq())
		}
	}
	return seqs
}

func checkRun(t testing.TB, got []uint64, after, last uint64) {
	t.Helper()
	for i, seq := range got {
		if seq != after+uint64(i)+1 {
			t.Fatalf("after %d: change %d is %d: a gap or a repetition", after, i, seq)
		}
	}
	if uint64(len(got)) != last-after {
		t.Fatalf("after %d: %d changes, want up to %d", after, len(got), last)
	}
}

func TestWatchFromNow(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 3)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	if p := c.started(t); p != base+3 {
		t.Fatalf("started at %d", p)
	}
	n.write(userTable, "alice", 2)
	checkRun(t, c.follow(t, base+5), base+3, base+5)
}

// A shard without changes has a position that can be resumed from: zero would mean "now".
func TestWatchFromTheBeginning(t *testing.T) {
	n := newNode(t)
	n.last = 0
	n.hub = watch.NewHub(shard, 0, n)
	n.commit(0, "")
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	p := c.started(t)
	if p == 0 {
		t.Fatal("started at zero")
	}
	n.last = base
	n.write(userTable, "alice", 2)
	checkRun(t, c.follow(t, base+2), base, base+2)
	again := connect(t, n)
	again.add(1, userTable, "alice", p)
	if again.started(t) != p {
		t.Fatal("started elsewhere")
	}
	checkRun(t, again.follow(t, base+2), base, base+2)
}

func TestWatchFromAPosition(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 5)
	c := connect(t, n)
	c.add(1, userTable, "alice", base+2)
	if p := c.started(t); p != base+2 {
		t.Fatalf("started at %d", p)
	}
	checkRun(t, c.follow(t, base+5), base+2, base+5)
	n.write(userTable, "alice", 1)
	checkRun(t, c.follow(t, base+6), base+5, base+6)
}

// A batch that is committed but not yet published completely belongs to watches that start now.
func TestWatchStartsInTheMiddleOfABatch(t *testing.T) {
	n := newNode(t)
	changes := n.commit(2, "alice")
	n.hub.Publish(userTable, "alice", changes[0])
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	if p := c.started(t); p != base {
		t.Fatalf("started at %d", p)
	}
	n.hub.Publish(userTable, "alice", changes[1])
	n.hub.Advance(base + 2)
	checkRun(t, c.follow(t, base+2), base, base+2)
}

func TestWatchesSeeTheirPartitionOnly(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	c.started(t)
	c.add(2, sharedTable, "", 0)
	// The shared table's identity does not matter here; its watch names no user.
	c.started(t)
	n.write(userTable, "bob", 1)
	n.write(userTable, "alice", 1)
	n.write(sharedTable, "", 1)
	want := map[uint64]uint64{1: base + 2, 2: base + 3}
	for range 2 {
		e := c.next(t).GetChanges()
		if seq := e.GetChanges()[0].GetSeq(); len(e.GetChanges()) != 1 || want[e.GetWatchId()] != seq {
			t.Fatalf("watch %d got %v", e.GetWatchId(), e.GetChanges())
		}
	}
}

func TestRefusals(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 1)
	c := connect(t, n)
	for i, r := range []struct {
		add  *storagev1.WatchAdd
		code dberr.Code
	}{
		{&storagev1.WatchAdd{Shard: shard, TableId: userTable, UserId: "alice", Identity: &catalogv1.Identity{UserId: "bob", Role: catalogv1.Role_ROLE_SYSTEM}}, dberr.PermissionDenied},
		{&storagev1.WatchAdd{Shard: shard, TableId: userTable}, dberr.PermissionDenied},
		{&storagev1.WatchAdd{Shard: shard, TableId: sharedTable, UserId: "alice", Identity: &catalogv1.Identity{UserId: "alice"}}, dberr.InvalidArgument},
		{&storagev1.WatchAdd{Shard: shard, TableId: 99}, dberr.NotFound},
		{&storagev1.WatchAdd{Shard: 7, TableId: sharedTable}, dberr.NotLeader},
		{&storagev1.WatchAdd{Shard: shard, TableId: sharedTable, AfterSeq: base + 50}, dberr.PositionGone},
	} {
		r.add.WatchId = uint64(i)
		c.ask(r.add)
		e := c.next(t).GetEnded()
		if e.GetWatchId() != uint64(i) || e.GetCode() != string(r.code) {
			t.Errorf("%d: got %v, want %s", i, e, r.code)
		}
	}
}

func TestDuplicateIDEndsTheStream(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	c.started(t)
	c.add(1, userTable, "alice", 0)
	for c.ctx.Err() == nil {
		select {
		case <-c.events:
		case <-c.ctx.Done():
		}
	}
	err := <-c.done
	c.done <- err
	if !dberr.Is(err, dberr.InvalidArgument) {
		t.Fatalf("got %v", err)
	}
}

func TestDroppedTableEndsItsWatches(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	c.started(t)
	c.add(2, sharedTable, "", 0)
	c.started(t)
	n.hub.DropTable(userTable)
	if e := c.next(t).GetEnded(); e.GetWatchId() != 1 || e.GetCode() != string(dberr.NotFound) {
		t.Fatalf("got %v", e)
	}
	n.write(userTable, "alice", 1)
	n.write(sharedTable, "", 1)
	if e := c.next(t).GetChanges(); e.GetWatchId() != 2 {
		t.Fatalf("got %v", e)
	}
}

func TestClosedHubRefusesUntilItOpens(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	c.started(t)
	n.hub.Close(dberr.New(dberr.NotLeader, "n2 leads"))
	if e := c.next(t).GetEnded(); e.GetCode() != string(dberr.NotLeader) {
		t.Fatalf("got %v", e)
	}
	c.add(1, userTable, "alice", 0)
	if e := c.next(t).GetEnded(); e.GetCode() != string(dberr.NotLeader) {
		t.Fatalf("got %v", e)
	}
	n.hub.Open(base)
	c.add(1, userTable, "alice", 0)
	c.started(t)
}

func TestRemovedWatchIsSilent(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	c.started(t)
	c.requests <- &storagev1.WatchRequest{Request: &storagev1.WatchRequest_Remove{Remove: 1}}
	c.add(2, sharedTable, "", 0) // answered after the removal
	c.started(t)
	if n.hub.Watched(userTable, "alice") {
		t.Fatal("still registered")
	}
	n.write(userTable, "alice", 1)
	n.write(sharedTable, "", 1)
	if e := c.next(t).GetChanges(); e.GetWatchId() != 2 {
		t.Fatalf("got %v", e)
	}
}

func TestPrunedPositionIsGone(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 2)
	if pruned, err := changelog.Prune(n.db, shard, 1); err != nil || !pruned {
		t.Fatalf("%v, %v", pruned, err)
	}
	c := connect(t, n)
	c.add(1, userTable, "alice", base+1)
	if e := c.next(t).GetEnded(); e.GetCode() != string(dberr.PositionGone) {
		t.Fatalf("got %v", e)
	}
}

// A reader that stands still while more comes than its queue holds goes on from the log.
func TestSlowReaderMissesNothing(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	c.started(t)
	const writes, rows = 50, 100
	for range writes {
		n.write(userTable, "alice", rows)
	}
	checkRun(t, c.follow(t, base+writes*rows), base, base+writes*rows)
}

// What is published while a watch reads history is in both.
func TestPublishedWhileReadingHistory(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 2)
	n.beforeRead = sync.OnceFunc(func() { n.write(userTable, "alice", 3) })
	c := connect(t, n)
	c.add(1, userTable, "alice", base+1)
	c.started(t)
	checkRun(t, c.follow(t, base+5), base+1, base+5)
	n.write(userTable, "alice", 1)
	checkRun(t, c.follow(t, base+6), base+5, base+6)
}

// The same with more history than one read gives: the queue then begins after a gap.
func TestPublishedWhileReadingAPieceOfHistory(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 20)
	n.pieces = 3
	n.beforeRead = sync.OnceFunc(func() { n.write(userTable, "alice", 2) })
	c := connect(t, n)
	c.add(1, userTable, "alice", base+1)
	c.started(t)
	checkRun(t, c.follow(t, base+22), base+1, base+22)
}

// A watch that is behind holds its shard's Progress back.
func TestProgressWaitsForHistory(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "alice", 20)
	n.pieces = 3
	c := connect(t, n)
	c.add(1, userTable, "alice", base+1)
	var sent uint64
	for {
		e := <-c.events
		for _, ch := range e.GetChanges().GetChanges() {
			sent = ch.GetSeq()
		}
		if p := e.GetProgress(); p != nil && p.GetPosition() >= base+20 {
			if sent != base+20 {
				t.Fatalf("progress %d after change %d", p.GetPosition(), sent)
			}
			return
		}
	}
}

// Progress says a position only when everything up to it was sent, also when the partition is quiet.
func TestProgressFollowsTheChanges(t *testing.T) {
	n := newNode(t)
	c := connect(t, n)
	c.add(1, userTable, "alice", 0)
	const rounds = 20
	go func() {
		for range rounds {
			n.write(userTable, "alice", 3)
			n.write(userTable, "bob", 2)
		}
	}()
	var sent, progress uint64
	for progress < base+rounds*5 {
		select {
		case e := <-c.events:
			for _, ch := range e.GetChanges().GetChanges() {
				if ch.GetSeq() <= progress {
					t.Fatalf("change %d after progress %d", ch.GetSeq(), progress)
				}
				sent = ch.GetSeq()
			}
			if p := e.GetProgress(); p != nil {
				if p.GetShard() != shard || p.GetPosition() < progress {
					t.Fatalf("progress fell from %d to %v", progress, p)
				}
				progress = p.GetPosition()
			}
		case <-c.ctx.Done():
			t.Fatal("the stream ended")
		}
	}
	if sent == 0 {
		t.Fatal("no changes")
	}
}

// The heart of it: whatever the moment a watch registers, and from whatever position, it gets exactly what
// comes after the position it was told.
func TestWatchesJoinWithoutGapOrRepeat(t *testing.T) {
	const writes, watchers, users = 400, 24, 3
	n := newNode(t)
	want := map[string][]uint64{} // guarded by n.mu until the writer is done
	written := make(chan struct{})
	go func() {
		defer close(written)
		r := rand.New(rand.NewPCG(1, 2))
		for range writes {
			user := fmt.Sprint("u", r.IntN(users))
			n.write(userTable, user, 1+r.IntN(20))
		}
		for u := range users { // a last one for everybody
			n.write(userTable, fmt.Sprint("u", u), 1)
		}
	}()
	type result struct {
		user  string
		after uint64
		got   []uint64
	}
	results := make(chan result, watchers)
	for i := range watchers {
		go func() {
			r := rand.New(rand.NewPCG(3, uint64(i)))
			user := fmt.Sprint("u", i%users)
			after := uint64(0)
			if i%2 == 1 {
				n.mu.Lock()
				after = base + 1 + r.Uint64N(n.last-base+1)
				n.mu.Unlock()
				after = min(after, n.position())
			}
			c := connect(t, n)
			c.add(1, userTable, user, after)
			e := <-c.events
			for e.GetStarted() == nil {
				if e.GetEnded() != nil {
					t.Errorf("watch ended: %v", e)
					results <- result{user: user}
					return
				}
				e = <-c.events
			}
			res := result{user: user, after: e.GetStarted().GetPosition()}
			final := func() uint64 {
				select {
				case <-written:
					return n.lastOf(user)
				default:
					return 0
				}
			}
			for f := final(); f == 0 || res.after < f && (len(res.got) == 0 || res.got[len(res.got)-1] < f); f = final() {
				e := <-c.events
				for _, ch := range e.GetChanges().GetChanges() {
					res.got = append(res.got, ch.GetSeq())
				}
			}
			results <- res
		}()
	}
	<-written
	for u := range users {
		user := fmt.Sprint("u", u)
		want[user] = n.all(user)
	}
	for range watchers {
		res := <-results
		all := want[res.user]
		for len(all) > 0 && all[0] <= res.after {
			all = all[1:]
		}
		if fmt.Sprint(res.got) != fmt.Sprint(all) {
			t.Errorf("%s after %d: got %d changes, want %d", res.user, res.after, len(res.got), len(all))
		}
	}
}

func (n *node) position() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last
}

// all reads a user's whole log.
func (n *node) all(user string) (seqs []uint64) {
	after := uint64(base)
	for {
		changes, more, err := changelog.Read(n.db, shard, userTable, user, after, changelog.Limits{})
		if err != nil {
			n.t.Error(err)
			return nil
		}
		for _, ch := range changes {
			after = ch.GetSeq()
			seqs = append(seqs, after)
		}
		if !more {
			return seqs
		}
	}
}

func (n *node) lastOf(user string) uint64 {
	all := n.all(user)
	return all[len(all)-1]
}

// What nobody watches costs a look-up.
func BenchmarkPublishUnwatched(b *testing.B) {
	n := newNode(b)
	ch := &storagev1.Change{Seq: base + 1}
	for b.Loop() {
		n.hub.Publish(userTable, "nobody", ch)
	}
	n.hub.Advance(base)
}

func BenchmarkPublishWatched(b *testing.B) {
	n := newNode(b)
	c := connect(b, n)
	c.add(1, userTable, "alice", 0)
	c.started(b)
	go func() {
		for c.ctx.Err() == nil {
			select {
			case <-c.events:
			case <-c.ctx.Done():
			}
		}
	}()
	for b.Loop() {
		n.write(userTable, "alice", 1)
	}
}
