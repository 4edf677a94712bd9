package shard

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

func bloomID(rng *rand.Rand, even bool) []byte {
	id := make([]byte, 16)
	if even {
		binary.LittleEndian.PutUint64(id, rng.Uint64())
	}
	binary.LittleEndian.PutUint64(id[8:], rng.Uint64N(1<<40)) // ids that differ in a few bytes only
	return id
}

func TestABloomFilterForgetsNothing(t *testing.T) {
	for _, even := range []bool{true, false} {
		rng := rand.New(rand.NewPCG(1, 1))
		var b bloom
		ids := make([][]byte, 100_000)
		for i := range ids {
			ids[i] = bloomID(rng, even)
			b.add(ids[i])
		}
		for i, id := range ids {
			if !b.mayHold(id) {
				t.Fatalf("even=%v: id %d of %d is forgotten", even, i, len(ids))
			}
		}
		wrong := 0
		for range 100_000 {
			if b.mayHold(bloomID(rng, even)) {
				wrong++
			}
		}
		// Each of its five layers is wrong once in about a hundred times, the last is not full.
		if wrong > 6_000 || len(b.layers) != 5 {
			t.Errorf("even=%v: %d of 100000 new ids are taken for known, %d layers", even, wrong, len(b.layers))
		}
	}
}

func TestAFullBloomFilterHoldsEverything(t *testing.T) {
	var b bloom
	room := 0
	for n, size := 0, bloomRoomFirst; n < bloomLayersMax; n, size = n+1, size*bloomGrowth {
		room += size
		b.layers = append(b.layers, bloomLayer{words: make([]uint64, 1)})
	}
	if room > 6_000_000 {
		t.Errorf("room for %d ids", room)
	}
	id := bloomID(rand.New(rand.NewPCG(1, 1)), true)
	if b.mayHold(id) {
		t.Fatal("an empty filter holds an id")
	}
	b.add(id)
	if !b.mayHold(id) || !b.all || b.layers != nil {
		t.Error("a full filter took another id and did not give up")
	}
}

func BenchmarkBloomOfANewID(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	var f bloom
	for range 100_000 {
		f.add(bloomID(rng, true))
	}
	id := bloomID(rng, true)
	for b.Loop() {
		f.mayHold(id)
	}
}
