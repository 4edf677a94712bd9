package rpcnet

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// swallowing is a Network that, from a moment on, loses every byte both ways and closes nothing.
type swallowing struct {
	Network
	on atomic.Bool
}

func (n *swallowing) DialContext(ctx context.Context, addr string) (net.Conn, error) {
	c, err := n.Network.DialContext(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &swallowingConn{Conn: c, network: n, closed: make(chan struct{})}, nil
}

type swallowingConn struct {
	net.Conn
	network *swallowing
	once    sync.Once
	closed  chan struct{}
}

func (c *swallowingConn) Write(p []byte) (int, error) {
	if c.network.on.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// Read loses the other end's goodbye too.
func (c *swallowingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.network.on.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *swallowingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A call without a deadline of its own fails when the other machine is gone without a word.
func TestABlackHoleIsNoticed(t *testing.T) {
	if testing.Short() {
		t.Skip("waits as long as gRPC's shortest keepalive, twelve seconds")
	}
	t.Parallel()
	n := &swallowing{Network: &loopback{}}
	s, err := NewServer(n, "live", ServerOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	fake := &liveFake{entered: make(chan struct{})}
	livev1.RegisterLiveServiceServer(s.Registrar(), fake)
	s.Serve()
	t.Cleanup(func() { stopNow(s) })
	conn, err := Dial(n, "live")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	failed := make(chan error, 1)
	go func() {
		_, err := livev1.NewLiveServiceClient(conn).List(context.WithoutCancel(t.Context()), &livev1.ListRequest{})
		failed <- err
	}()
	<-fake.entered
	n.on.Store(true)
	if err := <-failed; !dberr.Is(err, dberr.Unavailable) {
		t.Fatalf("got %v", err)
	}
}
