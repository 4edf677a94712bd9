package scaling

import "slices"

// Placement is where shards' replicas are, on nodes numbered from 0. It follows the rules of the placement controller
// (services/storage/internal/placement/goal.go, which only the storage role may import) for nodes of one zone: a new
// replica goes where fewest are, replicas move from the fullest node to the emptiest while they differ by two, and so
// does leadership. It knows no time and no failures; the controller's own tests have those.
type Placement struct {
	replication int
	members     [][]int // by shard
	leaders     []int   // by shard
	up          []bool  // by node
	// Moves counts replicas that were copied to another node.
	Moves int
}

// NewPlacement is a cluster without nodes.
func NewPlacement(shards, replication int) *Placement {
	return &Placement{replication: replication, members: make([][]int, shards), leaders: make([]int, shards)}
}

// Add starts a node and moves replicas until nothing moves any more. The first one gets everything.
func (p *Placement) Add() {
	p.up = append(p.up, true)
	p.rest()
}

// Lose takes a node away for good; its replicas are made again from the others.
func (p *Placement) Lose(node int) {
	p.up[node] = false
	for s, members := range p.members {
		p.members[s] = slices.DeleteFunc(members, func(n int) bool { return n == node })
	}
	p.rest()
}

// Held is how many replicas a node has.
func (p *Placement) Held(node int) (held int) {
	for _, members := range p.members {
		if slices.Contains(members, node) {
			held++
		}
	}
	return held
}

// nodes are those that are there.
func (p *Placement) nodes() (nodes []int) {
	for n, up := range p.up {
		if up {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// wanted is the largest odd number of voters that the factor and the nodes allow.
func (p *Placement) wanted() int {
	n := min(p.replication, len(p.nodes()))
	return n - 1 + n%2
}

// rest makes every group complete, then spreads replicas, then leaders.
func (p *Placement) rest() {
	held := make([]int, len(p.up))
	for _, members := range p.members {
		for _, n := range members {
			held[n]++
		}
	}
	wanted := p.wanted()
	for s := range p.members {
		for len(p.members[s]) < wanted {
			n := emptiest(p.byHeld(held), p.members[s])
			p.members[s] = append(p.members[s], n)
			held[n]++
			p.Moves++
		}
	}
	for p.moveOne(held) {
		p.Moves++
	}
	for s, members := range p.members {
		if !slices.Contains(members, p.leaders[s]) {
			p.leaders[s] = members[0]
		}
	}
	for p.leadElsewhere() {
	}
}

// byHeld are the nodes, those with the fewest replicas first.
func (p *Placement) byHeld(held []int) []int {
	nodes := p.nodes()
	slices.SortStableFunc(nodes, func(a, b int) int { return held[a] - held[b] })
	return nodes
}

// emptiest is the first node that is none of a group's members.
func emptiest(byHeld, members []int) int {
	for _, n := range byHeld {
		if !slices.Contains(members, n) {
			return n
		}
	}
	return -1
}

// moveOne makes the move that evens out most, if one is worth it: a difference of one would only change sides.
func (p *Placement) moveOne(held []int) bool {
	shard, at, to, gain := 0, 0, 0, 1
	byHeld := p.byHeld(held)
	for s, members := range p.members {
		n := emptiest(byHeld, members)
		for i, from := range members {
			if n >= 0 && held[from]-held[n] > gain {
				shard, at, to, gain = s, i, n, held[from]-held[n]
			}
		}
	}
	if gain < 2 {
		return false
	}
	held[p.members[shard][at]]--
	held[to]++
	p.members[shard] = append(slices.Delete(p.members[shard], at, at+1), to)
	return true
}

// leadElsewhere hands one group from who leads most to who leads least.
func (p *Placement) leadElsewhere() bool {
	leads := make([]int, len(p.up))
	for _, n := range p.leaders {
		leads[n]++
	}
	shard, to, gain := 0, 0, 1
	for s, members := range p.members {
		for _, n := range members {
			if d := leads[p.leaders[s]] - leads[n]; d > gain {
				shard, to, gain = s, n, d
			}
		}
	}
	if gain < 2 {
		return false
	}
	p.leaders[shard] = to
	return true
}
