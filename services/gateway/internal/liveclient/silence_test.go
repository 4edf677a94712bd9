package liveclient

import (
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/silence"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/liveclient/fakelive"
)

// setUpTicks is setUpNodes with a clock that the test drives: the streams share it.
func setUpTicks(t *testing.T, nodes ...string) (c *Client, roles map[string]*fakelive.Role, tick func(n int)) {
	t.Helper()
	ticks := make(chan time.Time)
	c, _, roles = setUpNodes(t, Config{}, nodes...)
	c.ticker = func() (<-chan time.Time, func()) { return ticks, func() {} }
	return c, roles, func(n int) {
		t.Helper()
		for range n {
			select {
			case ticks <- time.Time{}:
			case <-t.Context().Done():
				t.Fatal("nobody listens")
			}
		}
	}
}

func TestASilentLiveNodeIsLeft(t *testing.T) {
	c, roles, tick := setUpTicks(t, "a", "b")
	q := NewQueue()
	sub, err := c.Subscribe(t.Context(), ofUser(userOf(c, "a")), q)
	if err != nil {
		t.Fatal(err)
	}
	m := roles["a"].Next(t)
	if !m.GetAlive() {
		t.Error("the gateway did not ask for signs of life")
	}
	id := m.GetSubscribe().GetSubscription()
	roles["a"].Subscribed(t, &livev1.Subscribed{Subscription: id, Position: 50})
	roles["a"].Alive(t)
	roles["a"].Changed(t, &livev1.Changed{Subscriptions: []uint64{id}, Seq: 60})
	if next(t, q).GetSubscribed() == nil {
		t.Fatal("no acknowledgement")
	}
	wantChange(t, q, 60)
	wantPosition(t, sub, 60)
	tick(silence.Ticks) // the node says nothing, and closes nothing
	moved := roles["b"].Next(t).GetSubscribe()
	if moved.GetFromSeq() != 60 {
		t.Fatalf("moved to position %d", moved.GetFromSeq())
	}
	roles["b"].Subscribed(t, &livev1.Subscribed{Subscription: moved.GetSubscription(), Position: 60})
	roles["b"].Changed(t, &livev1.Changed{Subscriptions: []uint64{moved.GetSubscription()}, Seq: 61})
	wantChange(t, q, 61)
}

func TestWhoSpeaksIsNotLeft(t *testing.T) {
	c, roles, tick := setUpTicks(t, "a", "b")
	q := NewQueue()
	if _, err := c.Subscribe(t.Context(), ofUser(userOf(c, "a")), q); err != nil {
		t.Fatal(err)
	}
	a := roles["a"]
	id := a.Subscribe(t).GetSubscription()
	a.Subscribed(t, &livev1.Subscribed{Subscription: id, Position: 50})
	next(t, q)
	tick(3 * silence.Ticks) // an older node, which gives no signs of life
	a.Alive(t)
	for seq := uint64(60); seq < 70; seq++ {
		a.Changed(t, &livev1.Changed{Subscriptions: []uint64{id}, Seq: seq})
		wantChange(t, q, seq)
		tick(silence.Ticks - 2) // the last of a round may count in the next one
	}
	if counts, _, _ := c.Stats(); counts.Broken != 0 {
		t.Errorf("%d streams broke", counts.Broken)
	}
}
