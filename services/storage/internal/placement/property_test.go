package placement

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
)

// TestAnyClusterComesToRest lets nodes come, die, return, be wiped and drained at random, and steps get lost. The sim
// sees that no step takes a majority away. At the end all that lives is left alone and the goal has to be reached.
func TestAnyClusterComesToRest(t *testing.T) {
	seeds := []uint64{705} // two draining nodes are all that votes in a group
	for seed := range uint64(12) {
		seeds = append(seeds, seed)
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 7))
			zones := []string{"a", "b", "c"}[:1+r.IntN(3)]
			s := newSim(t, uint32(1+r.IntN(5)), uint32(1+2*r.IntN(3)), zones[0])
			next := uint32(2)
			for range 12 {
				if s.event(r, next, zones) {
					next++
				}
				for range r.IntN(10) {
					s.second()
				}
			}
			for _, p := range s.procs {
				p.alive, p.stopping = true, false // the replaced ones stop when they are told
			}
			s.former = nil
			s.settle(2000)
			s.checkGoal()
		})
	}
}

// event does something to the cluster; true if it used the next node id.
func (s *sim) event(r *rand.Rand, next uint32, zones []string) bool {
	nodes := s.state.Nodes()
	n := nodes[r.IntN(len(nodes))]
	p := s.procs[n.GetServerId()]
	switch r.IntN(10) {
	case 0, 1, 2, 3:
		return s.add(next, fmt.Sprintf("n%d", next), zones[r.IntN(len(zones))]) == nil
	case 4: // at most one dead at a time: more are no cluster
		for _, other := range s.procs {
			if other != p && !other.alive && s.isCurrent(other) {
				return false
			}
		}
		p.alive = s.serving() < 3
	case 5:
		p.alive = true
	case 6:
		s.failures[fmt.Sprintf("group %d: %s is voter", r.IntN(4), n.GetServerId())] = r.IntN(5) - 2
		s.failures[fmt.Sprintf("group %d: raft promote %s", r.IntN(4), n.GetServerId())] = r.IntN(5) - 2
	case 7:
		_, err := s.directory.Drain(s.t.Context(), &clusterv1.DrainRequest{NodeId: n.GetNodeId(), Undrain: s.serving() < 3})
		if err != nil {
			s.t.Log(err)
		}
	case 8:
		if !p.alive && s.otherwiseFine(n.GetServerId()) { // its disk is lost
			if err := s.add(n.GetNodeId(), fmt.Sprintf("n%d-%d", n.GetNodeId(), s.index), n.GetZone()); err != nil {
				s.t.Log(err)
			}
		}
	case 9:
		s.term++
		if s.former = nil; r.IntN(2) == 0 {
			s.former = s.controller
		}
		s.newController()
	}
	return false
}

// otherwiseFine: no group needs what a server has.
func (s *sim) otherwiseFine(server string) bool {
	for _, g := range s.raft {
		rest := slices.DeleteFunc(slices.Clone(g.voters), func(v string) bool { return v == server })
		if len(rest) == 0 || !s.commits(rest) || !s.commits(g.voters) {
			return false
		}
	}
	return true
}

func (s *sim) isCurrent(p *proc) bool {
	_, ok := s.state.NodeByServer(p.node.GetServerId())
	return ok
}

func (s *sim) serving() (n int) {
	for _, node := range s.state.Nodes() {
		n += truth(node.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_ACTIVE && s.alive(node.GetServerId()))
	}
	return n
}

// checkGoal compares catalog and groups with what they should have come to.
func (s *sim) checkGoal() {
	s.t.Helper()
	t := s.state.Topology()
	holders := 0
	for _, n := range t.Nodes {
		holders += truth(n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_ACTIVE)
	}
	load, lead := map[uint32]int{}, map[string]int{}
	for _, place := range t.Placements {
		g := s.raft[place.GetGroup()]
		want := min(int(t.ReplicationFactor), holders)
		want -= truth(want%2 == 0)
		var voters []string
		for _, r := range place.GetReplicas() {
			if r.GetState() == voter {
				voters = append(voters, r.GetServerId())
			}
			load[r.GetNodeId()] += truth(place.GetGroup() != 0)
			if place.GetGroup() != 0 && r.GetState() != voter {
				s.t.Errorf("group %d: %s is %s", place.GetGroup(), r.GetServerId(), r.GetState())
			}
		}
		slices.Sort(voters)
		slices.Sort(g.voters)
		if holders > 0 && (len(voters) != want || !slices.Equal(voters, g.voters)) {
			s.t.Errorf("group %d: the catalog says %v, Raft %v, wanted are %d", place.GetGroup(), voters, g.voters, want)
		}
		if place.GetGroup() == 0 && len(place.GetReplicas()) != len(t.Nodes) {
			s.t.Errorf("the catalog is on %d of %d nodes", len(place.GetReplicas()), len(t.Nodes))
		} else if place.GetGroup() != 0 {
			lead[g.leader]++
		}
	}
	if s.t.Failed() {
		s.t.Logf("\n%s", s.describe())
	}
	if steps, _ := Plan(t, s.lastReports(), Settings{BalanceLeaders: true}); len(steps) > 0 {
		s.t.Errorf("not at rest: %v", steps)
	}
}

