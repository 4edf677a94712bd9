package live

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Random writers, breaks and prunings against subscribers that come, lag, leave and resume at random:
// in the end every copy equals the table, and no event was impossible.
func TestCopiesEqualTheTable(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { copiesEqualTheTable(t, seed, "storage") })
	}
}

func copiesEqualTheTable(t *testing.T, seed uint64, nodes ...string) {
	w := newWorldOn(t, Config{QueueMessages: 200, BufferRows: 8, PageRows: 20}, nodes...)
	rnd := rand.New(rand.NewPCG(seed, 1))
	steps := 1500
	if testing.Short() {
		steps = 300
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	final := make(chan uint64, 6)
	for i := range 6 {
		g, rnd := w.gateway(), rand.New(rand.NewPCG(seed, uint64(i+10)))
		wg.Go(func() { (&roamer{w: w, g: g, rnd: rnd, user: fmt.Sprint("u", i%2), stop: stop, final: final}).run() })
	}
	for i := range steps {
		user, id := fmt.Sprint("u", rnd.IntN(2)), int64(rnd.IntN(60))
		switch rnd.IntN(40) {
		case 0:
			if rnd.IntN(2) == 0 {
				w.storage.Break()
			} else {
				w.storage.Lead(nodes[rnd.IntN(len(nodes))], rnd.IntN(2) == 0)
			}
		case 1, 2, 3, 4, 5, 6, 7, 8:
			w.storage.Delete(messages, user, id)
		default:
			w.put(user, id, fmt.Sprint("r", rnd.IntN(3)), fmt.Sprint(i))
		}
	}
	close(stop)
	for range 6 {
		final <- w.storage.Position()
	}
	wg.Wait()
}

// roamer is a subscriber that keeps a copy of the rows of one room of its user.
type roamer struct {
	w     *world
	g     *gateway
	rnd   *rand.Rand
	user  string
	stop  chan struct{}
	final chan uint64
	copy  *client // what it knows
}

func (r *roamer) run() {
	room := fmt.Sprint("r", r.rnd.IntN(3))
	for round := 0; ; round++ {
		opts := []option{withFilter(inRoom(room))}
		if r.copy != nil && r.copy.seq > 0 && r.rnd.IntN(3) > 0 {
			opts = append(opts, withFrom(r.copy.seq))
		} else {
			r.copy = nil
			opts = append(opts, withSnapshot, withBatch(uint32(1+r.rnd.IntN(15))))
			if r.rnd.IntN(2) == 0 {
				opts = append(opts, withPush)
			}
		}
		c := r.g.subscribe(r.user, opts...)
		if r.copy != nil {
			r.resume(c)
		}
		r.copy = c
		if !r.listen(c, 1+r.rnd.IntN(200)) {
			break
		}
		c.unsubscribe()
	}
	// One last time, to the end.
	<-r.final
	if err := r.settle(room); err != nil {
		r.w.t.Errorf("%s of %s: %v; last: %v", room, r.user, err, r.copy.recent)
	}
}

// resume lets c go on with what the copy knows.
func (r *roamer) resume(c *client) {
	c.rows, c.seq, c.gaps = r.copy.rows, r.copy.seq, max(r.copy.gaps, r.copy.loaded)
}

// listen follows for a number of messages; false when the writer has stopped.
func (r *roamer) listen(c *client, n int) bool {
	subscribed, loading := false, false
	for i := 0; i < n || loading || !subscribed; i++ {
		select {
		case <-r.stop:
			if subscribed && !loading {
				return false
			}
		default:
		}
		c.mu.Lock()
		empty := len(c.queue) == 0
		c.mu.Unlock()
		if empty && subscribed && !loading {
			select {
			case <-c.wake:
			case <-r.stop:
			}
			continue
		}
		m := c.next()
		switch {
		case m.GetSubscribed() != nil:
			subscribed, loading = true, m.GetSubscribed().GetSnapshotFollows()
			c.seq = m.GetSubscribed().GetPosition()
			if loading {
				c.rows = map[int64]string{}
			}
		case m.GetInitialRows() != nil:
			if loading = m.GetInitialRows().GetHasMore(); loading {
				c.nextBatch()
			} else {
				c.loaded = r.w.storage.Position()
			}
		case m.GetEnded() != nil:
			if code := m.GetEnded().GetCode(); code != string(dberr.Lagged) {
				r.w.t.Errorf("ended: %v", m)
			}
			if loading || !subscribed {
				c.seq = 0 // begin anew
			}
			return true
		}
		if err := c.apply(m, true); err != nil {
			r.w.t.Errorf("%v; last: %v", err, c.recent)
			return false
		}
	}
	return true
}

// settle reads what is left and compares.
func (r *roamer) settle(room string) error {
	want := r.w.truth(r.user, func(got string) bool { return got == room })
	deadline := time.Now().Add(patience)
	for {
		err := sameRows(r.copy.rows, want)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		m := r.copy.any()
		if m.GetEnded() != nil { // lagged at the very end: resume
			c := r.g.subscribe(r.user, withFilter(inRoom(room)), withFrom(r.copy.seq))
			r.resume(c)
			c.waitSubscribed()
			r.copy = c
			continue
		}
		if err := r.copy.apply(m, true); err != nil {
			return err
		}
	}
}
