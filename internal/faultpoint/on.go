//go:build invariants

package faultpoint

import "sync"

var (
	mu    sync.RWMutex
	hooks = map[string]func() error{}
)

// Hit calls what a test has set for the place, and returns its error.
func Hit(name string) error {
	mu.RLock()
	f := hooks[name]
	mu.RUnlock()
	if f == nil {
		return nil
	}
	return f()
}

// Set has f called at the place, by whoever gets there; nil removes it.
func Set(name string, f func() error) {
	mu.Lock()
	defer mu.Unlock()
	if f == nil {
		delete(hooks, name)
		return
	}
	hooks[name] = f
}
