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
