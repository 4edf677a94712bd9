package scaling

import (
	"fmt"
	"math"

	"github.com/kalamdb/kalamdb-go/internal/shardmap"
)

// Load is what users do. Shares are between 0 and 1.
type Load struct {
	Users int64
	// Active is the share of users who come on one day; Writes and Reads are what each of them does on it.
	Active        float64
	Writes, Reads float64
	// Peak is the busiest second over the mean of the day.
	Peak float64
	// Online is the share of users connected in the busiest second, each with Subscriptions open.
	Online, Subscriptions float64
	// RowsKept is how many rows of a user there are, RowBytes what one takes on one replica's disk, all included.
	RowsKept, RowBytes float64
	// HottestUser is the largest share of all writes one user makes.
	HottestUser float64
}

// RoleMicros is CPU time of one request, in microseconds, by role. Storage is that of all replicas together.
type RoleMicros struct{ Gateway, Query, Live, Storage float64 }

// Costs are what was measured.
type Costs struct {
	Write, Read RoleMicros
	// Heard is what a write costs in addition for each subscription that hears of it.
	Heard RoleMicros
	// GroupCores is the CPU of one idle group, all replicas; ReplicaBytes the memory of one idle replica, and
	// StorageBytes that of a storage process without any but with full caches.
	GroupCores, ReplicaBytes, StorageBytes float64
	// Bytes of one open subscription at the gateway, with its connection, and at the live node.
	GatewayBytes, LiveBytes float64
	// ShardWrites is how many writes a second one shard was seen to take.
	ShardWrites float64
}

// Machine is one node of any role.
type Machine struct {
	Cores, MemoryBytes, DiskBytes float64
	// Use is how much of each may be used in the busiest second.
	Use float64
	// LiveMax and GatewayMax are settings: live.max_subscriptions and websocket.sockets_max.
	LiveMax, GatewayMax float64
}

// Layout is how the cluster is made.
type Layout struct {
	Shards      int
	Replication int
	// Spare nodes of each role may be lost in the busiest second.
	Spare int
	// Uneven is the load of the fullest shard over the mean, and UnevenNode that of the fullest storage node: see Balance.
	Uneven, UnevenNode float64
}

// Demand is how many nodes one resource would need, were it the only one.
type Demand struct {
	Resource string
	Nodes    float64
}

// RolePlan is how many nodes of a role there should be.
type RolePlan struct {
	Role    string
	Nodes   int
	Bound   string // the resource that decides
	Demands []Demand
}

// Plan is nodes for a load.
type Plan struct {
	// Writes, Reads and Subscriptions in the busiest second.
	Writes, Reads, Subscriptions float64
	// HottestShard is writes a second of the fullest shard.
	HottestShard float64
	// ReplicasPerNode is of shards; each node has one of the catalog too.
	ReplicasPerNode float64
	Roles           []RolePlan
}

const secondsPerDay = 24 * 60 * 60

// MakePlan computes a plan, or says which limit that more nodes do not raise is in the way.
func MakePlan(load Load, costs Costs, m Machine, l Layout) (*Plan, error) {
	if l.Shards < 1 || l.Shards > shardmap.Slots {
		return nil, fmt.Errorf("%d shards: 1 to %d are possible", l.Shards, shardmap.Slots)
	}
	perUser := float64(load.Users) * load.Active / secondsPerDay * load.Peak
	p := &Plan{Writes: perUser * load.Writes, Reads: perUser * load.Reads, Subscriptions: float64(load.Users) * load.Online * load.Subscriptions}
	// The hottest user's shard has the user's writes and its part of everybody else's.
	p.HottestShard = p.Writes * max(l.Uneven/float64(l.Shards), load.HottestUser+(1-load.HottestUser)/float64(l.Shards))
	if p.HottestShard > costs.ShardWrites*m.Use {
		return nil, fmt.Errorf("the fullest of %d shards has %.0f writes a second, and one takes %.0f × %.2f: nodes do not help, shards may",
			l.Shards, p.HottestShard, costs.ShardWrites, m.Use)
	}
	for _, r := range []struct {
		role    string
		least   int
		demands []Demand
	}{
		{"storage", l.Replication, p.storage(load, costs, m, l)},
		{"query", 1, []Demand{{"CPU", p.cores(costs.Write.Query, costs.Read.Query, costs.Heard.Query) / (m.Cores * m.Use)}}},
		{"live", 1, []Demand{{"CPU", p.cores(costs.Write.Live, costs.Read.Live, costs.Heard.Live) / (m.Cores * m.Use)},
			{"memory", p.Subscriptions * costs.LiveBytes / (m.MemoryBytes * m.Use)}, {"max_subscriptions", p.Subscriptions / m.LiveMax}}},
		{"gateway", 1, []Demand{{"CPU", p.cores(costs.Write.Gateway, costs.Read.Gateway, costs.Heard.Gateway) / (m.Cores * m.Use)},
			{"memory", p.Subscriptions * costs.GatewayBytes / (m.MemoryBytes * m.Use)}, {"sockets_max", p.Subscriptions / load.Subscriptions / m.GatewayMax}}},
	} {
		p.Roles = append(p.Roles, rolePlan(r.role, r.least, l.Spare, r.demands))
	}
	p.ReplicasPerNode = float64(l.Shards*l.Replication) / float64(p.Roles[0].Nodes)
	return p, nil
}

// cores of requests: every write is heard by one subscription at most, the user's own.
func (p *Plan) cores(write, read, heard float64) float64 {
	return (p.Writes*(write+heard) + p.Reads*read) / 1e6
}

// storage demands: the fullest node decides, but for disks, where users' rows are even (see Balance).
func (p *Plan) storage(load Load, costs Costs, m Machine, l Layout) []Demand {
	requests := p.cores(costs.Write.Storage, costs.Read.Storage, costs.Heard.Storage) * l.UnevenNode
	idle := float64(l.Shards) * costs.GroupCores
	bytes := float64(load.Users) * load.RowsKept * load.RowBytes * float64(l.Replication)
	replicas := float64(l.Shards*l.Replication) * costs.ReplicaBytes
	return []Demand{{"CPU", (requests + idle) / (m.Cores * m.Use)}, {"disk", bytes / (m.DiskBytes * m.Use)},
		{"memory", replicas / (m.MemoryBytes*m.Use - costs.StorageBytes)}}
}

// rolePlan takes the largest demand, and the spare nodes on top: without them the others still bear the load.
func rolePlan(role string, least, spare int, demands []Demand) RolePlan {
	most := Demand{Resource: "the least there may be", Nodes: float64(least - spare)}
	for _, d := range demands {
		if d.Nodes > most.Nodes {
			most = d
		}
	}
	return RolePlan{Role: role, Nodes: max(least, int(math.Ceil(most.Nodes))+spare), Bound: most.Resource, Demands: demands}
}
