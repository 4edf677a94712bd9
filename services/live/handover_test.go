package live

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/storagefake"
)

func TestPagesAskedForOneByOne(t *testing.T) {
	w := newWorld(t, Config{PageRows: 1000})
	for i := range 2500 {
		w.put("alice", int64(i), "a", "old")
	}
	at := w.storage.Position()
	c := w.gateway().subscribe("alice", withSnapshot)
	if s := c.waitSubscribed(); s.GetPosition() != at {
		t.Fatalf("%v", s)
	}
	first := c.waitRows()
	if first.GetRowCount() != 1000 || !first.GetHasMore() || first.GetBatchNum() != 0 {
		t.Fatalf("%v", first)
	}
	// Row 10 was sent, rows 1500 and 1600 were not: they must come as if they had never been.
	sentUpdate := w.put("alice", 10, "a", "new")
	unsentUpdate := w.put("alice", 1500, "a", "new")
	unsentDelete := w.storage.Delete(messages, "alice", 1600)
	unsentTwice := w.put("alice", 1500, "a", "newer")
	sentDelete := w.storage.Delete(messages, "alice", 20)
	rows := int(first.GetRowCount())
	for num := uint32(1); ; num++ {
		c.nextBatch()
		r := c.waitRows()
		rows += int(r.GetRowCount())
		if r.GetBatchNum() != num {
			t.Fatalf("%v", r)
		}
		if got := decodeRows(r.GetRows()); got[1500] != "" || got[1600] != "" {
			t.Fatal("a row that changed after the snapshot is in it")
		}
		if !r.GetHasMore() {
			break
		}
	}
	if rows != 2498 {
		t.Fatalf("%d rows", rows)
	}
	for _, want := range []struct {
		seq  uint64
		kind livev1.Kind
	}{
		{sentUpdate, livev1.Kind_KIND_UPDATE}, {unsentUpdate, livev1.Kind_KIND_INSERT},
		{unsentTwice, livev1.Kind_KIND_UPDATE}, {sentDelete, livev1.Kind_KIND_DELETE},
	} {
		if ch := c.waitChanged(); ch.GetSeq() != want.seq || ch.GetKind() != want.kind {
			t.Fatalf("got %v, want %s %d (the deletion %d means nothing)", ch, want.kind, want.seq, unsentDelete)
		}
	}
}

// A client that asks before it got the batch is answered once for each.
func TestNextBatchAskedEarly(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 30 {
		w.put("alice", int64(i), "a", "x")
	}
	c := w.gateway().subscribe("alice", withSnapshot, withBatch(10))
	c.nextBatch()
	c.waitSubscribed()
	c.waitRows()
	c.nextBatch()
	c.nextBatch()
	for more := true; more; {
		r := c.waitRows()
		if more = r.GetHasMore(); more {
			c.nextBatch()
		}
	}
}

func TestBufferGivenUp(t *testing.T) {
	w := newWorld(t, Config{BufferRows: 5})
	for i := range 20 {
		w.put("alice", int64(i), "a", "old")
	}
	c := w.gateway().subscribe("alice", withSnapshot, withBatch(10))
	c.waitSubscribed()
	c.waitRows()
	var want []uint64
	for i := range 200 {
		want = append(want, w.put("alice", int64(i%40), "a", fmt.Sprint(i)))
	}
	// A second subscription of the partition is live, so the changes have been dispatched.
	probe := c.g.subscribe("alice")
	probe.waitSubscribed()
	want = append(want, w.put("alice", 1000, "a", "x"))
	probe.waitChanged()
	c.nextBatch()
	if r := c.waitRows(); r.GetHasMore() {
		t.Fatalf("%v", r)
	}
	for i, seq := range want {
		if ch := c.waitChanged(); ch.GetSeq() != seq {
			t.Fatalf("change %d: got %v, want %d", i, ch, seq)
		}
	}
	seq := w.put("alice", 1001, "a", "live again")
	if ch := c.waitChanged(); ch.GetSeq() != seq {
		t.Fatalf("%v", ch)
	}
	if n := w.live.hub.Counts().Reread.Load(); n != 1 {
		t.Fatalf("read again %d times", n)
	}
}

func TestHistoryGoneAfterTheBufferWasGivenUp(t *testing.T) {
	w := newWorld(t, Config{BufferRows: 1})
	for i := range 20 {
		w.put("alice", int64(i), "a", "old")
	}
	g := w.gateway()
	c, probe := g.subscribe("alice", withSnapshot, withBatch(10)), g.subscribe("alice")
	c.waitSubscribed()
	c.waitRows()
	probe.waitSubscribed()
	for i := range 10 {
		w.put("alice", int64(i), "a", "new")
		probe.waitChanged()
	}
	w.storage.Prune(messages, "alice")
	c.nextBatch()
	c.waitRows()
	if e := c.waitEnded(); e.GetCode() != string(dberr.Lagged) {
		t.Fatalf("%v", e)
	}
}

