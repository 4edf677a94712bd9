package subscription

import (
	"math/rand/v2"
	"testing"

	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// Pages of a changing partition, against what a client that got them would have.
func TestPagesKnowWhatWasSent(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		rows := map[int]uint64{} // key → _seq
		seq := uint64(100)
		type change struct {
			key      int
			old, seq uint64
		}
		var changes []change
		write := func() {
			seq++
			key := rnd.IntN(30)
			changes = append(changes, change{key: key, old: rows[key], seq: seq})
			if rnd.IntN(4) == 0 {
				delete(rows, key)
			} else {
				rows[key] = seq
			}
		}
		for range 40 {
			write()
		}
		var p Pages
		position := seq
		p.Begin(position, 0)
		sent := map[int]uint64{}
		for last := uint64(0); ; {
			// A page: the next rows by _seq, not above the snapshot's position.
			end, n := position, 0
			for s := last + 1; s <= position; s++ {
				for key, at := range rows {
					if at == s {
						sent[key] = s
						n++
					}
				}
				if n == 5 {
					end = s
					break
				}
			}
			p.Add(end, seq)
			if last = end; end == position {
				break
			}
			for range rnd.IntN(8) {
				write()
			}
		}
		for range 20 {
			write()
		}
		for _, c := range changes {
			if c.seq <= position || c.old == 0 {
				continue
			}
			if got, want := p.Known(c.old, c.seq), sent[c.key] == c.old || c.old > position; got != want {
				t.Fatalf("seed %d: change %+v: known %v, but the client has %v", seed, c, got, sent[c.key])
			}
			if c.seq > p.Settled() && !p.Known(c.old, c.seq) {
				t.Fatalf("seed %d: change %+v after %d is not known", seed, c, p.Settled())
			}
			delete(sent, c.key) // from now on by changes
		}
	}
}

type purse struct{ left int }

func (p *purse) Reserve(n int) bool {
	if p.left < n {
		return false
	}
	p.left -= n
	return true
}

func (p *purse) Release(n int) { p.left += n }

func TestBufferGivesUpAndGivesBack(t *testing.T) {
	ch := &storagev1.Change{Row: make([]byte, 72)} // 200 bytes with its overhead
	for name, c := range map[string]struct {
		limits Limits
		purse  int
		keeps  int
	}{
		"rows":   {Limits{Rows: 3, Bytes: 10_000}, 10_000, 3},
		"bytes":  {Limits{Rows: 100, Bytes: 850}, 10_000, 4},
		"budget": {Limits{Rows: 100, Bytes: 10_000}, 500, 2},
	} {
		purse := &purse{left: c.purse}
		b := NewBuffer(c.limits, purse)
		for range c.keeps {
			b.Add(ch)
		}
		if b.Lost() || len(b.Changes()) != c.keeps || purse.left != c.purse-200*c.keeps {
			t.Errorf("%s: %d changes, lost %v, %d left", name, len(b.Changes()), b.Lost(), purse.left)
		}
		b.Add(ch)
		b.Add(ch)
		if !b.Lost() || len(b.Changes()) != 0 || purse.left != c.purse {
			t.Errorf("%s: %d changes, lost %v, %d left", name, len(b.Changes()), b.Lost(), purse.left)
		}
		b.Discard()
		if purse.left != c.purse {
			t.Errorf("%s: %d left after Discard", name, purse.left)
		}
	}
}
