package scaling

import (
	"fmt"
	"slices"
	"testing"
)

// What the controller's rules promise after nodes came and went: nodes differ by one replica at most, and no member of
// a group leads two groups less than its leader. (Over groups without a common member leaders may differ by more.)
func TestPlacementRestsEven(t *testing.T) {
	p := NewPlacement(64, 3)
	for range 7 {
		p.Add()
		checkEven(t, p)
	}
	for _, lost := range []int{2, 0, 6} {
		p.Lose(lost)
		checkEven(t, p)
		if held := p.Held(lost); held != 0 {
			t.Errorf("node %d was lost and has %d replicas", lost, held)
		}
	}
}

func checkEven(t *testing.T, p *Placement) {
	t.Helper()
	held, leads := []int{}, make([]int, len(p.up))
	for _, n := range p.nodes() {
		held = append(held, p.Held(n))
	}
	for _, n := range p.leaders {
		leads[n]++
	}
	if slices.Max(held)-slices.Min(held) > 1 {
		t.Errorf("%d nodes hold %v", len(held), held)
	}
	for s, members := range p.members {
		if distinct := slices.Compact(slices.Sorted(slices.Values(members))); len(distinct) != p.wanted() {
			t.Errorf("shard %d is on nodes %v", s, members)
		}
		if !slices.Contains(members, p.leaders[s]) {
			t.Errorf("shard %d is led by node %d and on nodes %v", s, p.leaders[s], members)
		}
		for _, n := range members {
			if leads[p.leaders[s]]-leads[n] > 1 {
				t.Errorf("shard %d is led by node %d, and node %d could: %v", s, p.leaders[s], n, leads)
			}
		}
	}
}

// A node that comes gets its part, and no replica moves between others. What one leaves is made again one group after
// the other, which may end uneven, so that some move once more.
func TestPlacementMovesNoMoreThanItMust(t *testing.T) {
	for _, c := range []struct{ shards, nodes int }{{8, 3}, {64, 3}, {256, 6}, {1024, 30}} {
		p := NewPlacement(c.shards, 3)
		for range c.nodes {
			p.Add()
		}
		before := p.Moves
		p.Add()
		if moved, got := p.Moves-before, p.Held(c.nodes); moved != got || got != c.shards*3/(c.nodes+1) {
			t.Errorf("%d shards, a node joins %d: %d replicas moved, and it has %d of %d", c.shards, c.nodes, moved, got, c.shards*3)
		}
		before = p.Moves
		had := p.Held(1)
		p.Lose(1)
		if moved := p.Moves - before; moved < had || moved > had+had/4 {
			t.Errorf("%d shards, a node of %d leaves: %d replicas moved, and it had %d", c.shards, c.nodes+1, moved, had)
		}
	}
}

func TestTwoNodesHaveOneVoter(t *testing.T) {
	p := NewPlacement(4, 3)
	p.Add()
	p.Add()
	if got := p.Held(0) + p.Held(1); got != 4 || p.Held(0) != 2 {
		t.Errorf("two nodes hold %d and %d replicas of 4 shards", p.Held(0), p.Held(1))
	}
}

func TestEqualUsersOnOneShard(t *testing.T) {
	b, err := SimulateBalance(Activity{Users: 1000}, 1, 3, 3)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Spread{MaxOverMean: 1, Share: 1}); b.Users != want || b.Shards != want {
		t.Errorf("one shard has %+v and %+v", b.Users, b.Shards)
	}
	if b.HottestUser != 0.001 {
		t.Errorf("one of 1000 equal users does %v of everything", b.HottestUser)
	}
	if b.Leaders.Share != 1 || b.Replicas.Share != 1.0/3 {
		t.Errorf("one shard on three nodes: %+v lead, %+v hold", b.Leaders, b.Replicas)
	}
}

func TestWhatCannotBeSimulated(t *testing.T) {
	for _, c := range []struct{ users, shards, nodes int }{{0, 8, 3}, {10, 0, 3}, {10, 1025, 3}, {10, 8, 0}} {
		if _, err := SimulateBalance(Activity{Users: c.users}, c.shards, c.nodes, 3); err == nil {
			t.Errorf("%+v were simulated", c)
		}
	}
}

// The tables of docs/scaling.md.
func ExampleSimulateBalance() {
	fmt.Println("exponent shards nodes | hottest user | users | shards | leaders | replicas (fullest over mean)")
	for _, exponent := range []float64{0, 0.5, 0.8, 1} {
		for _, c := range []struct{ shards, nodes int }{{64, 3}, {256, 30}, {1024, 48}} {
			b, err := SimulateBalance(Activity{Users: 1_000_000, Exponent: exponent}, c.shards, c.nodes, 3)
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Printf("%8.1f %6d %5d | %9.4f %% | %5.2f | %6.2f | %7.2f | %8.2f\n", exponent, c.shards, c.nodes, 100*b.HottestUser,
				b.Users.MaxOverMean, b.Shards.MaxOverMean, b.Leaders.MaxOverMean, b.Replicas.MaxOverMean)
		}
	}
	// Output:
	// exponent shards nodes | hottest user | users | shards | leaders | replicas (fullest over mean)
	//      0.0     64     3 |    0.0001 % |  1.01 |   1.01 |    1.03 |     1.00
	//      0.0    256    30 |    0.0001 % |  1.04 |   1.04 |    1.06 |     1.02
	//      0.0   1024    48 |    0.0001 % |  1.08 |   1.08 |    1.04 |     1.01
	//      0.5     64     3 |    0.0500 % |  1.01 |   1.03 |    1.03 |     1.00
	//      0.5    256    30 |    0.0500 % |  1.04 |   1.12 |    1.08 |     1.02
	//      0.5   1024    48 |    0.0500 % |  1.08 |   1.48 |    1.06 |     1.01
	//      0.8     64     3 |    1.3368 % |  1.01 |   1.81 |    1.08 |     1.00
	//      0.8    256    30 |    1.3368 % |  1.04 |   4.31 |    1.38 |     1.09
	//      0.8   1024    48 |    1.3368 % |  1.08 |  14.47 |    1.62 |     1.17
	//      1.0     64     3 |    6.9480 % |  1.01 |   5.31 |    1.25 |     1.00
	//      1.0    256    30 |    6.9480 % |  1.04 |  18.42 |    2.88 |     1.48
	//      1.0   1024    48 |    6.9480 % |  1.08 |  71.62 |    4.23 |     1.92
}

func ExamplePlacement() {
	fmt.Println("shards nodes | held by each | moved when one is added | when one is lost then")
	for _, c := range []struct{ shards, nodes int }{{8, 3}, {64, 3}, {64, 6}, {256, 6}, {256, 30}, {1024, 48}} {
		p := NewPlacement(c.shards, 3)
		for range c.nodes {
			p.Add()
		}
		held, before := p.Held(0), p.Moves
		p.Add()
		added := p.Moves - before
		before = p.Moves
		p.Lose(0)
		fmt.Printf("%6d %5d | %12d | %23d | %d\n", c.shards, c.nodes, held, added, p.Moves-before)
	}
	// Output:
	// shards nodes | held by each | moved when one is added | when one is lost then
	//      8     3 |            8 |                       6 | 6
	//     64     3 |           64 |                      48 | 48
	//     64     6 |           32 |                      27 | 31
	//    256     6 |          128 |                     109 | 129
	//    256    30 |           26 |                      24 | 25
	//   1024    48 |           64 |                      62 | 65
}
