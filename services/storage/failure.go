package storage

import (
	"fmt"
	"log/slog"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// failure is the end of a node whose disk can no longer be trusted, or that was taken out of its cluster. From
// then on everything is answered Unavailable; the process should be ended, and after a disk failure started again,
// which replays the log.
type failure struct {
	log  *slog.Logger
	once sync.Once
	done chan struct{}
	// err and disk are set before done is closed.
	err  error
	disk bool // the stores may stand still
}

func newFailure(log *slog.Logger) *failure { return &failure{log: log, done: make(chan struct{})} }

func (f *failure) fail(err error) {
	f.once.Do(func() {
		f.log.Error("storage failed: this node stops serving", "error", err)
		f.err, f.disk = err, true
		close(f.done)
	})
}

// expel ends a node that its cluster no longer knows.
func (f *failure) expel(err error) {
	f.once.Do(func() {
		f.log.Error("this node stops serving", "error", err)
		f.err = err
		close(f.done)
	})
}

func (f *failure) failed() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// listener makes what a store does in the background and cannot do a failure of the node: waiting
// writers would otherwise wait until memory is full.
func (f *failure) listener(store string) *pebble.EventListener {
	return &pebble.EventListener{BackgroundError: func(err error) {
		f.fail(dberr.New(dberr.Unavailable, "%s store: %w", store, err))
	}}
}

// pebbleLog is a store's logger.
type pebbleLog struct {
	store   string
	log     *slog.Logger
	failure *failure
}

// Infof drops what Pebble says in normal operation.
func (pebbleLog) Infof(string, ...any) {}

// Errorf logs.
func (l pebbleLog) Errorf(format string, args ...any) {
	l.log.Error("pebble: "+fmt.Sprintf(format, args...), "store", l.store)
}

// Fatalf is called where Pebble cannot go on, e.g. after a failed fsync of its log. It must not return:
// the caller stays here, with the locks it holds, so that nothing can build on a state that is not
// known. The process ends by Failed.
func (l pebbleLog) Fatalf(format string, args ...any) {
	l.failure.fail(dberr.New(dberr.Unavailable, "%s store: %s", l.store, fmt.Sprintf(format, args...)))
	select {}
}