// lastReports are what the controller would plan with.
func (s *sim) lastReports() Reports {
	since, _ := s.directory.Since()
	o := &observer{cfg: s.controller.cfg, now: s.now, since: since, heard: s.directory.Reports()}
	return o.reports(s.state.Topology())
}

// TestPlanIsDeterministicAndModest plans for clusters that no history leads to.
func TestPlanIsDeterministicAndModest(t *testing.T) {
	for seed := range uint64(3000) {
		checkPlan(t, seed)
	}
}

func FuzzPlan(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { checkPlan(t, seed) })
}

func checkPlan(t *testing.T, seed uint64) {
	t.Helper()
	topology, reports := randomCluster(rand.New(rand.NewPCG(seed, 1)))
	steps, notes := Plan(topology, reports, Settings{BalanceLeaders: true})
	for range 3 {
		again, notesAgain := Plan(topology, reports, Settings{BalanceLeaders: true})
		if !reflect.DeepEqual(steps, again) || !reflect.DeepEqual(notes, notesAgain) {
			t.Fatalf("seed %d: %v, then %v", seed, steps, again)
		}
	}
	seen, moves := map[uint32]bool{}, 0
	for _, s := range steps {
		if s.Kind == MarkLeft {
			continue
		}
		if seen[s.Group] {
			t.Errorf("seed %d: two steps in group %d: %v", seed, s.Group, steps)
		}
		seen[s.Group] = true
		view, place := reports.Views[s.Group], topology.Placements[s.Group]
		moves += truth(s.Kind == SetLearner && s.Group != 0)
		switch s.Kind {
		case Remove, Demote, SetLeaving:
			if !keepsMajority(view, reports, s.Server) {
				t.Errorf("seed %d: %s leaves no majority of %v", seed, s, view.Voters)
			}
		case Transfer:
			if !reports.Lives[s.Server].Alive || !slices.Contains(view.Voters, s.Server) {
				t.Errorf("seed %d: %s, which cannot lead", seed, s)
			}
		case SetLearner:
			for _, r := range place.GetReplicas() {
				if r.GetNodeId() == s.Node && r.GetServerId() != s.Server {
					t.Errorf("seed %d: %s beside %s", seed, s, r.GetServerId())
				}
			}
		case Promote:
			if !view.CaughtUp[s.Server] || !reports.Lives[s.Server].Alive {
				t.Errorf("seed %d: %s, which has not caught up", seed, s)
			}
		}
		if (s.Kind == Remove || s.Kind == Demote || s.Kind == SetLeaving) && s.Server == view.Leader && s.Kind != SetLeaving {
			t.Errorf("seed %d: %s, which leads", seed, s)
		}
	}
	if moves > DefaultMovesMax {
		t.Errorf("seed %d: %d moves at a time", seed, moves)
	}
}

// keepsMajority: the others that are alive can commit, or the server has no vote.
func keepsMajority(view View, reports Reports, server string) bool {
	if !slices.Contains(view.Voters, server) {
		return true
	}
	rest, live := 0, 0
	for _, v := range view.Voters {
		if v != server {
			rest, live = rest+1, live+truth(reports.Lives[v].Alive)
		}
	}
	return live > rest/2
}

func randomCluster(r *rand.Rand) (catalogstate.Topology, Reports) {
	t := catalogstate.Topology{ReplicationFactor: uint32(r.IntN(8)), Shards: uint32(r.IntN(6))}
	reports := Reports{Lives: map[string]Life{}, Views: map[uint32]View{}}
	var servers []string
	for id := range uint32(1 + r.IntN(8)) {
		n := &catalogv1.Node{NodeId: id + 1, ServerId: fmt.Sprintf("n%d", id+1), Zone: string(rune('a' + r.IntN(3))),
			Role: []string{"storage", "storage", "allinone", "query"}[r.IntN(4)], Status: catalogv1.NodeStatus(1 + r.IntN(4))}
		t.Nodes = append(t.Nodes, n)
		reports.Lives[n.GetServerId()] = Life{Alive: r.IntN(4) > 0, Stopping: r.IntN(8) == 0, Gone: r.IntN(4) == 0}
		servers = append(servers, n.GetServerId())
	}
	servers = append(servers, "old", "stranger")
	for g := range t.Shards + 1 {
		place := &catalogv1.Placement{Group: g}
		view := View{CaughtUp: map[string]bool{}}
		for i, server := range servers {
			if r.IntN(2) == 0 {
				place.Replicas = append(place.Replicas, &catalogv1.Replica{NodeId: uint32(i + 1), ServerId: server, State: catalogv1.ReplicaState(1 + r.IntN(3))})
			}
			switch r.IntN(3) {
			case 0:
				view.Voters = append(view.Voters, server)
			case 1:
				view.Learners = append(view.Learners, server)
			}
			view.CaughtUp[server] = r.IntN(2) == 0
		}
		if len(view.Voters) > 0 && r.IntN(6) > 0 {
			view.Leader = view.Voters[r.IntN(len(view.Voters))]
		}
		t.Placements, reports.Views[g] = append(t.Placements, place), view
	}
	return t, reports
}
