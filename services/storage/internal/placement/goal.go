package placement

import (
	"cmp"
	"slices"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	learner = catalogv1.ReplicaState_REPLICA_STATE_LEARNER
	voter   = catalogv1.ReplicaState_REPLICA_STATE_VOTER
	leaving = catalogv1.ReplicaState_REPLICA_STATE_LEAVING
)

// goal is the nodes that should vote in a group. It keeps who is there as far as that is possible, so it is the
// same in every round while a replica moves.
func (p *planner) goal(place *catalogv1.Placement) []*node {
	want, members := p.wanted(place.GetGroup()), p.present(place)
	for len(members) > want {
		i := p.worst(place, members)
		members = slices.Delete(members, i, i+1)
	}
	for len(members) < want {
		n := p.best(place, members)
		if n == nil {
			p.note("group %d wants %d voters and there are nodes for %d", place.GetGroup(), want, len(members))
			break
		}
		members = append(members, n)
	}
	for i, n := range members {
		if p.lost(place, n) {
			if other := p.best(place, slices.Concat(members[:i], members[i+1:])); other != nil {
				members[i] = other
			}
		}
	}
	return members
}

// present are the nodes that have a replica which may stay: of the catalog those that vote, as all have one.
func (p *planner) present(place *catalogv1.Placement) (members []*node) {
	for _, r := range place.GetReplicas() {
		n := p.byServer[r.GetServerId()]
		if n == nil || !n.mayHold() || r.GetState() == leaving || place.GetGroup() == 0 && !p.votes(0, r) {
			continue
		}
		members = append(members, n)
	}
	return members
}

// votes reports whether a replica votes, or did when its leader was last heard.
func (p *planner) votes(group uint32, r *catalogv1.Replica) bool {
	return r.GetState() == voter || slices.Contains(p.reports.Views[group].Voters, r.GetServerId())
}

// lost: a node's replica is to be replaced, if there is somewhere.
func (p *planner) lost(place *catalogv1.Placement, n *node) bool {
	if n.Gone {
		return true
	}
	for _, r := range place.GetReplicas() {
		if r.GetServerId() == n.GetServerId() {
			return !n.Alive && !p.votes(place.GetGroup(), r)
		}
	}
	return false
}

// worst is the member to give up: what is lost first, then who is away, then who shares a zone with most others,
// then who holds most; the leader last.
func (p *planner) worst(place *catalogv1.Placement, members []*node) int {
	rank := func(n *node) []int {
		return []int{truth(p.lost(place, n)), truth(!n.Alive), sharing(members, n), p.load[n.GetNodeId()],
			truth(p.reports.Views[place.GetGroup()].Leader != n.GetServerId()), int(n.GetNodeId())}
	}
	worst := 0
	for i := range members {
		if slices.Compare(rank(members[i]), rank(members[worst])) > 0 {
			worst = i
		}
	}
	return worst
}

// best is the node to add: in a zone of its own, with little to do. A node that still has anything of the group is
// none, except that learners of the catalog may come to vote.
func (p *planner) best(place *catalogv1.Placement, members []*node) *node {
	var found *node
	rank := func(n *node) []int {
		return []int{sharing(members, n), p.load[n.GetNodeId()], int(n.GetNodeId())}
	}
	for _, n := range p.nodes {
		if !n.mayGet() || slices.Contains(members, n) || p.blocked(place, n) {
			continue
		}
		if found == nil || slices.Compare(rank(n), rank(found)) < 0 {
			found = n
		}
	}
	return found
}

func (p *planner) blocked(place *catalogv1.Placement, n *node) bool {
	for _, r := range place.GetReplicas() {
		if r.GetNodeId() == n.GetNodeId() {
			return place.GetGroup() != 0 || r.GetState() != learner || r.GetServerId() != n.GetServerId()
		}
	}
	return false
}

// sharing counts the other members in a node's zone.
func sharing(members []*node, n *node) (others int) {
	for _, m := range members {
		if m != n && m.GetZone() == n.GetZone() {
			others++
		}
	}
	return others
}

// sharingPairs counts the pairs of members in one zone.
func sharingPairs(members []*node) (pairs int) {
	for _, m := range members {
		pairs += sharing(members, m)
	}
	return pairs / 2
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// balance makes one move that spreads replicas over zones, else over nodes, else leaders. All groups are where
// they should be, so the move it begins is the only one.
//
// None of them can go back and forth: the first lowers the number of pairs that share a zone, the second does not
// raise it and lowers the sum of squares of what nodes hold, the third that of what they lead.
func (p *planner) balance() {
	if p.spread(p.closerToZones) || p.spread(p.closerToEven) {
		return
	}
	if p.settings.BalanceLeaders {
		p.balanceLeaders()
	}
}

// spread begins the best move of one kind: from a member to a node that is none.
func (p *planner) spread(gain func(members []*node, from, to *node) int) bool {
	var best struct {
		gain  int
		group uint32
		to    *node
	}
	for _, place := range p.topology.Placements {
		if place.GetGroup() == 0 {
			continue
		}
		members := p.present(place)
		for _, from := range members {
			for _, to := range p.nodes {
				if slices.Contains(members, to) || !to.mayGet() || p.blocked(place, to) {
					continue
				}
				g := 2 * gain(members, from, to)
				if g > 0 && p.reports.Views[place.GetGroup()].Leader != from.GetServerId() {
					g++ // a replica that does not lead moves with less ado
				}
				if g > best.gain {
					best.gain, best.group, best.to = g, place.GetGroup(), to
				}
			}
		}
	}
	if best.to == nil {
		return false
	}
	p.step(SetLearner, best.group, best.to.GetServerId(), "replicas are spread")
	return true
}

func (p *planner) closerToZones(members []*node, from, to *node) int {
	return sharingPairs(members) - sharingPairs(swap(members, from, to))
}

// closerToEven moves only where the difference is at least two: a difference of one would only change sides.
func (p *planner) closerToEven(members []*node, from, to *node) int {
	difference := p.load[from.GetNodeId()] - p.load[to.GetNodeId()]
	if difference < 2 || p.closerToZones(members, from, to) < 0 {
		return 0
	}
	return difference
}

func swap(members []*node, from, to *node) []*node {
	swapped := slices.Clone(members)
	swapped[slices.Index(swapped, from)] = to
	return swapped
}

// balanceLeaders hands one group from who leads most to who leads least.
func (p *planner) balanceLeaders() {
	leads := map[string]int{}
	for _, place := range p.topology.Placements {
		if place.GetGroup() != 0 {
			leads[p.reports.Views[place.GetGroup()].Leader]++
		}
	}
	best, gain := Step{}, 1 // a difference of one would only change sides
	for _, place := range p.topology.Placements {
		view := p.reports.Views[place.GetGroup()]
		if place.GetGroup() == 0 {
			continue
		}
		for _, n := range p.heirs(view) {
			if d := leads[view.Leader] - leads[n.GetServerId()]; d > gain {
				best, gain = Step{Group: place.GetGroup(), Server: n.GetServerId()}, d
			}
		}
	}
	if gain > 1 {
		p.step(Transfer, best.Group, best.Server, "leaders are spread")
	}
}

// heirs are the voters that can lead at once, in order of id.
func (p *planner) heirs(view View) (heirs []*node) {
	for _, server := range view.Voters {
		n := p.byServer[server]
		if n != nil && server != view.Leader && n.mayGet() && view.CaughtUp[server] {
			heirs = append(heirs, n)
		}
	}
	slices.SortFunc(heirs, func(a, b *node) int { return cmp.Compare(a.GetNodeId(), b.GetNodeId()) })
	return heirs
}
