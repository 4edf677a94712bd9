package ws

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"testing"

	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/ws/wsconn"
)

// TestWhatIsQueuedForAStoppedSubscriptionIsNotSent checks the writer alone, as the moment between queueing
// and writing cannot be hit from outside.
func TestWhatIsQueuedForAStoppedSubscriptionIsNotSent(t *testing.T) {
	s := &socket{h: New(Config{}, Deps{})}
	sub := &subscription{s: s, wire: nWire{}, id: "a"}
	ev := &livev1.ConnectResponse{Event: &livev1.ConnectResponse_Changed{Changed: &livev1.Changed{Kind: livev1.Kind_KIND_INSERT}}}
	w := writer{s: s}
	w.add(&item{sub: sub, ev: ev})
	if w.frames != 1 {
		t.Fatalf("%d frames", w.frames)
	}
	sub.stopped.Store(true)
	w.add(&item{sub: sub, ev: ev})
	if w.frames != 1 {
		t.Errorf("%d frames after it was stopped", w.frames)
	}
}

// BenchmarkIdleSocket reports what one socket with one subscription costs after a message each way,
// kernel memory aside. The clients, bare connections without goroutines, are counted too.
func BenchmarkIdleSocket(b *testing.B) {
	const sockets = 2000
	for b.Loop() {
		w := newWorld(b, Config{SubscriptionsPerUser: -1})
		heap, stack := inUse()
		conns := make([]net.Conn, sockets)
		for i := range conns {
			conns[i] = rawClient(b, w)
		}
		heapAfter, stackAfter := inUse()
		b.ReportMetric(float64(heapAfter-heap)/sockets, "heapB/socket")
		b.ReportMetric(float64(stackAfter-stack)/sockets, "stackB/socket")
		for _, c := range conns {
			_ = c.Close()
		}
	}
}

func inUse() (heap, stack int64) {
	for range 4 { // stacks shrink by half per collection
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc), int64(m.StackInuse)
}

// rawClient subscribes over a connection of which nothing is kept but the socket.
func rawClient(b *testing.B, w *world) net.Conn {
	b.Helper()
	c, err := net.Dial("tcp", w.server.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	fmt.Fprint(c, "GET /v1/ws?compress=false HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer alice-token\r\n\r\n")
	r := bufio.NewReader(c)
	if _, err := http.ReadResponse(r, nil); err != nil {
		b.Fatal(err)
	}
	message := []byte(`{"type":"subscribe","subscription":{"id":"sub-1","sql":"SELECT * FROM app.messages"}}`)
	frame := wsconn.AppendFrame(nil, wsconn.Text, message)
	frame[1] |= 0x80 // masked, with a key of zeros
	frame = append(frame[:2:2], append(make([]byte, 4), frame[2:]...)...)
	if _, err := c.Write(frame); err != nil {
		b.Fatal(err)
	}
	id := w.live.Subscribe(b).GetSubscription()
	w.live.Subscribed(b, &livev1.Subscribed{Subscription: id, Position: 1, SchemaIpc: schemaOf(b, "id,body")})
	if _, err := r.Peek(2); err != nil {
		b.Fatal(err)
	}
	return c
}
