package shard

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

const (
	linearizable = storagev1.Consistency_CONSISTENCY_LINEARIZABLE
	byLeader     = storagev1.Consistency_CONSISTENCY_LEADER
	stale        = storagev1.Consistency_CONSISTENCY_STALE
)

// follower is a replica whose leader is made of two functions and a clock.
type follower struct {
	*node
	asked atomic.Int64
	mu    sync.Mutex
	now   time.Time
	looks int // at the clock
	// leader answers ReadIndex.
	leader func(context.Context) (uint64, error)
}

func newFollower(t *testing.T) *follower {
	f := &follower{node: bare(t, vfs.NewMem()), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	f.shard.cfg.Steady = func() time.Time {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.looks++
		return f.now
	}
	f.shard.cfg.ReadIndex = func(ctx context.Context) (uint64, error) {
		f.asked.Add(1)
		return f.leader(ctx)
	}
	t.Cleanup(func() {
		if err := f.shard.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *follower) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

func at(index uint64) func(context.Context) (uint64, error) {
	return func(context.Context) (uint64, error) { return index, nil }
}

func TestAStaleReadAsksTheLeaderOnceInAWhile(t *testing.T) {
	f := newFollower(t)
	f.shard.Apply([]*raft.Log{entryOf(1, 3, 1, "x")})
	f.leader = at(1)
	read := func(maxAge time.Duration, asked int64) {
		t.Helper()
		if err := f.shard.ReadAs(t.Context(), stale, maxAge); err != nil || f.asked.Load() != asked {
			t.Errorf("%v, asked %d times, want %d", err, f.asked.Load(), asked)
		}
	}
	read(time.Second, 1)
	f.advance(500 * time.Millisecond)
	read(time.Second, 1)
	f.advance(501 * time.Millisecond)
	read(time.Second, 2)
	f.advance(time.Millisecond)
	read(0, 3)
	for _, want := range []storagev1.Consistency{linearizable, byLeader, 0} {
		if err := f.shard.ReadAs(t.Context(), want, 0); !dberr.Is(err, dberr.NotLeader) {
			t.Errorf("%v at a follower: %v", want, err)
		}
	}
	if err := f.shard.ReadAs(t.Context(), 99, 0); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("an unknown consistency: %v", err)
	}
}

// A read waits until the replica has applied what the leader had.
func TestAStaleReadWaitsForTheLog(t *testing.T) {
	f := newFollower(t)
	f.leader = at(2)
	const readers = 20
	errs := make(chan error, readers)
	for range readers {
		go func() { errs <- f.shard.ReadAs(t.Context(), stale, time.Hour) }()
	}
	until(t, "the leader was asked", func() bool { return f.asked.Load() == 1 })
	f.shard.Apply([]*raft.Log{entryOf(1, 3, 1, "x")})
	select {
	case err := <-errs:
		t.Fatalf("a read before entry 2: %v", err)
	default:
	}
	f.shard.Apply([]*raft.Log{entryOf(2, 3, 2, "x")})
	for range readers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := f.asked.Load(); n != 1 {
		t.Errorf("the leader was asked %d times", n)
	}
}

// Halfway to being too old, an answer is renewed; the read does not wait for that, nor for entries that only
// the newer answer asks for.
func TestAStaleReadRenewsBeforeItMust(t *testing.T) {
	f := newFollower(t)
	f.shard.Apply([]*raft.Log{entryOf(1, 3, 1, "x")})
	f.leader = at(1)
	read := func() {
		t.Helper()
		if err := f.shard.ReadAs(t.Context(), stale, time.Second); err != nil {
			t.Error(err)
		}
	}
	read()
	f.leader = at(1000) // this replica never gets there
	f.advance(600 * time.Millisecond)
	read()
	until(t, "the answer is renewed", func() bool {
		f.shard.fresh.mu.Lock()
		defer f.shard.fresh.mu.Unlock()
		return len(f.shard.fresh.known) == 2
	})
	read()
	f.advance(time.Second) // the first answer is too old, the second is not
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := f.shard.ReadAs(ctx, stale, time.Second); !dberr.Is(err, dberr.Timeout) {
		t.Errorf("a replica that is behind: %v", err)
	}
}

// A question that was asked before a read began says nothing about what happened since: the read takes part in
// the next one.
func TestAFreshReadIsNotAnsweredByAnOlderQuestion(t *testing.T) {
	f := newFollower(t)
	f.shard.Apply([]*raft.Log{entryOf(1, 3, 1, "x")})
	answer := make(chan struct{})
	f.leader = func(ctx context.Context) (uint64, error) {
		if f.asked.Load() == 1 {
			select {
			case <-answer:
				return 0, nil
			case <-ctx.Done(): // the test failed and closes the shard
				return 0, ctx.Err()
			}
		}
		return 1, nil
	}
	first := make(chan error)
	go func() { first <- f.shard.ReadAs(t.Context(), stale, 0) }()
	until(t, "the first question", func() bool { return f.asked.Load() == 1 })
	f.advance(time.Second)
	second := make(chan error)
	looks := func() int { f.mu.Lock(); defer f.mu.Unlock(); return f.looks }
	before := looks()
	go func() { second <- f.shard.ReadAs(t.Context(), stale, 100*time.Millisecond) }()
	until(t, "the second read began", func() bool { return looks() > before })
	close(answer)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := <-second; err != nil || f.asked.Load() != 2 {
		t.Errorf("%v, asked %d times", err, f.asked.Load())
	}
}

func TestAStaleReadThatCannotBe(t *testing.T) {
	f := newFollower(t)
	f.leader = func(context.Context) (uint64, error) { return 0, dberr.New(dberr.NotLeader, "nobody leads") }
	if err := f.shard.ReadAs(t.Context(), stale, time.Second); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("without a leader: %v", err)
	}
	f.leader = at(7)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() { got <- f.shard.ReadAs(ctx, stale, time.Second) }()
	until(t, "the leader was asked", func() bool { return f.asked.Load() == 2 })
	cancel()
	if err := <-got; !dberr.Is(err, dberr.Canceled) {
		t.Errorf("the caller gave up: %v", err)
	}
	go func() { got <- f.shard.WaitApplied(t.Context(), 7) }()
	if err := f.shard.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("at the shard's end: %v", err)
	}
	f.advance(time.Hour)
	if err := f.shard.ReadAs(t.Context(), stale, time.Second); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("after the shard's end: %v", err)
	}
}

