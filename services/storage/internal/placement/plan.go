// Package placement decides where the replicas of groups are, and moves them there one step at a time.
//
// Plan is pure: from the catalog and what nodes report to the steps that can be taken now. The controller, on the
// leader of group 0, executes them. Nothing is remembered between rounds, so a new leader goes on where the old
// one stopped, and two of them do no harm: the catalog's apply and the groups' leaders check each step.
package placement

import (
	"fmt"
	"slices"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
)

const (
	// DefaultMovesMax bounds the replicas that are catching up at a time: each may be receiving a snapshot, which
	// takes disk and network from writes.
	DefaultMovesMax = 4
	// catalogVotersMax bounds the voters of group 0: every command waits for a majority of them.
	catalogVotersMax = 5
)

// Kind is what a step does.
type Kind int

// The steps. The first four change the catalog, the others a group's Raft configuration.
const (
	// SetLearner places a replica, or says that one no longer votes.
	SetLearner Kind = iota + 1
	SetVoter
	SetLeaving
	// RemoveReplica ends a replica that is out of the Raft configuration; its data is deleted.
	RemoveReplica
	// MarkLeft says that a draining node is empty.
	MarkLeft
	AddLearner
	Promote
	Demote
	Remove
	// Transfer hands leadership to the server.
	Transfer
)

var kindNames = map[Kind]string{SetLearner: "set-learner", SetVoter: "set-voter", SetLeaving: "set-leaving",
	RemoveReplica: "remove-replica", MarkLeft: "mark-left", AddLearner: "add-learner", Promote: "promote",
	Demote: "demote", Remove: "remove", Transfer: "transfer"}

func (k Kind) String() string { return kindNames[k] }

// Step is one change.
type Step struct {
	Kind   Kind
	Group  uint32 // not for MarkLeft
	Node   uint32 // 0 for a server the catalog does not know
	Server string
	// Why is for people.
	Why string
}

func (s Step) String() string {
	if s.Kind == MarkLeft {
		return fmt.Sprintf("%s %s", s.Kind, s.Server)
	}
	return fmt.Sprintf("group %d: %s %s", s.Group, s.Kind, s.Server)
}

// Life is what is known of a storage node's process.
type Life struct {
	// Alive: it was heard of lately.
	Alive bool
	// Stopping: it said that it is about to stop.
	Stopping bool
	// Gone: it has been silent for so long that its replicas are placed elsewhere.
	Gone bool
}

// View is a group as its leader sees it. Without a leader nothing is known.
type View struct {
	Leader           string
	Voters, Learners []string
	// CaughtUp are the replicas that have lately applied all that was committed a moment before.
	CaughtUp map[string]bool
	// Lacking are the replicas that may lack files of segments.
	Lacking map[string]bool
}

// Reports is what the nodes say.
type Reports struct {
	Lives map[string]Life // by server id
	Views map[uint32]View // by group
}

// Settings bound a plan.
type Settings struct {
	// MovesMax bounds the replicas that are catching up; zero means DefaultMovesMax.
	MovesMax int
	// BalanceLeaders allows one transfer that only spreads leaders.
	BalanceLeaders bool
}

// node is a storage node's present incarnation.
type node struct {
	*catalogv1.Node
	Life
}

// mayHold: it keeps what it has and counts among the nodes replicas are spread over.
func (n *node) mayHold() bool {
	return n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_ACTIVE || n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_OFFLINE
}

// mayGet: it can be given a replica or leadership now.
func (n *node) mayGet() bool { return n.mayHold() && n.Alive && !n.Stopping }

// planner is the work of one Plan.
type planner struct {
	topology catalogstate.Topology
	reports  Reports
	settings Settings
	nodes    []*node // storage nodes in order of id
	byServer map[string]*node
	load     map[uint32]int // replicas of shards by node id
	moving   int            // replicas that are catching up
	quiet    bool           // every group is where it should be
	steps    []Step
	notes    []string
}

// Plan returns the steps to take now, at most one per group, and what there is to tell people.
func Plan(topology catalogstate.Topology, reports Reports, settings Settings) ([]Step, []string) {
	if settings.MovesMax <= 0 {
		settings.MovesMax = DefaultMovesMax
	}
	p := &planner{topology: topology, reports: reports, settings: settings, byServer: map[string]*node{},
		load: map[uint32]int{}, quiet: true}
	for _, n := range topology.Nodes {
		if catalogstate.HoldsReplicas(n.GetRole()) {
			k := &node{Node: n, Life: reports.Lives[n.GetServerId()]}
			p.nodes, p.byServer[n.GetServerId()] = append(p.nodes, k), k
			p.quiet = p.quiet && (k.Alive || !k.mayHold())
		}
	}
	p.count()
	for _, place := range topology.Placements {
		p.group(place)
	}
	p.leave()
	if p.quiet && len(p.steps) == 0 {
		p.balance()
	}
	return p.steps, p.notes
}

// count sums up what nodes hold and how many replicas are on their way.
func (p *planner) count() {
	for _, place := range p.topology.Placements {
		if place.GetGroup() == 0 {
			continue
		}
		view := p.reports.Views[place.GetGroup()]
		for _, r := range place.GetReplicas() {
			if r.GetState() == catalogv1.ReplicaState_REPLICA_STATE_LEAVING {
				continue
			}
			p.load[r.GetNodeId()]++
			n := p.byServer[r.GetServerId()]
			if n != nil && n.Alive && r.GetState() == catalogv1.ReplicaState_REPLICA_STATE_LEARNER &&
				!slices.Contains(view.Voters, r.GetServerId()) && !view.CaughtUp[r.GetServerId()] {
				p.moving++
			}
		}
	}
}

func (p *planner) step(kind Kind, group uint32, server, why string) {
	p.steps = append(p.steps, Step{Kind: kind, Group: group, Node: p.nodeID(group, server), Server: server, Why: why})
}

// nodeID is the node of a server, also of one that was replaced and is still placed.
func (p *planner) nodeID(group uint32, server string) uint32 {
	if n := p.byServer[server]; n != nil {
		return n.GetNodeId()
	}
	for _, place := range p.topology.Placements {
		for _, r := range place.GetReplicas() {
			if place.GetGroup() == group && r.GetServerId() == server {
				return r.GetNodeId()
			}
		}
	}
	return 0
}

func (p *planner) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

// wanted is how many voters a group should have.
func (p *planner) wanted(group uint32) int {
	holders := 0
	for _, n := range p.nodes {
		if n.mayHold() {
			holders++
		}
	}
	want := min(int(p.topology.ReplicationFactor), holders)
	if group == 0 {
		want = min(want, catalogVotersMax)
	}
	if want%2 == 0 {
		want--
	}
	return max(want, 0)
}

// leave marks draining nodes that are empty. A learner of the catalog stays until the node is removed.
func (p *planner) leave() {
	for _, n := range p.nodes {
		if n.GetStatus() != catalogv1.NodeStatus_NODE_STATUS_DRAINING {
			continue
		}
		held := 0
		for _, place := range p.topology.Placements {
			for _, r := range place.GetReplicas() {
				if r.GetNodeId() == n.GetNodeId() && (place.GetGroup() != 0 || r.GetState() != catalogv1.ReplicaState_REPLICA_STATE_LEARNER) {
					held++
				}
			}
		}
		if held == 0 {
			p.step(MarkLeft, 0, n.GetServerId(), "it is drained")
		} else {
			p.note("%s is being drained: %d replicas to go", n.GetServerId(), held)
		}
	}
}
