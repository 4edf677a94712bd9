package feed

import (
	"context"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/router"
)

// shard is the watches of a shard and where they are. They move together: a shard has one leader.
type shard struct {
	id uint32
	// deliver is held while a sink of the shard is called: streams to the former and to the present leader may
	// both have something to say.
	deliver sync.Mutex

	// The fields below belong to Feed.mu.

	watches map[*Watch]struct{}
	on      *stream // nil: nowhere
	// moves counts the moves since a watch was last started. The first follows the hint at once; after that
	// the hints may go in a circle, and the shard waits for the next try.
	moves int
	waits bool
}

// shard finds or makes a shard. mu is held.
func (f *Feed) shard(id uint32) *shard {
	sh := f.shards[id]
	if sh == nil {
		sh = &shard{id: id, watches: map[*Watch]struct{}{}}
		f.shards[id] = sh
	}
	return sh
}

// place opens a shard's watches where its leader is believed to be, unless that is the address that just
// said no. mu is held.
func (f *Feed) place(sh *shard, refused string) {
	if sh.waits = len(sh.watches) > 0; !sh.waits || f.run == nil || f.run.Err() != nil {
		return
	}
	addr, ok := f.routes.Leader(router.ShardGroup(sh.id))
	if !ok || addr == refused {
		return
	}
	sh.waits = false
	sh.on = f.stream(addr)
	for w := range sh.watches {
		w.refused = false
		sh.on.request(w)
	}
}

// leave takes a shard's watches off the stream that no longer serves them, and opens them elsewhere. Each
// stays at its position. mu is held.
func (f *Feed) leave(sh *shard, s *stream, err error) {
	if sh.on != s {
		return // another watch's refusal came first
	}
	sh.on = nil
	for w := range sh.watches {
		w.suspend(!s.closed)
	}
	f.routes.Learn(router.ShardGroup(sh.id), s.addr, err)
	sh.moves++
	if sh.moves > 1 {
		sh.waits = true
		return
	}
	f.place(sh, s.addr)
}

// tend tries again what could not be placed, and closes streams that nobody needs.
func (f *Feed) tend(ctx context.Context) {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			f.again()
			f.closeIdle(now)
		}
	}
}

func (f *Feed) again() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, sh := range f.shards {
		if sh.waits {
			f.place(sh, "")
			continue
		}
		if sh.on == nil || !sh.refusals() {
			continue
		}
		for w := range sh.watches {
			if w.refused {
				w.refused = false
				sh.on.request(w)
			}
		}
	}
}

// refusals reports whether a watch of the shard waits to be asked for again.
func (sh *shard) refusals() bool {
	for w := range sh.watches {
		if w.refused {
			return true
		}
	}
	return false
}

// closeIdle closes the streams that have had no watch for idleAfter.
func (f *Feed) closeIdle(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.streams {
		switch {
		case len(s.watches) > 0:
			s.idle = time.Time{}
		case s.idle.IsZero():
			s.idle = now
		case now.Sub(s.idle) >= idleAfter:
			f.abandon(s)
		}
	}
}

// abandon closes a stream that has no watches. mu is held.
func (f *Feed) abandon(s *stream) {
	s.close()
	for _, sh := range f.shards {
		if sh.on == s {
			sh.on = nil
		}
	}
}