// The end of the shard ends a question that nobody answers.
func TestClosingEndsAQuestion(t *testing.T) {
	f := newFollower(t)
	f.leader = func(ctx context.Context) (uint64, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	got := make(chan error)
	go func() { got <- f.shard.ReadAs(t.Context(), stale, time.Second) }()
	until(t, "the question", func() bool { return f.asked.Load() == 1 })
	if err := f.shard.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-got; err == nil {
		t.Error("answered")
	}
}

// A follower that asks the real leader sees what was acknowledged before.
func TestAFollowerReadsWhatWasAcknowledged(t *testing.T) {
	net := rpcnet.NewLocal()
	n1 := openNode(t, nodeOptions{net: net, id: "n1"})
	defer n1.stop()
	n2 := openNode(t, nodeOptions{net: net, id: "n2", joining: true, number: 2, readIndex: n1.shard.ReadIndex})
	defer n2.stop()
	if err := n1.addVoter(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		n1.mustWrite("ann", insert(message(i, "x", nil)))
		if err := n2.shard.ReadAs(t.Context(), stale, 0); err != nil {
			t.Fatal(err)
		}
		if rows := len(n2.rows()); rows != i+1 {
			t.Fatalf("%d rows at the follower, %d were acknowledged", rows, i+1)
		}
	}
	if err := n2.shard.ReadAs(t.Context(), byLeader, 0); !dberr.Is(err, dberr.NotLeader) || dberr.FieldOf(err, dberr.FieldLeader) != "n1" {
		t.Errorf("as the leader: %v", err)
	}
	if err := n1.shard.ReadAs(t.Context(), stale, time.Second); err != nil {
		t.Errorf("at the leader: %v", err)
	}
	if err := n1.shard.ReadAs(t.Context(), byLeader, 0); err != nil {
		t.Errorf("as the leader: %v", err)
	}
}
