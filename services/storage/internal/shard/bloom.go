package shard

import (
	"encoding/binary"
	"math/bits"
)

const (
	// bloomProbes and bloomBitsPerID give about 1 % false positives: each costs one look into the store.
	bloomProbes    = 7
	bloomBitsPerID = 10
	// bloomRoomFirst is little enough for a shard that hardly writes; each further layer holds bloomGrowth
	// times as many. bloomLayersMax bounds a filter to 5.6 million ids, 7 MB; past it the store is asked.
	bloomRoomFirst = 1 << 10
	bloomGrowth    = 4
	bloomLayersMax = 7
)

// bloom answers whether an id may have been added: when it says no, it was not. It grows by layers, as
// nobody knows beforehand how many ids five minutes bring.
type bloom struct {
	layers []bloomLayer
	// all: it may be any id, e.g. because some were added before this filter was made.
	all bool
}

type bloomLayer struct {
	words []uint64
	room  int // ids it still takes
}

func (b *bloom) add(id []byte) {
	if b.all {
		return
	}
	n := len(b.layers)
	if n == 0 || b.layers[n-1].room == 0 {
		if n == bloomLayersMax {
			b.all, b.layers = true, nil
			return
		}
		room := bloomRoomFirst
		for range n {
			room *= bloomGrowth
		}
		b.layers = append(b.layers, bloomLayer{words: make([]uint64, room*bloomBitsPerID/64), room: room})
		n++
	}
	l := &b.layers[n-1]
	l.room--
	h, step := bloomHash(id)
	for range bloomProbes {
		i := l.bit(h)
		l.words[i/64] |= 1 << (i % 64)
		h += step
	}
}

func (b *bloom) mayHold(id []byte) bool {
	if b.all {
		return true
	}
	for i := range b.layers {
		if b.layers[i].mayHold(id) {
			return true
		}
	}
	return false
}

func (l *bloomLayer) mayHold(id []byte) bool {
	h, step := bloomHash(id)
	for range bloomProbes {
		i := l.bit(h)
		if l.words[i/64]&(1<<(i%64)) == 0 {
			return false
		}
		h += step
	}
	return true
}

// bit maps a hash to a bit evenly, without a division.
func (l *bloomLayer) bit(h uint64) uint64 {
	hi, _ := bits.Mul64(h, uint64(len(l.words))*64)
	return hi
}

// bloomHash mixes an id, which its maker may have chosen unevenly.
func bloomHash(id []byte) (h, step uint64) {
	h = mix(mix(binary.LittleEndian.Uint64(id)) ^ binary.LittleEndian.Uint64(id[8:]))
	return h, mix(h+0x9E3779B97F4A7C15) | 1
}

// mix is the finalizer of splitmix64: every bit of x changes half of the result's.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}
