package catalogstate

import (
	"context"
	"testing"
	"time"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// Every tick is one sign of life, after the snapshot and without a version.
func TestAWatcherHearsSignsOfLife(t *testing.T) {
	a := openState(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ticks, sent, done := make(chan time.Time), make(chan *catalogv1.WatchResponse), make(chan error, 1)
	go func() {
		done <- a.state.Watch(ctx, func(m *catalogv1.WatchResponse) error { sent <- m; return nil }, ticks)
	}()
	if m := <-sent; m.GetSnapshot() == nil {
		t.Fatalf("got %v first", m)
	}
	for range 3 {
		ticks <- time.Time{}
		if m := <-sent; m.GetAlive() == nil || m.GetVersion() != 0 {
			t.Fatalf("got %v", m)
		}
	}
	cancel()
	<-done
}
