package shard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
)

// restless makes snapshots and truncates the log all the time.
var restless = raftgroup.Settings{SnapshotInterval: 5 * time.Millisecond, SnapshotThreshold: 20, TrailingLogs: 5}

// ledger is what writers were told. A statement inserts rows with ids of its own; every row's body
// names the statement and how many rows it has.
type ledger struct {
	mu       sync.Mutex
	next     int
	acked    map[string]int // statement → rows
	position uint64         // highest acknowledged
}

func newLedger() *ledger { return &ledger{acked: map[string]int{}} }

func (l *ledger) statement(rows int) (name string, w *storagev1.TableWrite) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name = fmt.Sprintf("s%d/%d", l.next, rows)
	w = insert()
	for range rows {
		l.next++
		w.Rows = append(w.Rows, message(l.next, name, nil))
	}
	return name, w
}

func (l *ledger) ack(name string, rows int, position uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[name] = rows
	l.position = max(l.position, position)
}

func (l *ledger) read() (map[string]int, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.acked), l.position
}

// write inserts statements of 1 to 5 rows until ctx ends. Errors of a node that goes away are fine.
func (l *ledger) write(ctx context.Context, n *node, rng *rand.Rand) {
	for ctx.Err() == nil {
		rows := 1 + rng.IntN(5)
		name, w := l.statement(rows)
		resp, err := n.shard.Write(ctx, request("ann", w))
		switch {
		case err == nil:
			l.ack(name, rows, resp.GetPosition())
		case ctx.Err() != nil, dberr.Is(err, dberr.NotLeader), dberr.Is(err, dberr.Unavailable):
			return
		default:
			n.t.Errorf("write: %v", err)
			return
		}
	}
}

// check reads a node after a fault: everything acknowledged is there, no statement is there in part,
// and the change log is the rows.
func check(t *testing.T, n *node, acked map[string]int) {
	t.Helper()
	found := map[string]int{}
	seqs := map[uint64]bool{}
	for key, v := range n.allRows() {
		body := decodeMessage(t, v.Row).Values[1].AsText()
		found[body]++
		if seqs[v.Seq] {
			t.Errorf("%s: _seq %d twice", key, v.Seq)
		}
		seqs[v.Seq] = true
	}
	for name, rows := range acked {
		if found[name] != rows {
			t.Errorf("statement %s was acknowledged and has %d rows", name, found[name])
		}
	}
	for name, rows := range found {
		var id, want int
		if _, err := fmt.Sscanf(name, "s%d/%d", &id, &want); err != nil || rows != want {
			t.Errorf("statement %s is there with %d rows (%v)", name, rows, err)
		}
	}
	changes, last := 0, uint64(0)
	for more := true; more; {
		var cs []*storagev1.Change
		var err error
		cs, more, err = changelog.Read(n.hot, 0, messagesID, "ann", last, changelog.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cs {
			if c.GetSeq() <= last || !seqs[c.GetSeq()] {
				t.Errorf("change %d after %d belongs to no row", c.GetSeq(), last)
			}
			last = c.GetSeq()
			changes++
		}
	}
	if changes != len(seqs) || n.shard.Position() < last {
		t.Errorf("%d changes, %d rows, position %d, last change %d", changes, len(seqs), n.shard.Position(), last)
	}
}

// flushAlways flushes and merges until ctx ends.
func flushAlways(ctx context.Context, n *node, rng *rand.Rand) {
	for ctx.Err() == nil {
		_, err := n.shard.Flush(ctx, tables()[messagesID], "", holdNothing)
		if err == nil && rng.IntN(3) == 0 {
			_, err = n.shard.Merge(ctx, tables()[messagesID], "", rng.IntN(2) == 0, holdNothing)
		}
		if err != nil && ctx.Err() == nil && !dberr.Is(err, dberr.Unavailable) && !dberr.Is(err, dberr.NotLeader) {
			n.t.Errorf("flush: %v", err)
			return
		}
	}
}

func TestACrashLosesNothingAcknowledged(t *testing.T) {
	for seed := range uint64(18) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			fs := vfs.NewCrashableMem()
			n := openNode(t, nodeOptions{fs: fs, settings: restless})
			l := newLedger()
			ctx, cancel := context.WithCancel(t.Context())
			var writers sync.WaitGroup
			for w := range uint64(8) {
				own := rand.New(rand.NewPCG(seed, w))
				writers.Go(func() { l.write(ctx, n, own) })
			}
			if seed%3 > 0 { // a third without any, so that nothing is found in segments that the store has lost
				writers.Go(func() { flushAlways(ctx, n, rand.New(rand.NewPCG(seed, 99))) })
			}
			goal := rng.IntN(400) // any moment is as good: wait for some progress
			until(t, "some writes", func() bool { acked, _ := l.read(); return len(acked) >= goal })
			acked, position := l.read()
			crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
			cancel()
			writers.Wait()
			n.stop()

			after := openNode(t, nodeOptions{fs: crashed, settings: restless})
			defer after.stop()
			check(t, after, acked)
			name, w := l.statement(1)
			if p := after.mustWrite("ann", w).GetPosition(); p <= position || p != after.shard.Position() {
				t.Errorf("_seq %d after the crash, %d was acknowledged before", p, position)
			}
			acked[name] = 1
			check(t, after, acked)
		})
	}
}

