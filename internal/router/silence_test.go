package router

import (
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/silence"
)

// Whoever hears a node fall silent on a stream tells the router, which believes nobody who still names that node.
func TestASilentNodeIsNotGoneBackTo(t *testing.T) {
	w := newWorld(t, 3)
	r := w.router(nil)
	was := w.nodes[0].addr
	r.Learn(CatalogGroup, was, nil)
	r.Learn(CatalogGroup, was, dberr.New(dberr.Unavailable, "the change stream from %s broke: %w", was, silence.Err))
	stale := dberr.New(dberr.NotLeader, "ask another").With(dberr.FieldLeader, w.nodes[0].id)
	for range 10 {
		addr, ok := r.Leader(CatalogGroup)
		if !ok || addr == was {
			t.Fatalf("the leader is believed to be at %q", addr)
		}
		r.Learn(CatalogGroup, addr, stale)
	}
}

// A call that takes long says nothing about its node, as long as the node says anything at all.
func TestASlowCallDoesNotCondemnItsNode(t *testing.T) {
	w := newWorld(t, 3)
	r := w.router(func(c *Config) { c.AttemptTimeout, c.RetryFor = 20*time.Millisecond, 200*time.Millisecond })
	w.mu.Lock()
	for _, n := range w.nodes {
		n.hang = true
	}
	w.mu.Unlock()
	if _, err := get(t.Context(), r, "x"); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("calls that hang: %v", err)
	}
	for _, n := range w.nodes {
		if r.silent.is(n.addr) {
			t.Errorf("%s is passed over", n.addr)
		}
	}
}
