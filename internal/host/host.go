// Package host starts roles in order, waits, and stops them in reverse: the life of a process.
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/pprof"
	"strings"
	"sync"
	"time"
)

// Role is one part of a node. Start returns once the role serves; Stop drains it, no longer than ctx
// allows.
type Role interface {
	Name() string
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
}

// Failer is a Role that can die on its own, e.g. when its disk fails.
type Failer interface {
	// Failed is closed when the role can no longer serve; Err says why.
	Failed() <-chan struct{}
	Err() error
}

// Host is the running roles of one process.
type Host struct {
	roles  []Role // in order of start
	log    *slog.Logger
	failed chan error

	stopping chan struct{}
	watchers sync.WaitGroup
}

// Start starts roles one after another: each may dial those before it. If one fails, those already
// started are stopped and the error is returned.
func Start(ctx context.Context, log *slog.Logger, roles ...Role) (*Host, error) {
	h := &Host{log: log, failed: make(chan error, len(roles)), stopping: make(chan struct{})}
	for _, r := range roles {
		began := time.Now()
		if err := r.Start(ctx); err != nil {
			err = fmt.Errorf("start %s: %w", r.Name(), err)
			return nil, errors.Join(err, h.Stop(context.WithoutCancel(ctx), stopAfterFailure))
		}
		h.roles = append(h.roles, r)
		h.watch(r)
		log.InfoContext(ctx, "role started", "role", r.Name(), "took", time.Since(began))
	}
	return h, nil
}

// stopAfterFailure bounds the stop of roles when a later one did not start.
const stopAfterFailure = 10 * time.Second

func (h *Host) watch(r Role) {
	f, ok := r.(Failer)
	if !ok {
		return
	}
	h.watchers.Add(1)
	go func() {
		defer h.watchers.Done()
		select {
		case <-h.stopping:
		case <-f.Failed():
			if err := f.Err(); err != nil {
				h.failed <- fmt.Errorf("%s: %w", r.Name(), err)
			}
		}
	}()
}

// stacks says what runs, each kind once: the reason why a stop hangs is known only there.
func stacks() string {
	var b strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		return err.Error()
	}
	return b.String()
}

// Wait returns when ctx ends (nil) or a role dies (its error).
func (h *Host) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-h.failed:
		return err
	}
}

// Stop stops the roles in reverse order of start, all together within the given time. Call it once.
func (h *Host) Stop(ctx context.Context, within time.Duration) error {
	close(h.stopping)
	h.watchers.Wait()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var errs []error
	for i := len(h.roles) - 1; i >= 0; i-- {
		r := h.roles[i]
		if err := r.Stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", r.Name(), err))
		}
		if ctx.Err() != nil {
			h.log.WarnContext(ctx, "stopping took all its time", "role", r.Name(), "running", stacks())
		}
		h.log.InfoContext(ctx, "role stopped", "role", r.Name())
	}
	h.roles = nil
	return errors.Join(errs...)
}
