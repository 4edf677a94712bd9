package wsconn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// serve runs an echo server on a real socket. It reports how each connection ended.
func serve(t *testing.T, limit int) (url string, ended chan error) {
	t.Helper()
	ended = make(chan error, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, &Config{})
		if err != nil {
			return
		}
		go func() {
			defer c.Abort()
			ended <- echo(c, limit)
		}()
	}))
	t.Cleanup(srv.Close)
	return srv.URL, ended
}

func echo(c *Conn, limit int) error {
	for {
		kind, err := c.Next()
		if err != nil {
			return err
		}
		p, err := c.Payload(nil, limit)
		if err != nil {
			return err
		}
		if err := c.Write(AppendFrame(nil, kind, p)); err != nil {
			return err
		}
	}
}

// TestWithAnIndependentClient echoes messages of every length form, in fragments and with pings.
func TestWithAnIndependentClient(t *testing.T) {
	url, ended := serve(t, 1<<20)
	c, _, err := websocket.Dial(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(1 << 21)
	const fragment = 39_999 // odd: a two-byte character is split
	for _, size := range []int{0, 1, 63, 64, 65, 125, 126, 127, 4096, 65535, 65536, 1 << 20} {
		want := bytes.Repeat([]byte("é"), size/2+1)[:size&^1]
		w, err := c.Writer(t.Context(), websocket.MessageText)
		if err != nil {
			t.Fatal(err)
		}
		for part := want; len(part) > 0; {
			n := min(len(part), fragment)
			if _, err := w.Write(part[:n]); err != nil {
				t.Fatal(err)
			}
			part = part[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		kind, got, err := c.Read(t.Context())
		if err != nil || kind != websocket.MessageText || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes came back as %d, %v", len(want), len(got), err)
		}
	}
	pong := make(chan error, 1)
	go func() { pong <- c.Ping(t.Context()) }()
	go func() { _, _, _ = c.Read(t.Context()) }() // lets the pong in
	if err := <-pong; err != nil {
		t.Fatal(err)
	}
	_ = c.Close(websocket.StatusNormalClosure, "done")
	var ce *CloseError
	if err := <-ended; !errors.As(err, &ce) || ce.Code != CloseNormal || ce.Reason != "done" {
		t.Errorf("ended with %v", err)
	}
}

func TestServerCloses(t *testing.T) {
	done := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, &Config{})
		if err != nil {
			return
		}
		_ = c.Close(ClosePolicy, strings.Repeat("é", 100))
		_, err = c.Next()
		c.Abort()
		done <- err
	}))
	defer srv.Close()
	c, _, err := websocket.Dial(t.Context(), srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = c.Read(t.Context())
	var ce websocket.CloseError
	if !errors.As(err, &ce) || ce.Code != websocket.StatusPolicyViolation || ce.Reason != strings.Repeat("é", 61) {
		t.Errorf("the client saw %v", err)
	}
	var answered *CloseError
	if err := <-done; !errors.As(err, &answered) || answered.Code != ClosePolicy {
		t.Errorf("the server saw %v", err)
	}
}

// frame builds a client's frame, masked with a fixed key unless bits say otherwise.
func frame(b0 byte, payload string) []byte {
	key := []byte{1, 2, 3, 4}
	out := []byte{b0}
	switch n := len(payload); {
	case n < 126:
		out = append(out, maskBit|byte(n))
	case n <= 0xFFFF:
		out = binary.BigEndian.AppendUint16(append(out, maskBit|126), uint16(n))
	default:
		out = binary.BigEndian.AppendUint64(append(out, maskBit|127), uint64(n))
	}
	out = append(out, key...)
	for i := range len(payload) {
		out = append(out, payload[i]^key[i&3])
	}
	return out
}

// run feeds bytes to a connection and returns the messages read and the error that ended it.
func run(in []byte, limit int) (messages []string, err error) {
	client, server := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, client) }()
	go func() {
		_, _ = client.Write(in)
		_ = client.Close()
	}()
	c := New(server, nil, &Config{})
	defer c.Abort()
	for {
		if _, err = c.Next(); err != nil {
			return messages, err
		}
		p, err := c.Payload(nil, limit)
		if err != nil {
			return messages, err
		}
		messages = append(messages, string(p))
	}
}

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

