package host

import (
	"context"
	"errors"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// plainRole is nothing but a role.
type plainRole struct{}

func (plainRole) Name() string                { return "plain" }
func (plainRole) Start(context.Context) error { return nil }
func (plainRole) Stop(context.Context) error  { return nil }

func TestLazyIsMadeAtItsStart(t *testing.T) {
	var events []string
	made := 0
	inner := &fakeRole{name: "inner", events: &events, failed: make(chan struct{}), err: errors.New("gone")}
	l := NewLazy("outer", func() (Role, error) { made++; return inner, nil })
	if err := l.Stop(t.Context()); err != nil || made != 0 || l.Name() != "outer" {
		t.Fatalf("before its start: %v, made %d", err, made)
	}
	if err := l.Start(t.Context()); err != nil || made != 1 {
		t.Fatal(err, made)
	}
	select {
	case <-l.Failed():
		t.Fatal("failed")
	default:
	}
	close(inner.failed)
	<-l.Failed()
	if err := l.Err(); err == nil || err.Error() != "gone" {
		t.Error(err)
	}
	if err := l.Stop(t.Context()); err != nil || events[len(events)-1] != "stop inner" {
		t.Error(err, events)
	}
}

func TestLazyCannotBeMade(t *testing.T) {
	boom := dberr.New(dberr.InvalidArgument, "boom")
	l := NewLazy("outer", func() (Role, error) { return nil, boom })
	if err := l.Start(t.Context()); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if err := l.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestLazyPassesOnWhatTheRoleCan(t *testing.T) {
	plain := NewLazy("p", func() (Role, error) { return plainRole{}, nil })
	full := &door{starting: func() {}, stopping: func() {}}
	able := NewLazy("a", func() (Role, error) { return full, nil })
	for _, l := range []*Lazy{plain, able} {
		if err := l.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := l.Ready(t.Context()); err != nil || l.Err() != nil {
			t.Errorf("%s: %v, %v", l.Name(), err, l.Err())
		}
		select {
		case <-l.Failed():
			t.Errorf("%s failed", l.Name())
		default:
		}
	}
	if plain.Greeting() != "" || able.Greeting() != full.Greeting() {
		t.Errorf("greetings %q, %q", plain.Greeting(), able.Greeting())
	}
	var why error = dberr.New(dberr.Unavailable, "not now")
	full.ready.Store(&why)
	if err := able.Ready(t.Context()); !errors.Is(err, why) {
		t.Error(err)
	}
}
