package outbox

import (
	"context"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// hasRoom says that those who can wait may add. q.mu is held.
func (q *Queue) hasRoom() bool {
	return q.data*roomDivisor < q.limits.Messages && q.bytes*roomDivisor < q.limits.Bytes
}

// signalRoom wakes those in WaitRoom. q.mu is held.
func (q *Queue) signalRoom() {
	close(q.room)
	q.room = make(chan struct{})
}

// Room reports whether those who can wait may add.
func (q *Queue) Room() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.hasRoom()
}

// OnRoom calls f once, when there is room. It is whoever takes from the queue that calls f, so the
// caller may hold locks that f needs. When the stream is gone f is not called at all.
func (q *Queue) OnRoom(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.onRoom = append(q.onRoom, f)
	q.signal() // there may be room by now, and nothing to take
}

// WaitRoom returns when there is room.
func (q *Queue) WaitRoom(ctx context.Context) error {
	for {
		q.mu.Lock()
		ready, closed, room := q.hasRoom(), q.closed, q.room
		q.mu.Unlock()
		switch {
		case closed:
			return dberr.New(dberr.Canceled, "the stream has ended")
		case ready:
			return nil
		}
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
