package raftgroup

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

func testCache(t *testing.T) *logCache {
	t.Helper()
	store, err := openLog(t, vfs.NewMem()).Group(4)
	if err != nil {
		t.Fatal(err)
	}
	return newLogCache(store, 1<<30)
}

func entries(from, to uint64, size int) (logs []*raft.Log) {
	for i := from; i < to; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: 1, Type: raft.LogCommand, Data: make([]byte, size)})
	}
	return logs
}

// held counts what the cache says it holds and checks it against what is there.
func (c *logCache) checkHeld(t *testing.T) (n int) {
	t.Helper()
	bytes := 0
	for _, l := range c.ring {
		if l != nil {
			n, bytes = n+1, bytes+sizeOf(l)
			if l.Index < c.low || l.Index >= c.next {
				t.Errorf("entry %d is held, outside %d to %d", l.Index, c.low, c.next)
			}
		}
	}
	if bytes != c.held || bytes > cacheBytesMax {
		t.Errorf("%d bytes are held, counted as %d (cacheBytesMax %d)", bytes, c.held, cacheBytesMax)
	}
	return n
}

func TestTheLogCacheIsBoundedByBytes(t *testing.T) {
	c := testCache(t)
	store := func(logs []*raft.Log) {
		t.Helper()
		if err := c.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
	}
	store(entries(1, 600, 10))
	if n := c.checkHeld(t); n != cacheEntriesMax {
		t.Errorf("%d small entries are held", n)
	}
	store(entries(600, 900, cacheEntryBytesMax-entryOverhead))
	if n := c.checkHeld(t); n != cacheBytesMax/cacheEntryBytesMax {
		t.Errorf("%d entries of %d bytes are held", n, cacheEntryBytesMax)
	}
	store(entries(900, 902, 1<<20)) // not held
	if c.checkHeld(t); c.ring[900%cacheEntriesMax] != nil {
		t.Error("a large entry is held")
	}
	var l raft.Log
	for _, index := range []uint64{1, 599, 899, 901} {
		if err := c.GetLog(index, &l); err != nil || l.Index != index {
			t.Errorf("entry %d: %d, %v", index, l.Index, err)
		}
	}
	if got, want := c.entries.Load(), int64(901); got != want || c.bytes.Load() < 2<<20 {
		t.Errorf("%d entries of %d bytes were counted, want %d", got, c.bytes.Load(), want)
	}
}

// Ends are cut, beginnings go, snapshots make logs begin elsewhere: the cache never answers with what is not there.
func TestTheLogCacheAnswersAsTheStore(t *testing.T) {
	c := testCache(t)
	rng := rand.New(rand.NewPCG(1, 2))
	first, next := uint64(1), uint64(1)
	for range 300 {
		var err error
		switch rng.IntN(10) {
		case 0: // a follower's end is replaced
			if next > first {
				lo := first + rng.Uint64N(next-first)
				err, next = c.DeleteRange(lo, next-1), lo
			}
		case 1: // a snapshot
			if next > first {
				hi := first + rng.Uint64N(next-first)
				err, first = c.DeleteRange(first, hi), hi+1
			}
		case 2: // the leader's snapshot is ahead
			if next > first {
				err = c.DeleteRange(first, next-1)
			}
			next += rng.Uint64N(2000)
			first = next
		default:
			logs := entries(next, next+rng.Uint64N(60), rng.IntN(100_000))
			for _, l := range logs {
				l.Term = rng.Uint64()
			}
			err, next = c.StoreLogs(logs), next+uint64(len(logs))
		}
		if err != nil {
			t.Fatal(err)
		}
		c.checkHeld(t)
		for range 10 {
			index := max(first, 5) - 5 + rng.Uint64N(next-first+10)
			var got, want raft.Log
			gotErr, wantErr := c.GetLog(index, &got), c.LogStore.GetLog(index, &want)
			if (gotErr == nil) != (wantErr == nil) || got.Term != want.Term || len(got.Data) != len(want.Data) {
				t.Fatalf("entry %d of %d to %d: term %d, %v; stored %d, %v", index, first, next, got.Term, gotErr, want.Term, wantErr)
			}
		}
	}
}

// The bytes of the log are bounded on every replica, whatever the size of its entries.
func TestALogOfLargeEntriesIsTruncatedByBytes(t *testing.T) {
	network := rpcnet.NewLocal()
	const bound = 4 << 20
	groups, leads := make([]*Group, 2), make(chan uint64, 8)
	for i, id := range []string{"n1", "n2"} {
		fs := vfs.NewMem()
		var err error
		groups[i], err = Open(t.Context(), Config{Group: 7, State: &sharedState{}, Log: openLog(t, fs), Mux: listen(t, network, id), FS: fs,
			SpoolDir: "spool", Bootstrap: i == 0, Settings: Settings{SnapshotBytes: bound},
			OnLead: func(term uint64) { leads <- term }, OnFollow: func() {}, Logger: discard})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
			defer cancel()
			if err := groups[i].Stop(ctx); err != nil {
				t.Error(err)
			}
		}()
	}
	<-leads
	if err := groups[0].AddLearner(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	const size, count = 32 << 10, 2000
	for range count {
		if err := groups[0].Propose(make([]byte, size)).Error(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for _, g := range groups {
		for {
			first, err := g.log.FirstIndex()
			if err != nil {
				t.Fatal(err)
			}
			last, err := g.log.LastIndex()
			if err != nil {
				t.Fatal(err)
			}
			// What one snapshot leaves, what came until the next, and what was under way.
			if g.Stats().Applied >= count && (last-first)*size <= 3*bound {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("%s holds entries %d to %d", g.self(), first, last)
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}
