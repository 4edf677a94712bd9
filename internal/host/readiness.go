package host

import (
	"context"
	"sync/atomic"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// readiness joins what the roles say.
type readiness struct {
	roles   []Role
	started atomic.Bool // all have started and none stops
}

func (r *readiness) check(ctx context.Context) error {
	if !r.started.Load() {
		return dberr.New(dberr.Unavailable, "the process is starting or stopping")
	}
	for _, role := range r.roles {
		if can, ok := role.(Readier); ok {
			if err := can.Ready(ctx); err != nil {
				return dberr.New(dberr.CodeOf(err), "%s: %w", role.Name(), err)
			}
		}
	}
	return nil
}

// Lazy is a Role that is made when it starts: what it needs is known only after the roles before it have
// started.
type Lazy struct {
	name  string
	build func() (Role, error)
	role  Role
	never chan struct{} // stays open, for roles that do not fail
}

// NewLazy makes one.
func NewLazy(name string, build func() (Role, error)) *Lazy {
	return &Lazy{name: name, build: build, never: make(chan struct{})}
}

// Name is the role's name.
func (l *Lazy) Name() string { return l.name }

// Start makes the role and starts it.
func (l *Lazy) Start(ctx context.Context) (err error) {
	if l.role, err = l.build(); err != nil {
		return err
	}
	return l.role.Start(ctx)
}

// Stop stops the role.
func (l *Lazy) Stop(ctx context.Context) error {
	if l.role == nil {
		return nil
	}
	return l.role.Stop(ctx)
}

// Failed is the role's; it is asked for after Start.
func (l *Lazy) Failed() <-chan struct{} {
	if f, ok := l.role.(Failer); ok {
		return f.Failed()
	}
	return l.never
}

// Err is the role's.
func (l *Lazy) Err() error {
	if f, ok := l.role.(Failer); ok {
		return f.Err()
	}
	return nil
}

// Ready is the role's.
func (l *Lazy) Ready(ctx context.Context) error {
	if r, ok := l.role.(Readier); ok {
		return r.Ready(ctx)
	}
	return nil
}

// Greeting is the role's.
func (l *Lazy) Greeting() string {
	if g, ok := l.role.(Greeter); ok {
		return g.Greeting()
	}
	return ""
}
