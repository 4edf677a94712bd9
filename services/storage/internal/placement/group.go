package placement

import (
	"slices"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// round is the planning of one group.
type round struct {
	*planner
	place *catalogv1.Placement
	view  View
	goal  []*node
}

// group plans the next step of one group.
func (p *planner) group(place *catalogv1.Placement) {
	view := p.reports.Views[place.GetGroup()]
	if view.Leader == "" {
		p.quiet = false
		p.note("group %d has no leader that was heard of", place.GetGroup())
		return
	}
	r := &round{planner: p, place: place, view: view, goal: p.goal(place)}
	for _, try := range []func() bool{r.finishLeaving, r.dropStrangers, r.leaveStopping, r.growMembers, r.placeMissing, r.shrink, r.placeLearners} {
		if try() {
			p.quiet = false
			return
		}
	}
}

func (r *round) id() uint32 { return r.place.GetGroup() }

func (r *round) isVoter(server string) bool { return slices.Contains(r.view.Voters, server) }

func (r *round) isLearner(server string) bool { return slices.Contains(r.view.Learners, server) }

func (r *round) alive(server string) bool { return r.reports.Lives[server].Alive }

func (r *round) inGoal(server string) bool {
	return slices.ContainsFunc(r.goal, func(n *node) bool { return n.GetServerId() == server })
}

func (r *round) replica(server string) *catalogv1.Replica {
	for _, x := range r.place.GetReplicas() {
		if x.GetServerId() == server {
			return x
		}
	}
	return nil
}

// safeWithout reports whether the group can still commit without a voter's vote.
func (r *round) safeWithout(server string) bool {
	rest, live := 0, 0
	for _, v := range r.view.Voters {
		if v != server {
			rest++
			live += truth(r.alive(v))
		}
	}
	return rest > 0 && live >= rest/2+1
}

// takeOut ends a member's part in the Raft configuration, if that can be done now; what else the group needs may
// make it possible.
func (r *round) takeOut(kind Kind, server, why string) bool {
	if r.isVoter(server) && !r.safeWithout(server) {
		r.note("group %d: %s stays, as the others that are alive are no majority", r.id(), server)
		r.quiet = false
		return false
	}
	if r.view.Leader != server {
		r.step(kind, r.id(), server, why)
		return true
	}
	if r.handOver(why) {
		return true
	}
	r.note("group %d: %s leads and nobody has caught up to lead instead", r.id(), server)
	r.quiet = false
	return false
}

// handOver transfers leadership: to a member of the goal if one can lead, else to any voter that can, even to one
// that is about to leave in its turn.
func (r *round) handOver(why string) bool {
	var heir string
	for _, n := range r.heirs(r.view) {
		if heir == "" || r.inGoal(n.GetServerId()) && !r.inGoal(heir) {
			heir = n.GetServerId()
		}
	}
	for _, v := range r.view.Voters {
		if life := r.reports.Lives[v]; heir == "" && v != r.view.Leader && life.Alive && !life.Stopping && r.view.CaughtUp[v] {
			heir = v
		}
	}
	if heir == "" {
		return false
	}
	r.step(Transfer, r.id(), heir, why)
	return true
}

// finishLeaving takes out what is marked as leaving, first from Raft, then from the catalog.
func (r *round) finishLeaving() bool {
	for _, x := range r.place.GetReplicas() {
		if x.GetState() != leaving {
			continue
		}
		if r.isVoter(x.GetServerId()) || r.isLearner(x.GetServerId()) {
			if r.takeOut(Remove, x.GetServerId(), "it is leaving the group") {
				return true
			}
			continue
		}
		r.step(RemoveReplica, r.id(), x.GetServerId(), "it is out of the group")
		return true
	}
	return false
}

// dropStrangers takes out members the catalog knows nothing of.
func (r *round) dropStrangers() bool {
	for _, server := range slices.Concat(r.view.Voters, r.view.Learners) {
		if r.replica(server) == nil && r.takeOut(Remove, server, "the catalog does not know it as a replica") {
			return true
		}
	}
	return false
}

// leaveStopping takes leadership from a node that is about to stop.
func (r *round) leaveStopping() bool {
	return r.reports.Lives[r.view.Leader].Stopping && r.handOver("its leader is stopping")
}

// growMembers brings the replicas that should vote closer to voting.
func (r *round) growMembers() bool {
	for _, n := range r.goal {
		server, x := n.GetServerId(), r.replica(n.GetServerId())
		switch {
		case x == nil:
		case r.isVoter(server) && x.GetState() == learner:
			r.step(SetVoter, r.id(), server, "it votes")
			return true
		case !r.isVoter(server) && !r.isLearner(server) && n.Alive:
			r.step(AddLearner, r.id(), server, "it is to be a replica")
			return true
		}
	}
	return r.promote()
}

// ready: a learner that can vote. A majority of voters must have every file of a segment, so it has them first.
func (r *round) ready(n *node) bool {
	server := n.GetServerId()
	return r.isLearner(server) && n.Alive && r.view.CaughtUp[server] && !r.view.Lacking[server]
}

// promote lets a replica vote that has caught up. From an odd number of voters two go together where two are to
// come: an even number bears no more failures than the odd one below it, and needs more votes.
func (r *round) promote() bool {
	missing, ready := 0, []*node(nil)
	for _, n := range r.goal {
		if !r.isVoter(n.GetServerId()) {
			missing++
			if r.ready(n) {
				ready = append(ready, n)
			}
		}
	}
	if len(ready) == 0 {
		if missing > 0 {
			r.note("group %d: %d replicas are catching up, fetching segments, or waiting for room", r.id(), missing)
		}
		return false
	}
	if len(r.view.Voters)%2 == 1 && missing > 1 && len(ready) == 1 {
		r.note("group %d: %s has caught up and waits for another", r.id(), ready[0].GetServerId())
		return false
	}
	r.step(Promote, r.id(), ready[0].GetServerId(), "it has caught up")
	return true
}

// placeMissing begins a new replica.
func (r *round) placeMissing() bool {
	for _, n := range r.goal {
		if r.replica(n.GetServerId()) != nil {
			continue
		}
		if r.id() != 0 && r.moving >= r.settings.MovesMax {
			r.quiet = false
			return false
		}
		r.moving++
		r.load[n.GetNodeId()]++
		r.step(SetLearner, r.id(), n.GetServerId(), "the group needs a replica")
		return true
	}
	return false
}

// shrink takes out one replica too many, once all that should vote do.
func (r *round) shrink() bool {
	for _, n := range r.goal {
		if !r.isVoter(n.GetServerId()) {
			r.quiet = false
		}
	}
	for _, x := range r.place.GetReplicas() {
		if !r.inGoal(x.GetServerId()) && r.shrinkBy(x) {
			return true
		}
	}
	return false
}

func (r *round) shrinkBy(x *catalogv1.Replica) bool {
	server := x.GetServerId()
	complete := !slices.ContainsFunc(r.goal, func(n *node) bool { return !r.isVoter(n.GetServerId()) })
	n := r.byServer[server]
	if r.id() == 0 && n != nil { // every storage node keeps the catalog
		switch {
		case r.isVoter(server):
			return complete && len(r.goal) > 0 && r.takeOut(Demote, server, "the catalog has voters enough")
		case x.GetState() == voter:
			r.step(SetLearner, r.id(), server, "it does not vote")
			return true
		case !r.isLearner(server) && n.Alive:
			r.step(AddLearner, r.id(), server, "every storage node has the catalog")
			return true
		}
		return false
	}
	if x.GetState() == voter || r.isVoter(server) {
		if !complete || len(r.goal) == 0 {
			r.quiet = false
			return false
		}
		if !r.safeWithout(server) {
			r.note("group %d: %s stays, as the others that are alive are no majority", r.id(), server)
			r.quiet = false
			return false
		}
	}
	r.step(SetLeaving, r.id(), server, "the group has replicas enough")
	return true
}

// placeLearners gives every storage node the catalog.
func (r *round) placeLearners() bool {
	if r.id() != 0 {
		return false
	}
	for _, n := range r.nodes {
		taken := slices.ContainsFunc(r.place.GetReplicas(), func(x *catalogv1.Replica) bool { return x.GetNodeId() == n.GetNodeId() })
		if !taken && n.Alive && !n.Stopping {
			r.step(SetLearner, 0, n.GetServerId(), "every storage node has the catalog")
			return true
		}
	}
	return false
}
