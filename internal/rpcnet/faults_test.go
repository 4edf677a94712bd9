package rpcnet

import (
	"context"
	"net"
	"testing"
)

// slowNetwork does something between dialling and returning.
type slowNetwork struct {
	Network
	meanwhile func()
}

func (n *slowNetwork) DialContext(ctx context.Context, addr string) (net.Conn, error) {
	c, err := n.Network.DialContext(ctx, addr)
	n.meanwhile()
	return c, err
}

func TestACutEndsWhatIsBeingDialled(t *testing.T) {
	slow := &slowNetwork{Network: NewLocal()}
	faults := NewFaults(slow)
	l, err := faults.As("b").Listen("b")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		accepted <- c
	}()
	slow.meanwhile = func() { faults.Cut("a", "b") }
	if c, err := faults.As("a").DialContext(t.Context(), "b"); err == nil {
		t.Errorf("a connection came through the cut: %v", c)
	} else {
		server := <-accepted
		if _, err := server.Read(make([]byte, 1)); err == nil {
			t.Error("the other end stays open")
		}
	}
}
