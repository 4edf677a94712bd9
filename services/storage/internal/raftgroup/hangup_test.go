package raftgroup

import (
	"slices"
	"testing"
	"time"
)

// With a heartbeat timeout of ten minutes only the refused connection can be what ends the wait.
func TestADeadProcessIsSucceededAtOnce(t *testing.T) {
	p := newPartyWith(t, 10*time.Minute, "n1", "n2", "n3")
	if err := p.propose("n1", "a"); err != nil {
		t.Fatal(err)
	}
	p.has("n2", "a")
	p.has("n3", "a")
	// As a dying process does it: its port first, so that whoever asks is refused.
	p.mu.Lock()
	p.gone = "n1"
	p.mu.Unlock()
	p.nodes["n1"].mux.Close()
	p.stop("n1")
	if err := p.propose(p.leader("n2", "n3"), "b"); err != nil {
		t.Fatal(err)
	}
	p.has("n2", "ab")
	p.has("n3", "ab")
}

// n3's turn is the first, but it lacks an entry that n2 has: n2, which forgets the leader when n3 asks for its vote, must
// not take that for a new leader.
func TestADeadProcessIsSucceededThoughTheFirstInTurnLacksAnEntry(t *testing.T) {
	p := newPartyWith(t, 10*time.Minute, "n1", "n2", "n3")
	if err := p.propose("n1", "a"); err != nil {
		t.Fatal(err)
	}
	p.has("n2", "a")
	p.has("n3", "a")
	p.faults.Cut("n1", "n3")
	p.faults.Cut("n3", "n1")
	if err := p.propose("n1", "b"); err != nil {
		t.Fatal(err)
	}
	p.has("n2", "ab")
	p.mu.Lock()
	p.gone = "n1"
	p.mu.Unlock()
	p.nodes["n1"].mux.Close()
	stopped := make(chan struct{})
	go func() { // its connections end; n2 waits for its turn from then on
		defer close(stopped)
		p.stop("n1")
	}()
	p.until("n2 finds that its leader is dead", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.asked["n2"]
	})
	if err := p.nodes["n3"].group.electSelf(); err != nil { // its connection was cut before, so nothing else tells it
		t.Fatal(err)
	}
	<-stopped
	if err := p.propose(p.leader("n2"), "c"); err != nil {
		t.Fatal(err)
	}
	p.has("n2", "abc")
	p.has("n3", "abc")
}

func TestTurns(t *testing.T) {
	voters := []string{"n3", "n1", "n2", "n5", "n4"}
	for group := range uint32(8) {
		var turns []int
		for _, self := range voters {
			if turn, votes := turnOf(voters, "n2", self, group); votes {
				turns = append(turns, turn)
			}
		}
		slices.Sort(turns)
		if !slices.Equal(turns, []int{0, 1, 2, 3}) {
			t.Errorf("group %d: %v", group, turns)
		}
	}
	if _, votes := turnOf(voters, "n2", "n9", 1); votes {
		t.Error("who is no voter stands for election")
	}
}
