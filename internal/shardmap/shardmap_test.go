package shardmap

import (
	"fmt"
	"testing"
)

// The slots are a disk format: these numbers never change.
func TestSlotsAreStable(t *testing.T) {
	for id, want := range map[string]uint16{"alice": 956, "bob": 589, "|trey|": 887, "": 961} {
		if got := UserSlot(id); got != want {
			t.Errorf("UserSlot(%q) = %d, want %d", id, got, want)
		}
	}
	for id, want := range map[uint32]uint16{1: 829, 2: 240} {
		if got := TableSlot(id); got != want {
			t.Errorf("TableSlot(%d) = %d, want %d", id, got, want)
		}
	}
}

func TestUsersSpread(t *testing.T) {
	m := Even(8)
	var n [8]int
	for i := range 80000 {
		n[m.User(fmt.Sprintf("u%d", i))]++
	}
	for s, c := range n {
		if c < 9000 || c > 11000 {
			t.Errorf("shard %d has %d of 80000 users", s, c)
		}
	}
}

func TestEverySlotHasAShard(t *testing.T) {
	for _, n := range []uint32{1, 3, 8, 1024} {
		last := uint32(0)
		for s := range uint16(Slots) {
			got := Even(n).ShardOf(s)
			if got < last || got >= n {
				t.Fatalf("%d shards: slot %d in shard %d", n, s, got)
			}
			last = got
		}
		if last != n-1 {
			t.Fatalf("%d shards: the last is %d", n, last)
		}
	}
}
