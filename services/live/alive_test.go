package live

import (
	"context"
	"testing"

	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// A silent stream gives signs of life when it is asked to; a gateway that does not know them gets none.
func TestSignsOfLife(t *testing.T) {
	w := newWorld(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	old := w.gateway()
	old.send(&livev1.ConnectRequest{Request: &livev1.ConnectRequest_NextBatch{NextBatch: 9}})
	asks, err := w.client.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // asking again changes nothing
		if err := asks.Send(&livev1.ConnectRequest{Alive: true, Request: &livev1.ConnectRequest_NextBatch{NextBatch: 9}}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		m, err := asks.Recv()
		if err != nil || m.GetAlive() == nil {
			t.Fatalf("got %v, %v", m, err)
		}
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	if len(old.counts) != 0 {
		t.Errorf("who did not ask got %v", old.counts)
	}
}
