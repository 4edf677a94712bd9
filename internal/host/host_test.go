package host

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

type fakeRole struct {
	name   string
	events *[]string
	fail   error
	failed chan struct{}
	err    error
}

func (r *fakeRole) Name() string { return r.name }
func (r *fakeRole) Start(context.Context) error {
	*r.events = append(*r.events, "start "+r.name)
	return r.fail
}
func (r *fakeRole) Stop(context.Context) error {
	*r.events = append(*r.events, "stop "+r.name)
	return nil
}
func (r *fakeRole) Failed() <-chan struct{} { return r.failed }
func (r *fakeRole) Err() error              { return r.err }

func TestStopsInReverse(t *testing.T) {
	var ev []string
	a, b := &fakeRole{name: "a", events: &ev}, &fakeRole{name: "b", events: &ev}
	h, err := Start(context.Background(), slog.New(slog.DiscardHandler), a, b)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(context.Background(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(ev, ", "); got != "start a, start b, stop b, stop a" {
		t.Fatal(got)
	}
}

func TestFailedStartStopsTheOthers(t *testing.T) {
	var ev []string
	boom := errors.New("boom")
	_, err := Start(context.Background(), slog.New(slog.DiscardHandler),
		&fakeRole{name: "a", events: &ev}, &fakeRole{name: "b", events: &ev, fail: boom})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if got := strings.Join(ev, ", "); got != "start a, start b, stop a" {
		t.Fatal(got)
	}
}

func TestWaitReturnsWhenARoleDies(t *testing.T) {
	var ev []string
	r := &fakeRole{name: "a", events: &ev, failed: make(chan struct{}), err: errors.New("disk gone")}
	h, err := Start(context.Background(), slog.New(slog.DiscardHandler), r)
	if err != nil {
		t.Fatal(err)
	}
	close(r.failed)
	if err := h.Wait(context.Background()); err == nil || !strings.Contains(err.Error(), "disk gone") {
		t.Fatal(err)
	}
}
