package admission

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func TestGateBoundsRunningAndWaiting(t *testing.T) {
	g := New(2, 3)
	ctx := t.Context()
	var running, peak atomic.Int64
	hold := make(chan struct{})
	var wg sync.WaitGroup
	for range 5 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			leave, err := g.Enter(ctx)
			if err != nil {
				t.Errorf("within the limits: %v", err)
				return
			}
			defer leave()
			if n := running.Add(1); n > peak.Load() {
				peak.Store(n)
			}
			<-hold
			running.Add(-1)
		}()
	}
	for g.Running() < 2 || g.Waiting() < 3 {
		runtime.Gosched()
	}
	_, err := g.Enter(ctx)
	if !dberr.Is(err, dberr.RateLimited) || dberr.FieldOf(err, dberr.FieldRetryAfterMS) == "" {
		t.Errorf("past the limits: %v", err)
	}
	close(hold)
	wg.Wait()
	if peak.Load() > 2 {
		t.Errorf("%d ran at a time", peak.Load())
	}
	if g.Running() != 0 || g.Waiting() != 0 {
		t.Errorf("left behind: %d running, %d waiting", g.Running(), g.Waiting())
	}
}

func TestWaiterGivesItsPlaceBack(t *testing.T) {
	g := New(1, 1)
	leave, err := g.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.Enter(ctx); !dberr.Is(err, dberr.Canceled) {
		t.Fatalf("canceled waiter: %v", err)
	}
	if g.Waiting() != 0 {
		t.Errorf("%d still wait", g.Waiting())
	}
	leave()
	if leave, err = g.Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	leave()
}
