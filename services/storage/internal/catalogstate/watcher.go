package catalogstate

import (
	"context"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// watchQueueMax bounds what one slow watcher holds in memory. Past it the watch is cut and the watcher
// starts over with a snapshot: nothing is left out in silence. Logins are events too, so it is generous.
const watchQueueMax = 4096

// watcher is one stream of events.
type watcher struct {
	events chan *catalogv1.WatchResponse
	err    error // set before events is closed
}

// offer queues events; false ends the watch.
func (w *watcher) offer(events []*catalogv1.WatchResponse) bool {
	for _, e := range events {
		select {
		case w.events <- e:
		default:
			w.end(dberr.New(dberr.Lagged, "the watcher is more than %d catalog changes behind (watchQueueMax)", watchQueueMax))
			return false
		}
	}
	return true
}

func (w *watcher) end(err error) {
	w.err = err
	close(w.events)
}

// aliveEvery is how often a watcher that asked for it hears something; it gives up after 2.5 s.
const aliveEvery = time.Second

// Watch sends the catalog as it is and then every change in commit order, and an Alive at each tick, until ctx
// ends, send fails or the watcher is too slow.
func (s *State) Watch(ctx context.Context, send func(*catalogv1.WatchResponse) error, ticks <-chan time.Time) error {
	w := &watcher{events: make(chan *catalogv1.WatchResponse, watchQueueMax)}
	s.mu.Lock()
	first := s.model.Load().snapshot() // with registering, under the lock that orders events
	s.watchers[w] = struct{}{}
	s.mu.Unlock()
	defer s.forget(w)
	if err := send(first); err != nil {
		return err
	}
	for {
		select {
		case e, ok := <-w.events:
			if !ok {
				return w.err
			}
			if err := send(e); err != nil {
				return err
			}
		case <-ticks:
			if err := send(&catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_Alive{Alive: &catalogv1.Alive{}}}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *State) forget(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, w)
}

// EndWatches cuts all watches: they begin again with a snapshot, elsewhere if need be.
func (s *State) EndWatches(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		w.end(err)
		delete(s.watchers, w)
	}
}
