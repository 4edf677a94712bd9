package limit

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Unix(1_800_000_000, 0)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func TestRate(t *testing.T) {
	c := newClock()
	r := NewRate("statements of one user", 10, 3, c.now)
	take := func(key string, want int) {
		t.Helper()
		got := 0
		for range 20 {
			if r.Take(key) == nil {
				got++
			}
		}
		if got != want {
			t.Fatalf("%s: %d admitted, want %d", key, got, want)
		}
	}
	take("a", 3)
	take("b", 3) // others have buckets of their own
	err := r.Take("a")
	if !dberr.Is(err, dberr.RateLimited) {
		t.Fatalf("error %v", err)
	}
	if ms, _ := strconv.Atoi(dberr.FieldOf(err, dberr.FieldRetryAfterMS)); ms < 90 || ms > 100 {
		t.Fatalf("retry_after_ms %d", ms)
	}
	c.advance(100 * time.Millisecond)
	take("a", 1)
	c.advance(time.Hour)
	take("a", 3)
}

func TestRateOff(t *testing.T) {
	r := NewRate("x", 0, 0, newClock().now)
	for range 1000 {
		if err := r.Take("a"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRateIsBounded(t *testing.T) {
	r := NewRate("x", 1, 1, newClock().now)
	for i := range keysMax + 100 {
		_ = r.Take(fmt.Sprint(i))
	}
	if n := r.buckets.Len(); n != keysMax {
		t.Fatalf("%d buckets", n)
	}
}

var (
	stranger = netip.MustParseAddr("203.0.113.7")
	another  = netip.MustParseAddr("203.0.113.8")
)

func testGuard(c *clock) *Guard {
	return NewGuard(GuardConfig{RequestsPerSecond: 200, LoginsPerSecond: 20, Connections: 3, Ban: 300 * time.Second, Now: c.now})
}

func countRequests(g *Guard, a netip.Addr, n int) (admitted int) {
	for range n {
		if g.Request(a) == nil {
			admitted++
		}
	}
	return admitted
}

func TestGuardBans(t *testing.T) {
	c := newClock()
	g := testGuard(c)
	if n := countRequests(g, stranger, 209); n != 200 {
		t.Fatalf("%d of 209 admitted", n)
	}
	c.advance(time.Second)
	if n := countRequests(g, stranger, 200); n != 200 {
		t.Fatalf("nine violations: %d admitted", n)
	}
	countRequests(g, stranger, 1) // the tenth
	c.advance(299 * time.Second)
	if g.Request(stranger) == nil {
		t.Fatal("the ban ended early")
	}
	if err := g.Request(another); err != nil {
		t.Fatalf("a neighbour: %v", err)
	}
	c.advance(time.Second)
	if n := countRequests(g, stranger, 210); n != 200 {
		t.Fatalf("after the ban: %d admitted", n)
	}
	c.advance(599 * time.Second)
	if g.Request(stranger) == nil {
		t.Fatal("the second ban is not twice the first")
	}
	c.advance(2 * time.Second)
	if err := g.Request(stranger); err != nil {
		t.Fatal(err)
	}
}

func TestGuardForgives(t *testing.T) {
	c := newClock()
	g := testGuard(c)
	countRequests(g, stranger, 209)
	c.advance(forgiveAfter + time.Second)
	countRequests(g, stranger, 209)
	if o, _ := g.offenders.Peek(network(stranger)); o.score != 9 || !o.bannedUntil.IsZero() {
		t.Fatalf("%+v", o)
	}
}

func TestLoopbackIsExempt(t *testing.T) {
	g := testGuard(newClock())
	for _, a := range []string{"127.0.0.1", "127.9.9.9", "::1"} {
		if n := countRequests(g, netip.MustParseAddr(a), 1000); n != 1000 {
			t.Errorf("%s: %d of 1000", a, n)
		}
	}
}

func TestLogins(t *testing.T) {
	g := testGuard(newClock())
	n := 0
	for range 100 {
		if g.Login(stranger) == nil {
			n++
		}
	}
	if n != 20 {
		t.Fatalf("%d logins", n)
	}
}

func TestConnections(t *testing.T) {
	g := testGuard(newClock())
	var release []func()
	for range 3 {
		r, err := g.Connect(stranger)
		if err != nil {
			t.Fatal(err)
		}
		release = append(release, r)
	}
	if _, err := g.Connect(stranger); !dberr.Is(err, dberr.RateLimited) {
		t.Fatalf("the fourth: %v", err)
	}
	release[0]()
	release[0]() // twice counts once
	if _, err := g.Connect(stranger); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Connect(stranger); err == nil {
		t.Fatal("released once, admitted twice")
	}
	for range 3 {
		_, _ = g.Connect(stranger)
	}
	if g.Request(stranger) == nil {
		t.Fatal("five connections too many did not ban")
	}
}

func TestNetwork(t *testing.T) {
	for in, want := range map[string]string{"2001:db8:1:2:3::4": "2001:db8:1:2::/64", "::ffff:203.0.113.7": "203.0.113.7/32",
		"fe80::1%eth0": "fe80::/64", "203.0.113.7": "203.0.113.7/32"} {
		if got := network(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if AddrOf(&net.UnixAddr{Name: "x"}).IsLoopback() || AddrOf(nil).IsLoopback() {
		t.Error("a peer without an address passed as loopback")
	}
}

// TestListener: the second connection from one address is closed, and a slot comes back on close.
func TestListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := NewGuard(GuardConfig{Connections: 1, Now: newClock().now})
	l := &guardedListener{Listener: pretend{inner, "203.0.113.7"}, guard: g}
	defer l.Close()
	accepted := make(chan net.Conn, 3)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	dial()
	first := <-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Fatal("the second connection was served")
	}
	first.Close()
	dial()
	<-accepted
}

// pretend gives accepted connections another remote address.
type pretend struct {
	net.Listener
	ip string
}

func (p pretend) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	return pretendConn{c, p.ip}, err
}

type pretendConn struct {
	net.Conn
	ip string
}

func (p pretendConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(p.ip), Port: 1} }
