package rpcnet

import (
	"context"
	"maps"
	"sync"

	"google.golang.org/grpc"
)

// callTracker lets Stop wait for running calls, direct ones included (grpc.Server knows only those
// that came over a socket), and cut them when patience ends.
type callTracker struct {
	root context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
	mu   sync.Mutex // guards closed, and wg.Add against a wait
	// closed: Stop waits; whoever comes now would run after it.
	closed bool
	// running counts the calls of each method, for whoever asks why stopping takes so long.
	running map[string]int
}

func newCallTracker() *callTracker {
	ctx, cancel := context.WithCancel(context.Background())
	return &callTracker{root: ctx, stop: cancel, running: map[string]int{}}
}

// begin counts a call; ok is false when Stop no longer waits for it.
func (t *callTracker) begin(ctx context.Context, method string) (call context.Context, end func(), ok bool) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return ctx, nil, false
	}
	t.wg.Add(1)
	t.running[method]++
	t.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(t.root, cancel)
	return ctx, func() {
		unhook()
		cancel()
		t.mu.Lock()
		if t.running[method]--; t.running[method] == 0 {
			delete(t.running, method)
		}
		t.mu.Unlock()
		t.wg.Done()
	}, true
}

// methods are those of the calls that run now.
func (t *callTracker) methods() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.running)
}

func (t *callTracker) wait() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wg.Wait()
}

func (t *callTracker) cancel() { t.stop() }

func chainUnary(in []grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		for i := len(in) - 1; i >= 0; i-- {
			next, icept := h, in[i]
			h = func(ctx context.Context, req any) (any, error) { return icept(ctx, req, info, next) }
		}
		return h(ctx, req)
	}
}

func chainStream(in []grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		for i := len(in) - 1; i >= 0; i-- {
			next, icept := h, in[i]
			h = func(srv any, ss grpc.ServerStream) error { return icept(srv, ss, info, next) }
		}
		return h(srv, ss)
	}
}