func TestARestartAppliesNothingTwice(t *testing.T) {
	fs := vfs.NewMem()
	n := openNode(t, nodeOptions{fs: fs})
	for i := range 50 {
		n.mustWrite("ann", insert(message(i, "x", nil)))
	}
	if err := n.hot.Flush(); err != nil {
		t.Fatal(err)
	}
	applied, position := n.shard.Applied(), n.shard.Position()
	n.stop()
	// The log still holds every entry. Applied again, they would rewrite this row.
	hot, err := pebble.Open("hot", &pebble.Options{FS: fs, DisableWAL: true, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	key := keycodec.AppendRowKey(nil, 0, messagesID, "ann", decodeMessage(t, message(7, nil, nil)).Values[:1])
	if err := errors.Join(hot.Delete(key, pebble.NoSync), hot.Flush(), hot.Close()); err != nil {
		t.Fatal(err)
	}
	n = openNode(t, nodeOptions{fs: fs})
	defer n.stop()
	if n.shard.Applied() != applied || n.shard.Position() != position {
		t.Errorf("applied %d to %d, position %d to %d", applied, n.shard.Applied(), position, n.shard.Position())
	}
	if _, back := n.rows()["ann/7"]; back || len(n.rows()) != 49 {
		t.Errorf("an entry was applied again: %d rows", len(n.rows()))
	}
}

func TestTheLogIsTruncatedButNotBeyondWhatIsDurable(t *testing.T) {
	fs := vfs.NewCrashableMem()
	n := openNode(t, nodeOptions{fs: fs, settings: raftgroup.Settings{TrailingLogs: 5}})
	for i := range 100 {
		n.mustWrite("ann", insert(message(i, "s/1", nil)))
	}
	if err := n.group.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	store, err := n.log.Group(1)
	if err != nil {
		t.Fatal(err)
	}
	if first, _ := store.FirstIndex(); first < 90 {
		t.Errorf("the log begins at %d after a snapshot", first)
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	n.stop()
	n = openNode(t, nodeOptions{fs: crashed})
	defer n.stop()
	if len(n.rows()) != 100 {
		t.Errorf("%d of 100 rows after a crash", len(n.rows()))
	}
}

// dump is every key and value of the shard.
func (n *node) dump() string {
	var b strings.Builder
	for _, span := range keycodec.ShardSpans(0) {
		it, err := n.hot.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
		if err != nil {
			n.t.Fatal(err)
		}
		for ok := it.First(); ok; ok = it.Next() {
			fmt.Fprintf(&b, "%d %s %d %s ", len(it.Key()), it.Key(), len(it.Value()), it.Value())
		}
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			n.t.Fatal(err)
		}
	}
	return b.String()
}

// until polls: Raft has no event for what the tests wait for.
func until(t *testing.T, what string, reached func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !reached() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not reached in time", what)
		}
	}
}

