package shard

import (
	"context"
	"slices"
	"sync"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// reservations hold the keys that commands on their way touch, from before they are decided until
// they are applied: what was read to decide stays true. Writers of one key wait in the order they
// came. Everybody takes keys in ascending order, so nobody waits in a circle.
type reservations struct {
	mu   sync.Mutex
	held map[string]*queue // nil queue: held, nobody waits
}

type queue struct{ waiting []chan struct{} }

func newReservations() *reservations { return &reservations{held: map[string]*queue{}} }

// acquire takes all keys, which must be sorted and distinct, or none.
func (r *reservations) acquire(ctx context.Context, keys []string) error {
	for i := 0; i < len(keys); {
		n, turn := r.take(keys[i:])
		i += n
		if turn == nil {
			continue
		}
		select {
		case <-turn:
			i++
		case <-ctx.Done():
			r.leave(keys[i], turn)
			r.release(keys[:i])
			return dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "wait for another write of the same row: %w", ctx.Err())
		}
	}
	return nil
}

// take takes free keys up to the first that is held, and queues for that one.
func (r *reservations) take(keys []string) (taken int, turn chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, k := range keys {
		q, held := r.held[k]
		if !held {
			r.held[k] = nil
			continue
		}
		if q == nil {
			q = &queue{}
			r.held[k] = q
		}
		turn = make(chan struct{})
		q.waiting = append(q.waiting, turn)
		return i, turn
	}
	return len(keys), nil
}

// leave gives up waiting; a turn that came meanwhile is passed on.
func (r *reservations) leave(key string, turn chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q := r.held[key]; q != nil {
		if i := slices.Index(q.waiting, turn); i >= 0 {
			q.waiting = slices.Delete(q.waiting, i, i+1)
			return
		}
	}
	r.pass(key)
}

func (r *reservations) release(keys []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range keys {
		r.pass(k)
	}
}

// pass hands a key to the next in line, or frees it. mu is held.
func (r *reservations) pass(key string) {
	q := r.held[key]
	if q == nil || len(q.waiting) == 0 {
		delete(r.held, key)
		return
	}
	close(q.waiting[0])
	q.waiting = q.waiting[1:]
}
