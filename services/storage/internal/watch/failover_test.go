package watch_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// replicas are two nodes that apply one log. One leads: its hub is open, and it has applied all there is when it
// begins to; the other lags behind.
type replicas struct {
	nodes [2]*node

	mu      sync.Mutex
	rng     *rand.Rand
	log     []entry
	applied [2]int
	leader  int
}

type entry struct {
	user string
	rows int
}

var errNotLeader = dberr.New(dberr.NotLeader, "the other leads").With(dberr.FieldLeader, "n2-0000")

func newReplicas(t testing.TB) *replicas {
	r := &replicas{nodes: [2]*node{newNode(t), newNode(t)}, rng: rand.New(rand.NewPCG(8, 8))}
	r.nodes[1].hub.Close(errNotLeader)
	return r
}

// apply brings a node up to n entries.
func (r *replicas) apply(node, n int) {
	for ; r.applied[node] < n; r.applied[node]++ {
		e := r.log[r.applied[node]]
		r.nodes[node].write(userTable, e.user, e.rows)
	}
}

// write appends an entry, which the leader applies; the follower applies some of what it has not.
func (r *replicas) write(e entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, e)
	r.apply(r.leader, len(r.log))
	other := 1 - r.leader
	r.apply(other, r.applied[other]+r.rng.IntN(len(r.log)-r.applied[other]+1))
}

// failover makes the other node lead, with entries that the old leader has not applied.
func (r *replicas) failover() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range r.rng.IntN(5) {
		r.log = append(r.log, entry{fmt.Sprint("u", r.rng.IntN(failoverUsers)), 1 + r.rng.IntN(5)})
	}
	r.nodes[r.leader].hub.Close(errNotLeader)
	r.leader = 1 - r.leader
	r.apply(r.leader, len(r.log))
	r.nodes[r.leader].hub.Open(r.nodes[r.leader].position())
}

const failoverUsers = 3

// mover moves a watch to whoever leads, at the position it has reached: that of the watch's start, of a change, or of
// Progress.
type mover struct {
	user     string
	from     uint64
	position uint64
	got      []uint64
	moves    int
	// begun is closed when the watch has started for the first time.
	begun chan struct{}
}

// run follows until it has seen the _seq that last tells, 0 as long as nobody knows.
func (m *mover) run(t *testing.T, r *replicas, last func() uint64) {
	for at := 0; ; at = 1 - at {
		c := connect(t, r.nodes[at])
		c.add(1, userTable, m.user, m.position)
		over := m.listen(t, c, last)
		c.cancel()
		if over {
			return
		}
		m.moves++
	}
}

// listen reports whether everything was seen.
func (m *mover) listen(t *testing.T, c *conn, last func() uint64) bool {
	started := false // what Progress says of a watch that has not started is about others
	for {
		if n := last(); n != 0 && m.position >= n {
			return true
		}
		e := <-c.events
		switch {
		case e.GetStarted() != nil:
			started = true
			if p := e.GetStarted().GetPosition(); m.from == 0 {
				m.from, m.position = p, p
				close(m.begun)
			} else if p != m.position {
				t.Errorf("asked for changes after %d, told %d", m.position, p)
			}
		case e.GetChanges() != nil:
			for _, ch := range e.GetChanges().GetChanges() {
				if ch.GetSeq() <= m.position {
					t.Errorf("change %d again, after %d", ch.GetSeq(), m.position)
				}
				m.position = ch.GetSeq()
				m.got = append(m.got, m.position)
			}
		case e.GetProgress() != nil:
			if started {
				m.position = max(m.position, e.GetProgress().GetPosition())
			}
		case e.GetEnded() != nil:
			if e.GetEnded().GetCode() != string(dberr.NotLeader) || e.GetEnded().GetFields()[dberr.FieldLeader] != "n2-0000" {
				t.Errorf("ended by %v", e)
			}
			return false
		}
	}
}

// Watches move with the leader, whenever it changes, and miss nothing and repeat nothing.
func TestWatchesMoveToTheNewLeader(t *testing.T) {
	const watches, entries, failovers = 6, 600, 40
	r := newReplicas(t)
	var mu sync.Mutex
	final := map[string]uint64{} // the last _seq of every user, once it is known
	movers := make([]*mover, watches)
	var work sync.WaitGroup
	for i := range movers {
		m := &mover{user: fmt.Sprint("u", i%failoverUsers), begun: make(chan struct{})}
		movers[i] = m
		work.Go(func() {
			m.run(t, r, func() uint64 { mu.Lock(); defer mu.Unlock(); return final[m.user] })
		})
	}
	for _, m := range movers {
		<-m.begun
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for i := range entries {
		r.write(entry{fmt.Sprint("u", rng.IntN(failoverUsers)), 1 + rng.IntN(20)})
		if i%(entries/failovers) == 0 {
			r.failover()
		}
	}
	for u := range failoverUsers {
		r.write(entry{fmt.Sprint("u", u), 1})
	}
	mu.Lock()
	for u := range failoverUsers {
		user := fmt.Sprint("u", u)
		final[user] = r.nodes[r.leader].lastOf(user)
	}
	mu.Unlock()
	for u := range failoverUsers { // wakes those who had everything before it was known to be all
		r.write(entry{fmt.Sprint("u", u), 1})
	}
	work.Wait()
	moves := 0
	for _, m := range movers {
		want := slices.DeleteFunc(r.nodes[r.leader].all(m.user), func(seq uint64) bool { return seq <= m.from || seq > m.position })
		if fmt.Sprint(m.got) != fmt.Sprint(want) {
			t.Errorf("%s from %d: got %d changes, want %d", m.user, m.from, len(m.got), len(want))
		}
		moves += m.moves
	}
	if moves < watches {
		t.Errorf("only %d moves", moves)
	}
}

// A follower refuses, and says who leads.
func TestAFollowerRefusesWatches(t *testing.T) {
	n := newNode(t)
	n.hub.Close(errNotLeader)
	c := connect(t, n)
	c.add(1, userTable, "ann", 0)
	e := c.next(t).GetEnded()
	if e.GetWatchId() != 1 || e.GetCode() != string(dberr.NotLeader) || e.GetFields()[dberr.FieldLeader] != "n2-0000" {
		t.Errorf("got %v", e)
	}
	n.write(userTable, "ann", 3) // applied as a follower
	n.hub.Open(base + 3)
	c.add(2, userTable, "ann", base+1)
	if p := c.started(t); p != base+1 {
		t.Errorf("started at %d", p)
	}
	checkRun(t, c.follow(t, base+3), base+1, base+3)
}

// A watch that is ended while it reads history has not been sent all up to the hub's position.
func TestNoProgressForAWatchThatEndsWhileItReads(t *testing.T) {
	n := newNode(t)
	n.write(userTable, "ann", 10)
	n.pieces = 2
	n.beforeRead = func() { n.hub.Close(errNotLeader) }
	c := connect(t, n)
	c.add(1, userTable, "ann", base)
	seen := uint64(base)
	for {
		e := <-c.events
		switch {
		case e.GetChanges() != nil:
			seen = e.GetChanges().GetChanges()[len(e.GetChanges().GetChanges())-1].GetSeq()
		case e.GetProgress() != nil:
			if p := e.GetProgress().GetPosition(); p > seen {
				t.Fatalf("told that all up to %d was sent, the last change was %d", p, seen)
			}
		case e.GetEnded() != nil:
			if seen != base+2 {
				t.Errorf("ended after %d", seen)
			}
			return
		}
	}
}