// The snapshot is ahead of the watch: what it holds must not come again as a change.
func TestSnapshotAheadOfTheWatch(t *testing.T) {
	w := newWorld(t, Config{})
	w.put("alice", 1, "a", "one")
	g := w.gateway()
	probe := g.subscribe("alice")
	probe.waitSubscribed()
	release := w.storage.Hold()
	w.put("alice", 1, "a", "uno")
	inSnapshot := w.put("alice", 2, "a", "two")
	c := g.subscribe("alice", withSnapshot)
	if s := c.waitSubscribed(); s.GetPosition() != inSnapshot {
		t.Fatalf("%v", s)
	}
	if r := c.waitRows(); r.GetRowCount() != 2 || r.GetHasMore() {
		t.Fatalf("%v", r)
	}
	seq := w.put("alice", 3, "a", "three")
	release()
	if ch := c.waitChanged(); ch.GetSeq() != seq {
		t.Fatalf("got %v, want %d", ch, seq)
	}
	for range 3 {
		probe.waitChanged()
	}
}

// Changes between the registration and the scan are in the buffer and in the snapshot.
func TestChangeBetweenRegistrationAndScan(t *testing.T) {
	w := newWorld(t, Config{})
	g := w.gateway()
	probe := g.subscribe("alice")
	probe.waitSubscribed()
	var once sync.Once
	w.storage.BeforeScan(func() {
		once.Do(func() {
			w.put("alice", 1, "a", "one")
			w.put("alice", 1, "a", "uno")
			probe.waitChanged() // the subscription registered before this scan, so it has them too
			probe.waitChanged()
		})
	})
	c := g.subscribe("alice", withSnapshot)
	c.waitSubscribed()
	if r := c.waitRows(); r.GetRowCount() != 1 || r.GetHasMore() {
		t.Fatalf("%v", r)
	}
	seq := w.put("alice", 2, "a", "two")
	if ch := c.waitChanged(); ch.GetSeq() != seq {
		t.Fatalf("%v", ch)
	}
}

// A page is read ahead of the watch, so the changes it has seen arrive after the snapshot.
func TestLaterPageAheadOfTheWatch(t *testing.T) {
	w := newWorld(t, Config{PageRows: 10})
	for i := range 20 {
		w.put("alice", int64(i), "a", "old")
	}
	g := w.gateway()
	probe := g.subscribe("alice")
	probe.waitSubscribed()
	c := g.subscribe("alice", withSnapshot, withBatch(10))
	c.waitSubscribed()
	c.waitRows()
	release := w.storage.Hold()
	unsent := w.put("alice", 15, "a", "new")
	w.storage.Delete(messages, "alice", 16)
	sent := w.put("alice", 5, "a", "new")
	c.nextBatch()
	if r := c.waitRows(); r.GetRowCount() != 8 || r.GetHasMore() {
		t.Fatalf("%v", r)
	}
	release()
	if ch := c.waitChanged(); ch.GetSeq() != unsent || ch.GetKind() != livev1.Kind_KIND_INSERT {
		t.Fatalf("%v", ch)
	}
	if ch := c.waitChanged(); ch.GetSeq() != sent || ch.GetKind() != livev1.Kind_KIND_UPDATE {
		t.Fatalf("%v", ch)
	}
}

// A scan that is behind the watch: the changes between are in neither rows nor buffer.
func TestSnapshotBehindTheWatch(t *testing.T) {
	w := newWorld(t, Config{})
	w.put("alice", 1, "a", "one")
	g := w.gateway()
	probe := g.subscribe("alice")
	probe.waitSubscribed()
	thaw := w.storage.FreezeScans()
	missing := w.put("alice", 2, "a", "two")
	probe.waitChanged()
	c := g.subscribe("alice", withSnapshot)
	if s := c.waitSubscribed(); s.GetPosition() != missing-1 {
		t.Fatalf("%v", s)
	}
	if r := c.waitRows(); r.GetRowCount() != 1 || r.GetHasMore() {
		t.Fatalf("%v", r)
	}
	thaw()
	if ch := c.waitChanged(); ch.GetSeq() != missing {
		t.Fatalf("%v", ch)
	}
}

