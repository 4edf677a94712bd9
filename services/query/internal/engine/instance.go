package engine

/*
#include <stdlib.h>
#include "bridge.h"
*/
import "C"

import (
	"context"
	"errors"
	"runtime/cgo"
	"sync"
	"unsafe"

	duckdb "github.com/duckdb/duckdb-go-bindings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// errRetired sends a waiter to the instance that followed.
var errRetired = errors.New("instance is retired")

// instance is one DuckDB and its pool of connections. It closes when it has been retired and its last
// connection is back.
type instance struct {
	db      duckdb.Database
	threads int
	handle  cgo.Handle // this instance, for callbacks
	scalars []cgo.Handle
	slots   chan struct{} // one token per connection in use

	mu      sync.Mutex // guards what follows
	byID    map[uint64]*conn
	idle    []*conn
	inUse   int
	retired bool
	closed  chan struct{} // closed when everything is freed
}

func openInstance(cfg Config) (*instance, error) {
	db, err := open(cfg)
	if err != nil {
		return nil, err
	}
	in := &instance{db: db, threads: cfg.Threads, slots: make(chan struct{}, cfg.Connections),
		byID: map[uint64]*conn{}, closed: make(chan struct{})}
	in.handle = cgo.NewHandle(in)
	if err := in.setUp(cfg); err != nil {
		in.retire()
		return nil, err
	}
	return in, nil
}

// setUp registers our functions and locks the configuration.
func (in *instance) setUp(cfg Config) error {
	var c duckdb.Connection
	if duckdb.Connect(in.db, &c) == duckdb.StateError {
		return dberr.New(dberr.Internal, "connect to the engine")
	}
	defer duckdb.Disconnect(&c)
	name := C.CString(scanFunction)
	defer C.free(unsafe.Pointer(name))
	if !C.kalam_register_scan(c.Ptr, name, C.uintptr_t(in.handle)) {
		return dberr.New(dberr.Internal, "register %s", scanFunction)
	}
	for _, f := range scalarFunctions(cfg) {
		f.in = in
		h, err := f.register(c)
		in.scalars = append(in.scalars, h)
		if err != nil {
			return err
		}
	}
	return lock(c)
}

// connection finds a connection by DuckDB's id; nil when it is not one of ours.
func (in *instance) connection(id uint64) *conn {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.byID[id]
}

// acquire waits for a free connection.
func (in *instance) acquire(ctx context.Context) (*conn, error) {
	select {
	case in.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ended(ctx, "waiting for one of the engine's %d connections", cap(in.slots))
	}
	c, err := in.take()
	if err != nil {
		<-in.slots
	}
	return c, err
}

func (in *instance) take() (*conn, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.retired {
		return nil, errRetired
	}
	in.inUse++
	if n := len(in.idle); n > 0 {
		c := in.idle[n-1]
		in.idle = in.idle[:n-1]
		return c, nil
	}
	c := &conn{in: in}
	if duckdb.Connect(in.db, &c.h) == duckdb.StateError {
		in.inUse--
		return nil, dberr.New(dberr.Internal, "connect to the engine")
	}
	if err := exec(c.h, sessionSetting); err != nil {
		in.inUse--
		duckdb.Disconnect(&c.h)
		return nil, dberr.New(dberr.Internal, "connect to the engine: %w", err)
	}
	c.id = uint64(C.kalam_connection_id(c.h.Ptr))
	in.byID[c.id] = c
	return c, nil
}

// release gives a connection back.
func (in *instance) release(c *conn) {
	in.mu.Lock()
	in.inUse--
	in.idle = append(in.idle, c)
	last := in.retired && in.inUse == 0
	in.mu.Unlock()
	if last {
		in.free()
	}
	<-in.slots
}

// retire lets the instance close as soon as nobody uses it.
func (in *instance) retire() {
	in.mu.Lock()
	already := in.retired
	in.retired = true
	last := in.inUse == 0 && !already
	in.mu.Unlock()
	if last {
		in.free()
	}
}

// free runs once, when no connection is in use and none can be taken.
func (in *instance) free() {
	for _, c := range in.idle {
		c.close()
	}
	duckdb.Close(&in.db)
	for _, h := range in.scalars {
		h.Delete()
	}
	in.handle.Delete()
	close(in.closed)
}
