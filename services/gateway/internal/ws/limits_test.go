package ws

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

func TestTooManyMessages(t *testing.T) {
	w := newWorld(t, Config{MessagesPerSecond: 3})
	c := w.login(t, "alice")
	for range 4 {
		say(t, c, `{"type":"next_batch","subscription_id":"x"}`)
	}
	for range 3 {
		if got := hear(t, c); !strings.Contains(got, `"code":"NOT_FOUND"`) {
			t.Fatalf("got %s", got)
		}
	}
	want := `{"type":"error","subscription_id":"rate_limit","code":"RATE_LIMIT_EXCEEDED","message":"at most 3 messages per second are allowed"}`
	if got := hear(t, c); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	w.pass(time.Second)
	say(t, c, `{"type":"next_batch","subscription_id":"x"}`)
	if got := hear(t, c); !strings.Contains(got, `"code":"NOT_FOUND"`) {
		t.Errorf("a second later got %s", got)
	}
}

func TestTooLargeMessages(t *testing.T) {
	const limit = 1000
	w := newWorld(t, Config{MessageBytesMax: limit})
	bomb, err := newCompressors().appendCompressed(nil, bytes.Repeat([]byte(" "), 50*limit))
	if err != nil {
		t.Fatal(err)
	}
	head := bytes.Index(bomb, []byte{0x1f, 0x8b})
	for name, m := range map[string]struct {
		kind websocket.MessageType
		data []byte
	}{
		"long text":          {websocket.MessageText, bytes.Repeat([]byte(" "), limit+1)},
		"long binary":        {websocket.MessageBinary, make([]byte, limit+1)},
		"long when unpacked": {websocket.MessageBinary, bomb[head:]},
	} {
		c := w.login(t, "alice")
		if err := c.Write(t.Context(), m.kind, m.data); err != nil {
			t.Fatal(err)
		}
		want := `{"type":"error","subscription_id":"protocol","code":"MESSAGE_TOO_LARGE","message":"a message may have at most 1000 bytes"}`
		if got := hear(t, c); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
		if got := hear(t, c); got != "closed 1009 message too large" {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

func TestSubscriptionsPerConnection(t *testing.T) {
	w := newWorld(t, Config{SubscriptionsPerUser: -1, SubscriptionsPerSocket: 2})
	c := w.login(t, "alice")
	w.subscribe(t, c, "a")
	w.subscribe(t, c, "b")
	say(t, c, `{"type":"subscribe","subscription":{"id":"c","sql":"SELECT 1"}}`)
	want := `{"type":"error","subscription_id":"c","code":"SUBSCRIPTION_LIMIT_EXCEEDED","message":"at most 2 subscriptions per connection are allowed"}`
	if got := hear(t, c); got != want {
		t.Errorf("got %s", got)
	}
	say(t, c, `{"type":"unsubscribe","subscription_id":"a"}`)
	if got := w.live.Next(t).GetUnsubscribe(); got == 0 {
		t.Fatal("the live role was not told")
	}
	w.subscribe(t, c, "c")
}

func TestSocketsMax(t *testing.T) {
	w := newWorld(t, Config{SocketsMax: 1})
	first := w.login(t, "alice")
	_, resp, err := w.dial(t, "/v1/ws", nil)
	if err == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("the second socket: %v", err)
	}
	runtime.KeepAlive(first) // a socket that nobody holds is closed when memory is collected
}

// TestASlowReader fills the queue of a client that reads nothing while another one is served. The slow
// one finds every change up to a position, and then an error that names it.
func TestASlowReader(t *testing.T) {
	w := newWorld(t, Config{WriteTimeout: time.Hour})
	slow, fast := w.login(t, "alice"), w.login(t, "bob")
	a, b := w.subscribe(t, slow, "s"), w.subscribe(t, fast, "s")
	// Rows of 64 KiB that do not compress fill the sockets' buffers and then the queue.
	row := []byte(fmt.Sprintf(`[{"id":"1","body":"%s"}]`, noise(64<<10)))
	changes := 0
	for lagged := false; !lagged; {
		changes++
		w.live.Changed(t, &livev1.Changed{Subscriptions: []uint64{a, b}, Kind: livev1.Kind_KIND_INSERT, Seq: uint64(1000 + changes), Rows: row})
		if got := hear(t, fast); !strings.Contains(got, `"change_type":"insert"`) {
			t.Fatalf("the fast one got %.100s", got)
		}
		select {
		case m := <-w.live.Requests:
			if lagged = m.GetUnsubscribe() == a; !lagged {
				t.Fatalf("got %v, want the slow one, %d, to be unsubscribed", m, a)
			}
		default:
		}
	}
	received := 0
	for {
		got := hear(t, slow)
		if strings.Contains(got, `"change_type":"insert"`) {
			received++
			continue
		}
		want := fmt.Sprintf(`(last position %d)","position":"%d"}`, 1000+received, 1000+received)
		if !strings.HasPrefix(got, `{"type":"error","subscription_id":"s","code":"SUBSCRIPTION_FAILED"`) || !strings.HasSuffix(got, want) {
			t.Fatalf("after %d changes the slow one got %.300s", received, got)
		}
		break
	}
	if received == 0 || received >= changes {
		t.Fatalf("the slow one received %d of %d", received, changes)
	}
	w.subscribe(t, slow, "again") // the socket itself is well
}

// noise is text without repetitions.
func noise(n int) string {
	b := make([]byte, n)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = '!' + byte(x>>8)%90
	}
	return strings.NewReplacer(`"`, "x", `\`, "y").Replace(string(b))
}

// TestAStuckClientIsCut: a client that neither reads nor talks holds its socket no longer than a write may
// wait, or, when the kernel took all there was, than it may be silent.
func TestAStuckClientIsCut(t *testing.T) {
	w := newWorld(t, Config{WriteTimeout: 50 * time.Millisecond})
	c := w.login(t, "alice")
	id := w.subscribe(t, c, "s")
	row := fmt.Sprintf(`[{"id":"1","body":"%s"}]`, noise(1<<20))
	for seq := uint64(1); ; seq++ {
		select {
		case m := <-w.live.Requests: // the socket, or first the subscription, is given up
			if m.GetUnsubscribe() != id {
				t.Fatalf("got %v", m)
			}
			w.pass(clientTimeoutDefault)
			for w.openSockets() > 0 {
				runtime.Gosched()
			}
			return
		default:
			w.live.Changed(t, &livev1.Changed{Subscriptions: []uint64{id}, Kind: livev1.Kind_KIND_INSERT, Seq: seq, Rows: []byte(row)})
		}
	}
}

func (w *world) openSockets() int {
	w.handler.mu.Lock()
	defer w.handler.mu.Unlock()
	return len(w.handler.sockets)
}

// TestAThousandSocketsLeaveNothing opens and closes a thousand sockets in different ways and waits for
// every goroutine and count to be back where it was.
func TestAThousandSocketsLeaveNothing(t *testing.T) {
	const sockets = 1000
	w := newWorld(t, Config{SubscriptionsPerUser: -1})
	warm := w.login(t, "alice")
	w.subscribe(t, warm, "s")
	before := runtime.NumGoroutine()
	conns := make([]*websocket.Conn, sockets)
	for i := range conns {
		conns[i] = w.login(t, "alice")
		w.subscribe(t, conns[i], "s")
	}
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			if i%2 == 0 {
				_ = c.CloseNow()
				return
			}
			_ = c.Close(websocket.StatusNormalClosure, "")
		})
	}
	wg.Wait()
	for range sockets {
		if m := w.live.Next(t); m.GetUnsubscribe() == 0 {
			t.Fatalf("got %v", m)
		}
	}
	for w.openSockets() > 1 || runtime.NumGoroutine() > before+5 { // a hang here is the failure
		runtime.Gosched()
	}
	if got := w.auth.held.Load(); got != 1 {
		t.Errorf("%d sessions are held, want 1", got)
	}
}

func TestStopSaysGoodbye(t *testing.T) {
	w := newWorld(t, Config{})
	c := w.login(t, "alice")
	w.subscribe(t, c, "s")
	stopped := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() { stopped <- w.handler.Stop(ctx) }()
	if got := hear(t, c); got != "closed 1001 the server is stopping" {
		t.Errorf("got %s", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, resp, err := w.dial(t, "/v1/ws", nil); err == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after Stop: %v", err)
	}
}

func TestOrigins(t *testing.T) {
	for _, c := range []struct {
		name, origin string
		tls          bool
		cfg          Config
		ok           bool
	}{
		{"no browser", "", false, Config{}, true},
		{"no browser, strict", "", false, Config{StrictOrigin: true}, false},
		{"own page", "http://db.example:8080", false, Config{}, true},
		{"own page in capitals", "HTTP://DB.example:8080", false, Config{}, true},
		{"own host, other port", "http://db.example", false, Config{}, false},
		{"own host, other scheme", "https://db.example:8080", false, Config{}, true},
		{"own host, other scheme, strict", "https://db.example:8080", false, Config{StrictOrigin: true}, false},
		{"own page, strict", "https://db.example:8080", true, Config{StrictOrigin: true}, true},
		{"foreign", "https://evil.example", false, Config{}, false},
		{"foreign that looks alike", "http://db.example:8080.evil.example", false, Config{}, false},
		{"a sandboxed page", "null", false, Config{}, false},
		{"allowed", "https://app.example", false, Config{AllowedOrigins: []string{"https://app.example"}}, true},
		{"allowed, but not in this scheme", "http://app.example", false, Config{AllowedOrigins: []string{"https://app.example"}}, false},
		{"all allowed", "https://evil.example", false, Config{AllowedOrigins: []string{"*"}}, true},
	} {
		r := httptest.NewRequest(http.MethodGet, "http://db.example:8080/v1/ws", nil)
		r.Header.Set("Origin", c.origin)
		if c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		if err := New(c.cfg, Deps{}).checkOrigin(r); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
