package snowflake

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// clock is set by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

func generator(t *testing.T, node uint16, now func() time.Time) *Generator {
	t.Helper()
	g, err := New(SeqEpoch, node, now)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestAMillionFromSixteenGoroutinesAreUnique(t *testing.T) {
	const workers, each = 16, 62_500
	g := generator(t, 7, nil)
	made := make([][]uint64, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			ids := make([]uint64, each)
			for i := range ids {
				ids[i] = g.Next()
			}
			made[w] = ids
		})
	}
	wg.Wait()
	var all []uint64
	for _, ids := range made {
		if !slices.IsSorted(ids) {
			t.Fatal("a goroutine saw numbers fall")
		}
		all = append(all, ids...)
	}
	slices.Sort(all)
	if n := len(slices.Compact(all)); n != workers*each {
		t.Fatalf("%d of %d are unique", n, workers*each)
	}
}

func TestTheCounterRunsIntoTheNextMillisecond(t *testing.T) {
	c := &clock{t: SeqEpoch.Add(time.Hour)}
	g := generator(t, 1, c.now)
	last := uint64(0)
	for range 3 * counters {
		v := g.Next()
		if v <= last || Node(v) != 1 {
			t.Fatalf("%d after %d, node %d", v, last, Node(v))
		}
		last = v
	}
	if got := Time(last, SeqEpoch); got != c.t.Add(2*time.Millisecond) {
		t.Fatalf("time %v", got)
	}
}

func TestAClockThatStepsBack(t *testing.T) {
	c := &clock{t: SeqEpoch.Add(time.Hour)}
	g := generator(t, 1, c.now)
	a := g.Next()
	c.set(SeqEpoch.Add(-time.Hour))
	b := g.Next()
	if b != a+1 {
		t.Fatalf("%d after %d", b, a)
	}
	c.set(SeqEpoch.Add(2 * time.Hour))
	if got := Time(g.Next(), SeqEpoch); got != c.t {
		t.Fatalf("after catching up: %v", got)
	}
}

func TestRunsEqualSingleNumbers(t *testing.T) {
	c := &clock{t: SeqEpoch.Add(time.Hour)}
	runs, singles := generator(t, 5, c.now), generator(t, 5, c.now)
	for _, n := range []int{1, 10, counters - 20, 30, 3*counters + 7, 1} {
		first := runs.NextN(n)
		for i := range n {
			if got, want := At(first, i), singles.Next(); got != want {
				t.Fatalf("run of %d, number %d: %x, want %x", n, i, got, want)
			}
		}
	}
}

func TestAboveWhatAnotherNodeMade(t *testing.T) {
	c := &clock{t: SeqEpoch.Add(time.Hour)}
	for _, other := range []uint16{0, 5, 9, NodeMax} {
		ahead := generator(t, other, func() time.Time { return c.t.Add(time.Second) })
		for _, floor := range []uint64{ahead.Next(), ahead.NextN(counters), ahead.NextN(2 * counters)} {
			v := generator(t, 5, c.now).NextAfter(floor)
			if v <= floor || Node(v) != 5 {
				t.Errorf("after %x of node %d: %x, node %d", floor, other, v, Node(v))
			}
		}
	}
}

// Leaders of one shard take turns, one of them with a clock that is an hour ahead for a while. Numbers rise all
// the time, and after the clock is right again they move ahead no faster than they are made.
func TestClocksThatJumpWhileLeadersChange(t *testing.T) {
	start := SeqEpoch.Add(1000 * time.Hour)
	wall := &clock{t: start}
	skew := time.Duration(0)
	nodes := make([]*Generator, 3)
	for i := range nodes {
		nodes[i] = generator(t, uint16(i+1), func() time.Time {
			if i == 0 {
				return wall.now().Add(skew)
			}
			return wall.now()
		})
	}
	last, changes, made := uint64(0), 0, 0
	lead := func(g *Generator, n int) {
		g.Raise(last)
		changes++
		for range n {
			v := g.Next()
			made++
			if v <= last {
				t.Fatalf("%x after %x", v, last)
			}
			last = v
		}
	}
	lead(nodes[1], 10)
	if got := nodes[1].Ahead(); got != 0 {
		t.Errorf("ahead by %v with a good clock", got)
	}
	skew = time.Hour
	lead(nodes[0], 1)
	top := Time(last, SeqEpoch)
	if got := top.Sub(start); got != time.Hour {
		t.Fatalf("an hour ahead is %v", got)
	}
	skew, changes, made = -time.Hour, 0, 0
	for i := range 300 {
		lead(nodes[i%3], 100)
	}
	moved, bound := Time(last, SeqEpoch).Sub(top), time.Duration(changes+made/counters+1)*time.Millisecond
	if moved > bound {
		t.Errorf("numbers moved ahead by %v, at most %v were to be expected", moved, bound)
	}
	if got := nodes[1].Ahead(); got < 59*time.Minute || got > time.Hour+bound {
		t.Errorf("ahead by %v", got)
	}
	wall.set(start.Add(2 * time.Hour)) // caught up
	lead(nodes[2], 1)
	if got := Time(last, SeqEpoch); got != start.Add(2*time.Hour) || nodes[2].Ahead() != 0 {
		t.Errorf("after catching up %v, ahead by %v", got, nodes[2].Ahead())
	}
}

func TestFirstAt(t *testing.T) {
	at := SeqEpoch.Add(1234567 * time.Millisecond)
	g := generator(t, 7, func() time.Time { return at })
	if n := g.Next(); FirstAt(at, SeqEpoch) > n || FirstAt(at.Add(time.Millisecond), SeqEpoch) <= n || !Time(FirstAt(at, SeqEpoch), SeqEpoch).Equal(at) {
		t.Errorf("%d is not between %d and %d", n, FirstAt(at, SeqEpoch), FirstAt(at.Add(time.Millisecond), SeqEpoch))
	}
	if n := FirstAt(SeqEpoch.Add(-time.Hour), SeqEpoch); n != 0 {
		t.Errorf("before the epoch: %d", n)
	}
}

func TestANodeNumberOutOfRange(t *testing.T) {
	if _, err := New(IDEpoch, NodeMax+1, nil); err == nil {
		t.Error("accepted")
	}
}

func BenchmarkNext(b *testing.B) {
	g, err := New(SeqEpoch, 1, nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		g.Next()
	}
}
