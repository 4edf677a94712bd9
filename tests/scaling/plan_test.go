package scaling

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// round numbers, so that the expected plan can be computed by hand.
func roundPlan() (Load, Costs, Machine, Layout) {
	return Load{Users: 864_000, Active: .1, Writes: 100, Reads: 50, Peak: 10, Online: .5, Subscriptions: 2, RowsKept: 1000, RowBytes: 1000},
		Costs{Write: RoleMicros{Gateway: 100, Query: 200, Storage: 400}, Read: RoleMicros{Gateway: 20, Query: 40, Storage: 60},
			Heard: RoleMicros{Gateway: 10, Live: 50}, GroupCores: .01, ReplicaBytes: 1e6, StorageBytes: 1e9, GatewayBytes: 20e3, LiveBytes: 1e3, ShardWrites: 1000},
		Machine{Cores: 2, MemoryBytes: 4e9, DiskBytes: 1e12, Use: .5, LiveMax: 1e5, GatewayMax: 5e4},
		Layout{Shards: 100, Replication: 3, Spare: 1, Uneven: 2, UnevenNode: 1.5}
}

func TestPlanByHand(t *testing.T) {
	load, costs, m, l := roundPlan()
	p, err := MakePlan(load, costs, m, l)
	if err != nil {
		t.Fatal(err)
	}
	// 864,000 users · 0.1 / 86,400 s · 10 = 10 of everything a user does in a day, each second.
	if p.Writes != 1000 || p.Reads != 500 || p.Subscriptions != 864_000 || p.HottestShard != 20 {
		t.Errorf("%+v", p)
	}
	want := map[string]map[string]float64{
		// (1000·400 + 500·60) µs · 1.5 + 100 · 0.01 = 1.645 cores of 1; 2.592 TB on half of 1 TB each; 300 MB in 2 GB - 1 GB.
		"storage": {"CPU": 1.645, "disk": 5.184, "memory": .3},
		"query":   {"CPU": .22},
		"live":    {"CPU": .05, "memory": .432, "max_subscriptions": 8.64},
		"gateway": {"CPU": .12, "memory": 8.64, "sockets_max": 8.64},
	}
	nodes := map[string]int{"storage": 7, "query": 2, "live": 10, "gateway": 10}
	for _, r := range p.Roles {
		if r.Nodes != nodes[r.Role] {
			t.Errorf("%s: %d nodes, bound by %s, want %d", r.Role, r.Nodes, r.Bound, nodes[r.Role])
		}
		for _, d := range r.Demands {
			if w := want[r.Role][d.Resource]; math.Abs(d.Nodes-w) > 1e-9 {
				t.Errorf("%s %s: %v nodes, want %v", r.Role, d.Resource, d.Nodes, w)
			}
		}
	}
	if p.Roles[0].Bound != "disk" || p.Roles[2].Bound != "max_subscriptions" || math.Abs(p.ReplicasPerNode-300.0/7) > 1e-9 {
		t.Errorf("%+v", p)
	}
}

func TestPlanOfNobodyIsTheLeast(t *testing.T) {
	load, costs, m, l := roundPlan()
	load.Users, l.Shards = 1, 1
	p, err := MakePlan(load, costs, m, l)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Roles {
		if want := map[string]int{"storage": 3, "query": 2, "live": 2, "gateway": 2}[r.Role]; r.Nodes != want {
			t.Errorf("%s: %d nodes", r.Role, r.Nodes)
		}
	}
}

func TestLimitsThatNodesDoNotRaise(t *testing.T) {
	load, costs, m, l := roundPlan()
	for _, c := range []struct {
		change func()
		want   string
	}{
		{func() { l.Shards = 1025 }, "1 to 1024"},
		{func() { l.Shards = 0 }, "1 to 1024"},
		{func() { l.Shards = 3 }, "the fullest of 3 shards has 667 writes a second"},
		{func() { load.HottestUser = .5 }, "the fullest of 100 shards has 505 writes a second"},
	} {
		load, costs, m, l = roundPlan()
		c.change()
		if p, err := MakePlan(load, costs, m, l); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v %v, want %q", p, err, c.want)
		}
	}
}

// tenMillion is the worked plan of docs/scaling.md, which says where each number comes from.
func tenMillion() (Load, Costs, Machine, Layout) {
	return Load{Users: 10_000_000, Active: .2, Writes: 20, Reads: 40, Peak: 3, Online: .03, Subscriptions: 1.5,
			RowsKept: .2 * 20 * 365, RowBytes: 500 + 286, HottestUser: .0005},
		Costs{Write: RoleMicros{Gateway: 350, Query: 350, Storage: 840}, Read: RoleMicros{Gateway: 360, Query: 510, Storage: 490},
			Heard: RoleMicros{Gateway: 80, Live: 230, Storage: 50}, GroupCores: .006, ReplicaBytes: 1.7 * (1 << 20),
			StorageBytes: 830 << 20, GatewayBytes: 24 << 10, LiveBytes: 11 << 10, ShardWrites: 1300},
		Machine{Cores: 4, MemoryBytes: 16 << 30, DiskBytes: 2e12, Use: .6, LiveMax: 100_000, GatewayMax: 50_000},
		Layout{Shards: 256, Replication: 3, Spare: 1, Uneven: 1.2, UnevenNode: 1.1}
}

func ExampleMakePlan() {
	load, costs, m, l := tenMillion()
	p, err := MakePlan(load, costs, m, l)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("busiest second: %.0f writes, %.0f reads, %.0f subscriptions open; fullest shard: %.0f writes\n", p.Writes, p.Reads, p.Subscriptions, p.HottestShard)
	for _, r := range p.Roles {
		fmt.Printf("%-8s %3d nodes, bound by %s:", r.Role, r.Nodes, r.Bound)
		for _, d := range r.Demands {
			fmt.Printf(" %s %.2f", d.Resource, d.Nodes)
		}
		fmt.Println()
	}
	fmt.Printf("%.1f replicas of %d shards on each storage node\n", p.ReplicasPerNode, l.Shards)
	// Output:
	// busiest second: 1389 writes, 2778 reads, 450000 subscriptions open; fullest shard: 7 writes
	// storage   30 nodes, bound by disk: CPU 1.83 disk 28.69 memory 0.15
	// query      2 nodes, bound by CPU: CPU 0.79
	// live       6 nodes, bound by max_subscriptions: CPU 0.13 memory 0.49 max_subscriptions 4.50
	// gateway    7 nodes, bound by sockets_max: CPU 0.67 memory 1.07 sockets_max 6.00
	// 25.6 replicas of 256 shards on each storage node
}