func TestRowsTooLargeToOrder(t *testing.T) {
	w := newWorld(t, Config{PageRows: 1000})
	w.storage.LimitScans(20)
	for i := range 50 {
		w.put("alice", int64(i), "a", "x")
	}
	g := w.gateway()
	c := g.subscribe("alice", withSnapshot, withPush)
	c.waitSubscribed()
	rows := 0
	for more := true; more; {
		r := c.waitRows()
		rows += int(r.GetRowCount())
		more = r.GetHasMore()
	}
	if rows != 50 {
		t.Fatalf("%d rows", rows)
	}
	w.storage.LimitScans(1)
	if e := g.subscribe("alice", withSnapshot).waitEnded(); e.GetCode() != string(dberr.LimitExceeded) {
		t.Fatalf("%v", e)
	}
}

// The newest rows are more than a page may hold: the rest is read by further pages.
func TestLastRowsOfLargeRows(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 500 {
		w.put("alice", int64(i), "a", strings.Repeat("x", 10_000))
	}
	c := w.gateway().subscribe("alice", withSnapshot, withLast(300), withPush)
	c.waitSubscribed()
	next := int64(200)
	for more := true; more; {
		r := c.waitRows()
		more = r.GetHasMore()
		got := decodeRows(r.GetRows())
		for range got {
			if _, ok := got[next]; !ok {
				t.Fatalf("row %d is missing", next)
			}
			next++
		}
		if len(r.GetRows()) > 2<<20 {
			t.Fatalf("a batch of %d bytes", len(r.GetRows()))
		}
	}
	if next != 500 {
		t.Fatalf("ended before row %d", next)
	}
}

// A message that waits names who was subscribed when it was made, whoever leaves meanwhile.
func TestLeavingDoesNotRenameWaitingMessages(t *testing.T) {
	w := newWorld(t, Config{})
	g, other := w.gateway(), w.gateway()
	var all []*client
	for range 4 {
		c := g.subscribe("alice")
		c.waitSubscribed()
		all = append(all, c)
	}
	probe := other.subscribe("alice")
	probe.waitSubscribed()
	thaw := g.freeze()
	var want []uint64
	for i := range 20 {
		want = append(want, w.put("alice", int64(i), "a", "x"))
		probe.waitChanged()
	}
	all[0].unsubscribe()
	for w.live.hub.Stats().Subscriptions != 4 {
		w.storage.Position()
	}
	thaw()
	want = append(want, w.put("alice", 100, "a", "x"))
	for _, c := range all[1:] {
		for _, seq := range want {
			if ch := c.waitChanged(); ch.GetSeq() != seq {
				t.Fatalf("subscription %d got %v, want %d", c.id, ch, seq)
			}
		}
	}
}

func TestNoGapWhenTheChangeStreamBreaks(t *testing.T) {
	w := newWorld(t, Config{})
	g := w.gateway()
	c := g.subscribe("alice")
	c.waitSubscribed()
	var want []uint64
	read := 0
	catchUp := func() {
		for ; read < len(want); read++ {
			if ch := c.waitChanged(); ch.GetSeq() != want[read] {
				t.Fatalf("got %v, want %d", ch, want[read])
			}
		}
	}
	for i := range 30 {
		switch i % 10 {
		case 3:
			catchUp()
			w.storage.Break()
		case 5:
			catchUp()
			w.storage.Refuse(true)
			w.storage.Break()
		case 8:
			w.storage.Refuse(false)
		}
		want = append(want, w.put("alice", int64(i), "a", "x"))
	}
	catchUp()
	// Out of reach for longer than the change log: the client is told where to resume.
	w.storage.Refuse(true)
	w.storage.Break()
	w.put("alice", 100, "a", "missed")
	w.storage.Prune(messages, "alice")
	w.storage.Refuse(false)
	if e := c.waitEnded(); e.GetCode() != string(dberr.Lagged) || e.GetPosition() < want[len(want)-1] {
		t.Fatalf("%v", e)
	}
}

// A watch that started before the shard's first write is opened again from the very beginning.
func TestBreakBeforeTheFirstWrite(t *testing.T) {
	w := newWorld(t, Config{})
	w.storage.SetPosition(0)
	c := w.gateway().subscribe("alice")
	if s := c.waitSubscribed(); s.GetPosition() != 0 {
		t.Fatalf("%v", s)
	}
	w.storage.Refuse(true)
	w.storage.Break()
	w.storage.SetPosition(storagefake.FirstSeq)
	seq := w.put("alice", 1, "a", "x")
	w.storage.Refuse(false)
	if ch := c.waitChanged(); ch.GetSeq() != seq {
		t.Fatalf("%v", ch)
	}
}

