package watch_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
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

// hour moves the shard on into the next hour of the change log.
func (n *node) hour() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for changelog.Bucket(n.last) == 0 {
		n.last += 1 << 30
	}
	n.commit(0, "")
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
