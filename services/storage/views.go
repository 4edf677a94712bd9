package storage

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/shard"
)

const (
	// viewLease is how long a view is kept that nobody reads: whoever asked for it may be gone.
	viewLease = 5 * time.Minute
	// viewsMax bounds the views of a node: each keeps what the store would otherwise have let go of.
	viewsMax = 4096
	// backupWritersMax is how many shards' parts a node writes at a time. The others wait, with their views.
	backupWritersMax = 2
)

// views are the shards' states that backups read. They belong to the node: it may lead the shard no longer.
type views struct {
	mu     sync.Mutex
	held   map[viewKey]*heldView
	ended  chan struct{} // closed by end; nil until the first view
	closed bool
	work   sync.WaitGroup // those in use
	room   chan struct{}
}

type viewKey struct {
	cut   string
	shard uint32
}

// heldView is closed when it is neither held nor in use.
type heldView struct {
	view  *shard.View
	users int
	held  bool
	lease *time.Timer
}

// init makes what the first view needs. mu is held.
func (v *views) init() {
	if v.held == nil {
		v.held, v.ended, v.room = map[viewKey]*heldView{}, make(chan struct{}), make(chan struct{}, backupWritersMax)
	}
}

// put holds a view until it is dropped, or nobody has used it for viewLease.
func (v *views) put(k viewKey, view *shard.View) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.init()
	if v.closed || len(v.held) >= viewsMax {
		return errors.Join(dberr.New(dberr.Unavailable, "this node is stopping, or holds %d views already (viewsMax)", viewsMax), view.Close())
	}
	v.dropLocked(k)
	h := &heldView{view: view, held: true}
	h.lease = time.AfterFunc(viewLease, func() { v.expire(k, h) })
	v.held[k] = h
	return nil
}

func (v *views) expire(k viewKey, h *heldView) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.held[k] == h {
		v.dropLocked(k)
	}
}

// use returns a view for reading. ctx ends with the node; call release at the end.
func (v *views) use(ctx context.Context, k viewKey) (of context.Context, view *shard.View, release func(), err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	h, ok := v.held[k]
	if !ok || v.closed {
		return nil, nil, nil, dberr.New(dberr.Unavailable, "this node has no view of shard %d for the backup (any more): it makes a new cut", k.shard)
	}
	h.users++
	h.lease.Stop() // it is in use
	v.work.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with ctx, which release ends
		select {
		case <-v.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, h.view, func() {
		cancel()
		v.release(h)
	}, nil
}

func (v *views) release(h *heldView) {
	v.mu.Lock()
	defer v.mu.Unlock()
	h.users--
	h.lease.Reset(viewLease)
	h.closeUnused()
	v.work.Done()
}

func (h *heldView) closeUnused() {
	if h.users == 0 && !h.held {
		h.lease.Stop()
		_ = h.view.Close() // it was only read
	}
}

// drop lets go of a view.
func (v *views) drop(k viewKey) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dropLocked(k)
}

func (v *views) dropLocked(k viewKey) {
	h, ok := v.held[k]
	if !ok {
		return
	}
	delete(v.held, k)
	h.held = false
	h.closeUnused()
}

// each visits the views.
func (v *views) each(visit func(shard uint32, snap *pebble.Snapshot) error) error {
	v.mu.Lock()
	keys := make([]viewKey, 0, len(v.held))
	for k := range v.held {
		keys = append(keys, k)
	}
	v.mu.Unlock()
	for _, k := range keys {
		_, view, release, err := v.use(context.Background(), k)
		if err != nil {
			continue // dropped meanwhile
		}
		err = visit(k.shard, view.Snapshot)
		release()
		if err != nil {
			return err
		}
	}
	return nil
}

// enter waits for a place to write a part. Call the result at the end.
func (v *views) enter(ctx context.Context) (func(), error) {
	select {
	case v.room <- struct{}{}:
		return func() { <-v.room }, nil
	case <-ctx.Done():
		return nil, dberr.FromStatus(ctx.Err())
	}
}

// end lets go of all views and waits for those who read: the node stops.
func (v *views) end() {
	v.mu.Lock()
	v.init()
	if !v.closed {
		v.closed = true
		close(v.ended)
	}
	for k := range v.held {
		v.dropLocked(k)
	}
	v.mu.Unlock()
	v.work.Wait()
}
