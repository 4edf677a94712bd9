package watch

import (
	"testing"

	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// A live watch that nothing came for is at the shard's position, however old the last change it was sent: history may
// not reach back to that.
func TestAnIdleWatchFallsBehindAtThePosition(t *testing.T) {
	for _, unlogged := range []bool{false, true} {
		h := NewHub(0, 10, nil)
		w := &watch{hub: h, session: newSession(nil), unlogged: unlogged, live: true, seen: 10}
		w.session.bytes = sessionBytesMax // other watches of the stream
		h.Advance(500)
		w.offer(&storagev1.Change{Seq: 501})
		want := uint64(500)
		if unlogged { // its history has positions of its own
			want = 10
		}
		if w.live || w.seen != want {
			t.Errorf("unlogged %t: live %t, reads on after %d, want %d", unlogged, w.live, w.seen, want)
		}
	}
}
