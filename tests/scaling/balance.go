package scaling

import (
	"fmt"
	"math"
	"slices"

	"github.com/kalamdb/kalamdb-go/internal/shardmap"
)

// Activity is how unequal users are: the user of rank r does (r+1)^-Exponent times what the busiest does.
type Activity struct {
	Users    int
	Exponent float64 // 0: all the same
}

// Spread is how evenly something lies on shards or nodes.
type Spread struct {
	// MaxOverMean is the load of the fullest over the mean.
	MaxOverMean float64
	// Share is that of the fullest in everything.
	Share float64
}

// spreadOf needs at least one value, and not all zero.
func spreadOf(v []float64) Spread {
	total := 0.0
	for _, x := range v {
		total += x
	}
	most := slices.Max(v)
	return Spread{MaxOverMean: most / (total / float64(len(v))), Share: most / total}
}

// Balance is how users' activity lies on shards, and what shards do on nodes.
type Balance struct {
	// HottestUser is the busiest user's share of all activity: what no number of shards divides.
	HottestUser float64
	// Users, Shards are of numbers of users and of activity on shards; Leaders and Replicas of activity on nodes, by
	// what they lead and by what they hold.
	Users, Shards, Leaders, Replicas Spread
}

// SimulateBalance gives users of a Zipf-like activity to shards by the hash the server uses, and shards to nodes as
// the placement controller does in a cluster that rests.
func SimulateBalance(a Activity, shards, nodes, replication int) (Balance, error) {
	if a.Users < 1 || shards < 1 || shards > shardmap.Slots || nodes < 1 {
		return Balance{}, fmt.Errorf("%d users on %d shards and %d nodes cannot be simulated", a.Users, shards, nodes)
	}
	weights := zipf(a)
	m := shardmap.Even(uint32(shards))
	number, load := make([]float64, shards), make([]float64, shards)
	total := 0.0
	for rank, w := range weights {
		s := m.User(userID(rank))
		number[s]++
		load[s] += w
		total += w
	}
	p := NewPlacement(shards, replication)
	for range nodes {
		p.Add()
	}
	leaders, replicas := make([]float64, nodes), make([]float64, nodes)
	for s, members := range p.members {
		leaders[p.leaders[s]] += load[s]
		for _, n := range members {
			replicas[n] += load[s]
		}
	}
	return Balance{HottestUser: weights[0] / total, Users: spreadOf(number), Shards: spreadOf(load), Leaders: spreadOf(leaders),
		Replicas: spreadOf(replicas)}, nil
}

// zipf is the activity of each user by rank, the busiest first.
func zipf(a Activity) []float64 {
	w := make([]float64, a.Users)
	for r := range w {
		w[r] = math.Pow(float64(r+1), -a.Exponent)
	}
	return w
}
