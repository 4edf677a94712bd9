package live

import (
	"sync"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/live/internal/storagefake"
)

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