func TestSlowGatewayLagsAlone(t *testing.T) {
	w := newWorld(t, Config{QueueMessages: 64})
	slow, fast := w.gateway(), w.gateway()
	a, idle, b := slow.subscribe("alice"), slow.subscribe("bob"), fast.subscribe("alice")
	for _, c := range []*client{a, idle, b} {
		c.waitSubscribed()
	}
	thaw := slow.freeze()
	var want []uint64
	for i := range 1000 {
		want = append(want, w.put("alice", int64(i), "a", strings.Repeat("x", 100)))
		if ch := b.waitChanged(); ch.GetSeq() != want[i] {
			t.Fatalf("the fast gateway got %v", ch)
		}
	}
	if st := w.live.hub.Stats(); st.QueueMessages > 80 {
		t.Fatalf("%d messages wait", st.QueueMessages)
	}
	thaw()
	i := 0
	var e *livev1.Ended
	for e == nil {
		m := a.next()
		if e = m.GetEnded(); e == nil {
			if m.GetChanged().GetSeq() != want[i] {
				t.Fatalf("got %v, want %d", m, want[i])
			}
			i++
		}
	}
	if e.GetCode() != string(dberr.Lagged) || i == len(want) || e.GetPosition() < want[i]-1 && i > 0 || e.GetPosition() >= want[i] {
		t.Fatalf("after %d changes: %v, next would have been %d", i, e, want[i])
	}
	// Nothing waited for bob, so he goes on.
	seq := w.put("bob", 1, "a", "x")
	if ch := idle.waitChanged(); ch.GetSeq() != seq {
		t.Fatalf("%v", ch)
	}
	// Resuming delivers the rest, though it is more than the queue holds.
	again := slow.subscribe("alice", withFrom(e.GetPosition()))
	again.waitSubscribed()
	for ; i < len(want); i++ {
		if ch := again.waitChanged(); ch.GetSeq() != want[i] {
			t.Fatalf("got %v, want %d", ch, want[i])
		}
	}
	if n := w.live.hub.Counts().Lagged.Load(); n != 1 {
		t.Fatalf("%d subscriptions lagged", n)
	}
}

func TestPushedSnapshotWaitsForRoom(t *testing.T) {
	w := newWorld(t, Config{QueueMessages: 8, PageRows: 50})
	for i := range 2000 {
		w.put("alice", int64(i), "a", "x")
	}
	g := w.gateway()
	thaw := g.freeze()
	c := g.subscribe("alice", withSnapshot, withPush, withBatch(10))
	// The queue is half full at most, however long nobody reads.
	for w.live.hub.Stats().QueueMessages < 4 {
		w.storage.Position()
	}
	thaw()
	c.waitSubscribed()
	rows := 0
	for more := true; more; {
		r := c.waitRows()
		rows += int(r.GetRowCount())
		more = r.GetHasMore()
	}
	if rows != 2000 || w.live.hub.Counts().Lagged.Load() != 0 {
		t.Fatalf("%d rows, %d lagged", rows, w.live.hub.Counts().Lagged.Load())
	}
}

func TestBookmarksForTheIdle(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(time.Second / 4)
		return now
	}
	w := newWorld(t, Config{Now: clock, ProgressInterval: config.Duration(time.Second)})
	c := w.gateway().subscribe("alice")
	c.waitSubscribed()
	seq := w.put("bob", 1, "a", "moves the shard")
	for {
		m := c.any()
		if m.GetProgress() == nil {
			t.Fatalf("%v", m)
		}
		if m.GetProgress().GetPosition() >= seq {
			break
		}
	}
	if list := w.live.hub.List(); list[0].GetPosition() < seq {
		t.Fatalf("%v", list)
	}
}

func TestStopTellsWhereToResume(t *testing.T) {
	w := newWorld(t, Config{})
	g := w.gateway()
	c := g.subscribe("alice")
	c.waitSubscribed()
	seq := w.put("alice", 1, "a", "x")
	c.waitChanged()
	if err := w.live.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := c.waitEnded(); e.GetCode() != string(dberr.Unavailable) || e.GetPosition() < seq {
		t.Fatalf("%v", e)
	}
	<-g.done
	w.live = New(Config{}, w.network)
	if err := w.live.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	missed := w.put("alice", 2, "a", "y")
	again := w.gateway().subscribe("alice", withFrom(seq))
	again.waitSubscribed()
	if ch := again.waitChanged(); ch.GetSeq() != missed {
		t.Fatalf("%v", ch)
	}
}

func TestStorageThatNeverStartsTheWatch(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	w := newWorld(t, Config{Now: clock})
	w.storage.Refuse(true)
	g := w.gateway()
	c, r := g.subscribe("alice"), g.subscribe("alice", withFrom(storagefake.FirstSeq))
	for w.live.hub.Stats().Subscriptions < 2 {
		w.storage.Position()
	}
	mu.Lock()
	now = now.Add(time.Hour)
	mu.Unlock()
	for _, c := range []*client{c, r} {
		if e := c.waitEnded(); e.GetCode() != string(dberr.Unavailable) {
			t.Fatalf("%v", e)
		}
	}
}

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
