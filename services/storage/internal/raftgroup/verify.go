package raftgroup

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// ReadBarrier returns once a read of the local state is linearizable: this node was still the leader
// after the call began, and what any leader acknowledged before is applied here.
//
// All of that holds without asking anybody when this node is the only voter. Otherwise a majority is
// asked, once for all reads that wait.
func (g *Group) ReadBarrier(ctx context.Context) error {
	term := g.term.Load()
	if !g.servesIn(term) {
		return g.NotLeader()
	}
	if g.soleVoter() {
		return nil
	}
	round := g.verify.join(g)
	select {
	case <-round.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if round.err != nil || g.term.Load() != term || !g.servesIn(term) {
		return g.NotLeader()
	}
	return nil
}

// servesIn reports whether this node leads in a term that it serves. Raft may have won another one already, whose
// barrier has not been applied: what others committed in between is missing here until then.
func (g *Group) servesIn(term uint64) bool {
	return term != 0 && g.raft.State() == raft.Leader && g.raft.CurrentTerm() == term
}

// verifier runs one confirmation at a time. A read must be confirmed by a round that began after it,
// so those that come during a round share the next one.
type verifier struct {
	mu      sync.Mutex
	running bool
	next    *verifyRound
}

type verifyRound struct {
	done chan struct{}
	err  error // set before done is closed
}

func (v *verifier) join(g *Group) *verifyRound {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.next == nil {
		v.next = &verifyRound{done: make(chan struct{})}
	}
	round := v.next
	if !v.running {
		if v.running = g.spawn(func() { v.run(g) }); !v.running {
			round.err = g.NotLeader()
			close(round.done)
			v.next = nil
		}
	}
	return round
}

// run confirms until nobody waits.
func (v *verifier) run(g *Group) {
	for {
		v.mu.Lock()
		round := v.next
		v.next = nil
		if round == nil {
			v.running = false
			v.mu.Unlock()
			return
		}
		v.mu.Unlock()
		c := confirmation{self: g.self(), contacts: &g.peers.contacts, stop: g.stop,
			verify:  func() error { return g.await(g.raft.VerifyLeader()) },
			servers: func() []raft.Server { return g.raft.GetConfiguration().Configuration().Servers }}
		if err := c.run(time.Now()); err != nil {
			round.err = dberr.New(dberr.NotLeader, "confirm leadership of group %d: %w", g.cfg.Group, err)
		}
		close(round.done)
	}
}

// verifyAgain is after how long Raft is asked again whether this node still leads, while the majority has not answered.
const verifyAgain = 20 * time.Millisecond

// confirmation finds out whether this node leads after some moment.
//
// Raft's own VerifyLeader sends a heartbeat to every server, but in v1.7.3 it counts whatever answer comes next: also one to a
// message from before, which says nothing about now (a leader that was paused finds such answers in its sockets, while
// others have long elected another), and also those of servers that have no vote. So it is used for its heartbeats, and for what it
// says when this node leads no more; the majority is counted here, by voters whose answers are to messages sent afterwards.
type confirmation struct {
	self     raft.ServerID
	contacts *contacts
	stop     <-chan struct{}
	verify   func() error
	servers  func() []raft.Server
}

func (c *confirmation) run(began time.Time) error {
	for {
		if err := c.verify(); err != nil {
			return err
		}
		again := time.NewTimer(verifyAgain)
		for waiting := true; waiting; {
			ok, changed := c.contacts.confirmed(c.self, c.servers(), began)
			if ok {
				again.Stop()
				return nil
			}
			select {
			case <-changed:
			case <-again.C:
				waiting = false
			case <-c.stop:
				return raft.ErrRaftShutdown
			}
		}
	}
}
