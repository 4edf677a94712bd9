package limit

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"google.golang.org/grpc/credentials"
)

// Listener closes connections the guard refuses, at once and without a word: whoever opens too many
// gets no work out of us. Exempt addresses (trusted proxies) are not counted.
func (g *Guard) Listener(l net.Listener, exempt func(netip.Addr) bool) net.Listener {
	return &guardedListener{Listener: l, guard: g, exempt: exempt}
}

type guardedListener struct {
	net.Listener
	guard  *Guard
	exempt func(netip.Addr) bool
}

func (l *guardedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		admitted, err := l.guard.admit(c, l.exempt)
		if err != nil {
			_ = c.Close()
			continue
		}
		return admitted, nil
	}
}

func (g *Guard) admit(c net.Conn, exempt func(netip.Addr) bool) (net.Conn, error) {
	addr := AddrOf(c.RemoteAddr())
	if addr.IsLoopback() || g.cfg.Connections <= 0 || (exempt != nil && exempt(addr)) {
		return c, nil
	}
	release, err := g.Connect(addr)
	if err != nil {
		return nil, err
	}
	return &countedConn{Conn: c, release: release}, nil
}

type countedConn struct {
	net.Conn
	release func()
	once    sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(c.release)
	return c.Conn.Close()
}

// AddrOf returns a peer's IP address. A peer inside this process (a pipe) is loopback; anything else
// without an address is the zero Addr, which is nobody's and never loopback.
func AddrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case nil:
		return netip.Addr{}
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	default:
		if n := a.Network(); n == "bufconn" || n == "inproc" {
			return netip.IPv6Loopback()
		}
	}
	return netip.Addr{}
}

// Credentials wraps a gRPC server's transport credentials: connections the guard refuses are closed
// before the handshake.
func (g *Guard) Credentials(c credentials.TransportCredentials, exempt func(netip.Addr) bool) credentials.TransportCredentials {
	return guardedCredentials{TransportCredentials: c, guard: g, exempt: exempt}
}

type guardedCredentials struct {
	credentials.TransportCredentials
	guard  *Guard
	exempt func(netip.Addr) bool
}

func (c guardedCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, err := c.guard.admit(raw, c.exempt)
	if err != nil {
		return nil, nil, err // gRPC closes raw
	}
	secured, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		_ = conn.Close()
	}
	return secured, info, err
}

func (c guardedCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.TransportCredentials.ClientHandshake(ctx, authority, raw)
}

func (c guardedCredentials) Clone() credentials.TransportCredentials {
	return guardedCredentials{TransportCredentials: c.TransportCredentials.Clone(), guard: c.guard, exempt: c.exempt}
}
