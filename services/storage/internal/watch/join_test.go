package watch_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
)

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
