package placement

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
)

// stuck is a group's leader that does not answer.
type stuck struct{ asked chan struct{} }

func (s stuck) ChangeMember(ctx context.Context, _ *clusterv1.ChangeMemberRequest) (*clusterv1.ChangeMemberResponse, error) {
	s.asked <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestAControllerThatLosesLeadershipStopsAtOnce(t *testing.T) {
	s := newSim(t, 1, 3, "a")
	for id := range uint32(2) {
		if err := s.add(id+2, []string{"n2", "n3"}[id], "b"); err != nil {
			t.Fatal(err)
		}
	}
	s.beat()
	members := stuck{asked: make(chan struct{}, stepsAtOnce)}
	s.controller.cfg.Members = members
	s.controller.Lead(t.Context())
	<-members.asked // a step is under way
	s.controller.Follow()
	before := len(s.trace)
	s.controller.Wake()
	s.controller.Follow() // again: nothing
	if len(s.trace) != before {
		t.Errorf("steps after Follow: %v", s.trace[before:])
	}
	s.controller.cfg.Members = s
	s.controller.Lead(t.Context()) // what was begun is finished
	for p := s.state.Placement(1); len(p.GetReplicas()) < 3; p = s.state.Placement(1) {
		moved := s.state.Moved()
		if len(s.state.Placement(1).GetReplicas()) == 3 {
			break
		}
		s.controller.Wake()
		<-moved
	}
	s.controller.Follow()
}

func TestWhatFailsIsTriedAgainLater(t *testing.T) {
	s := newSim(t, 1, 1, "a")
	if err := s.add(2, "n2", "b"); err != nil {
		t.Fatal(err)
	}
	const step = "group 0: n2 is learner"
	s.failures[step] = 100
	tries := func(seconds int) int {
		before := s.failures[step]
		for range seconds {
			s.second()
		}
		return before - s.failures[step]
	}
	if first, later := tries(10), tries(60); first < 3 || first > 6 || later > 3 {
		t.Errorf("%d tries in ten seconds, %d in the following minute", first, later)
	}
	failed := func(a string) bool { return strings.Contains(a, "failed") && strings.Contains(a, "lost") }
	if a := s.controller.Activities(); !slices.ContainsFunc(a, failed) {
		t.Errorf("activities %q", a)
	}
	s.failures[step] = 0
	s.controller.Rebalance(t.Context())
	s.second()
	if a := s.controller.Activities(); slices.ContainsFunc(a, failed) {
		t.Errorf("activities %q", a)
	}
	if len(s.state.Placement(0).GetReplicas()) != 2 {
		t.Error("an operator's wish does not wait for the backoff")
	}
}

func TestLeadersAreSpreadOneAtATime(t *testing.T) {
	s := newSim(t, 6, 3, "a")
	for id := range uint32(2) {
		if err := s.add(id+2, []string{"n2", "n3"}[id], "b"); err != nil {
			t.Fatal(err)
		}
	}
	s.settle(600)
	for g := uint32(1); g <= 6; g++ {
		s.raft[g].leader, s.raft[g].term = "n3", s.raft[g].term+1
	}
	var at []time.Time
	for range 60 {
		before := len(s.trace)
		s.second()
		for range s.trace[before:] {
			at = append(at, s.now)
		}
	}
	if len(at) != 4 {
		t.Errorf("%d transfers, four make 2, 2, 2: %v", len(at), s.trace)
	}
	for i := 1; i < len(at); i++ {
		if at[i].Sub(at[i-1]) < s.controller.cfg.LeaderPause {
			t.Errorf("transfers %s apart", at[i].Sub(at[i-1]))
		}
	}
}
