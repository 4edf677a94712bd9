package live

import (
	"strings"
	"testing"
)

// Batches that wait for clients who do not ask are counted, and bounded over all of them; those who ask
// then get the rest all the same.
func TestBatchesThatWaitAreBounded(t *testing.T) {
	const rows, total = 200, 64 << 10
	w := newWorld(t, Config{BufferTotalBytes: total})
	body := strings.Repeat("x", 1000)
	for i := range int64(rows) {
		w.put("u", i, "r", body)
	}
	g := w.gateway()
	var clients []*client
	for range 8 { // each would hold 200 KB
		c := g.subscribe("u", withSnapshot, withBatch(10))
		c.waitSubscribed()
		if got := c.waitRows().GetRowCount(); got != 10 {
			t.Fatalf("first batch of %d rows", got)
		}
		clients = append(clients, c)
	}
	if got := w.live.hub.Stats().BufferBytes; got > total {
		t.Errorf("%d bytes wait, the limit is %d", got, total)
	}
	for _, c := range clients {
		n := uint32(10)
		for more := true; more; {
			c.nextBatch()
			m := c.waitRows()
			n += m.GetRowCount()
			more = m.GetHasMore()
		}
		if n != rows {
			t.Errorf("%d of %d rows", n, rows)
		}
	}
	if got := w.live.hub.Stats().BufferBytes; got != 0 {
		t.Errorf("%d bytes are still counted after all was sent", got)
	}
}