func TestViolations(t *testing.T) {
	const limit = 1000
	for _, c := range []struct {
		name string
		in   []byte
		code int // 0: no violation
	}{
		{"two fragments with a ping between", join(frame(0x01, "a"), frame(0x89, "p"), frame(0x80, "b")), 0},
		{"an empty message", frame(0x81, ""), 0},
		{"unmasked", []byte{0x81, 0x01, 'a'}, CloseProtocol},
		{"reserved bit 1", frame(0xC1, "a"), CloseProtocol},
		{"reserved bit 3", frame(0x91, "a"), CloseProtocol},
		{"unknown data opcode", frame(0x83, "a"), CloseProtocol},
		{"unknown control opcode", frame(0x8B, "a"), CloseProtocol},
		{"fragmented ping", frame(0x09, "a"), CloseProtocol},
		{"long ping", frame(0x89, strings.Repeat("x", 126)), CloseProtocol},
		{"continuation without a message", frame(0x80, "a"), CloseProtocol},
		{"message inside a message", join(frame(0x01, "a"), frame(0x81, "b")), CloseProtocol},
		{"close of one byte", frame(0x88, "x"), CloseProtocol},
		{"close with a reserved code", frame(0x88, "\x03\xed"), CloseProtocol},
		{"close with bad text", frame(0x88, "\x03\xe8\xff"), CloseInvalidData},
		{"text that is not UTF-8", frame(0x81, "\xff"), CloseInvalidData},
		{"binary that is not UTF-8", frame(0x82, "\xff"), 0},
		{"16-bit length for 5 bytes", join([]byte{0x82, 0xFE, 0, 5}, make([]byte, 9)), CloseProtocol},
		{"64-bit length for 5 bytes", join([]byte{0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0, 5}, make([]byte, 9)), CloseProtocol},
		{"negative length", join([]byte{0x82, 0xFF}, bytes.Repeat([]byte{0xFF}, 8), make([]byte, 9)), CloseProtocol},
		{"endless empty fragments", join(frame(0x02, ""), bytes.Repeat(frame(0x00, ""), framesMax+1)), ClosePolicy},
	} {
		_, err := run(c.in, limit)
		var pe *ProtocolError
		got := 0
		if errors.As(err, &pe) {
			got = pe.Code
		}
		if got != c.code {
			t.Errorf("%s: ended with %v, want code %d", c.name, err, c.code)
		}
	}
}

func TestMessages(t *testing.T) {
	long := strings.Repeat("0123456789", 100)
	got, err := run(join(frame(0x81, "a"), frame(0x01, "b"), frame(0x89, ""), frame(0x00, "c"), frame(0x80, "d"),
		frame(0x82, long)), 1000)
	if !errors.Is(err, io.EOF) || strings.Join(got, "|") != "a|bcd|"+long {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := run(frame(0x82, long+"x"), 1000); !errors.Is(err, ErrTooBig) {
		t.Errorf("1001 bytes: %v", err)
	}
	if _, err := run(join(frame(0x02, long), frame(0x80, "x")), 1000); !errors.Is(err, ErrTooBig) {
		t.Errorf("1000 and 1 bytes: %v", err)
	}
}

// TestAnnouncedBytesAreNotAllocated announces 1 GiB, sends 1 byte and leaves.
func TestAnnouncedBytesAreNotAllocated(t *testing.T) {
	in := join([]byte{0x82, 0xFF, 0, 0, 0, 0, 0x40, 0, 0, 0}, make([]byte, 5))
	allocs := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := run(in, 2<<30); err == nil {
				b.Fatal("no error")
			}
		}
	}).AllocedBytesPerOp()
	if allocs > 64<<10 {
		t.Errorf("%d bytes were allocated", allocs)
	}
}

func TestRefusedUpgrades(t *testing.T) {
	good := http.Header{"Connection": {"keep-alive, Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
	for _, c := range []struct {
		name, header, value string
		status              int
	}{
		{"no upgrade", "Upgrade", "", http.StatusUpgradeRequired},
		{"no connection", "Connection", "close", http.StatusUpgradeRequired},
		{"old version", "Sec-WebSocket-Version", "8", http.StatusUpgradeRequired},
		{"bad key", "Sec-WebSocket-Key", "short", http.StatusBadRequest},
		{"a writer that cannot be taken over", "X", "y", http.StatusHTTPVersionNotSupported},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header = good.Clone()
		r.Header.Set(c.header, c.value)
		w := httptest.NewRecorder()
		if _, err := Accept(w, r, &Config{}); err == nil || w.Code != c.status {
			t.Errorf("%s: %d, %v; want %d", c.name, w.Code, err, c.status)
		}
	}
}

func FuzzConn(f *testing.F) {
	f.Add(join(frame(0x01, "a"), frame(0x89, "p"), frame(0x80, "b")))
	f.Add(frame(0x82, strings.Repeat("x", 70000)))
	f.Add(frame(0x88, "\x03\xe8bye"))
	f.Fuzz(func(t *testing.T, in []byte) {
		messages, err := run(in, 1<<16)
		if err == nil {
			t.Fatal("ended without an error")
		}
		total := 0
		for _, m := range messages {
			total += len(m)
		}
		if total > len(in) {
			t.Fatalf("%d bytes of messages from %d", total, len(in))
		}
	})
}