func TestAnEmptyReplicaIsFilledByASnapshot(t *testing.T) {
	net := rpcnet.NewLocal()
	settings := raftgroup.Settings{TrailingLogs: 1}
	n1 := openNode(t, nodeOptions{net: net, id: "n1", settings: settings})
	defer n1.stop()
	large := strings.Repeat("x", 1000)
	for i := range 2000 {
		if i%100 == 0 {
			n1.mustWrite("ann", insert(message(i, "with a tag", fmt.Sprint(i))))
			continue
		}
		n1.mustWrite("bob", insert(message(i, large, nil)))
	}
	if err := n1.shard.Purge(t.Context(), 77); err != nil {
		t.Fatal(err)
	}
	if err := n1.group.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	fs := vfs.NewCrashableMem()
	n2 := openNode(t, nodeOptions{net: net, id: "n2", joining: true, fs: fs, settings: settings})
	defer n2.stop()
	added := make(chan error, 1)
	go func() { added <- n1.addVoter(t.Context(), "n2") }()
	var clones []*vfs.MemFS
	rng := rand.New(rand.NewPCG(1, 2))
	for done := false; !done; { // crashes of n2 at moments while it is filled
		select {
		case err := <-added:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		case <-time.After(500 * time.Microsecond):
			if len(clones) < 30 {
				clones = append(clones, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng}))
			}
		}
	}
	n1.mustWrite("ann", insert(message(5000, "after joining", nil)))
	until(t, "n2 follows", func() bool { return n2.shard.Applied() == n1.shard.Applied() })
	if n1.dump() != n2.dump() {
		t.Error("the replicas differ")
	}
	if !n2.shard.dropped[77] {
		t.Error("n2 does not know of the dropped table")
	}
	for i, clone := range clones {
		again := openNode(t, nodeOptions{fs: clone, joining: true, id: "n2"})
		if n := len(again.rows()); n != 0 && n < 2000 {
			t.Errorf("crash %d of %d: n2 came up with %d rows", i, len(clones), n)
		}
		again.stop()
	}
}

func TestFailoverKeepsWhatWasAcknowledgedAndSeqsRise(t *testing.T) {
	faults := rpcnet.NewFaults(rpcnet.NewLocal())
	settings := raftgroup.Settings{HeartbeatTimeout: 100 * time.Millisecond}
	nodes := make([]*node, 3)
	for i := range nodes {
		id := fmt.Sprint("n", i+1)
		opt := nodeOptions{net: faults.As(id), id: id, joining: i > 0, settings: settings}
		if i > 0 { // clocks that are behind must not make _seq fall
			opt.now = func() time.Time { return time.Now().Add(-time.Hour) }
		}
		nodes[i] = openNode(t, opt)
		defer nodes[i].stop()
		if i > 0 {
			if err := nodes[0].addVoter(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	}
	l := newLedger()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writers sync.WaitGroup
	for w := range uint64(4) {
		rng := rand.New(rand.NewPCG(3, w))
		writers.Go(func() { l.write(ctx, nodes[0], rng) })
	}
	until(t, "writes", func() bool { acked, _ := l.read(); return len(acked) > 50 })
	for _, other := range []string{"n2", "n3"} {
		faults.Cut("n1", other)
		faults.Cut(other, "n1")
	}
	var leader *node
	select {
	case <-nodes[1].leads:
		leader = nodes[1]
	case <-nodes[2].leads:
		leader = nodes[2]
	}
	writers.Wait() // n1 gave up
	acked, position := l.read()
	check(t, leader, acked)
	name, w := l.statement(3)
	if p := leader.mustWrite("ann", w).GetPosition(); p <= position {
		t.Errorf("the new leader wrote _seq %d, %d was acknowledged before", p, position)
	}
	acked[name] = 3
	if _, err := nodes[0].write("ann", insert(message(1_000_000, "old leader", nil))); err == nil {
		t.Error("the old leader still acknowledges")
	}
	if err := nodes[0].shard.ReadBarrier(t.Context()); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("the old leader serves reads: %v", err)
	}
	if err := leader.shard.ReadBarrier(t.Context()); err != nil {
		t.Errorf("the new leader serves no reads: %v", err)
	}
	faults.Heal()
	until(t, "n1 follows", func() bool { return nodes[0].shard.Applied() == leader.shard.Applied() })
	check(t, nodes[0], acked)
	if nodes[0].dump() != leader.dump() {
		t.Error("the replicas differ")
	}
}
