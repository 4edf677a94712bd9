package rpcnet

import (
	"context"
	"net"
	"sync"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// localBufferBytes is each pipe's buffer; at 1 MiB a Flight stream runs at twice loopback TCP's speed.
const localBufferBytes = 1 << 20

// Local is the Network of one process: names instead of ports, memory instead of sockets.
type Local struct {
	mu        sync.Mutex
	listeners map[string]*localListener
	channels  map[string]*inprocgrpc.Channel // of gRPC servers, by name
}

// NewLocal makes an empty network.
func NewLocal() *Local {
	return &Local{listeners: map[string]*localListener{}, channels: map[string]*inprocgrpc.Channel{}}
}

// Listen takes a name until the listener is closed.
func (n *Local) Listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, taken := n.listeners[addr]; taken {
		return nil, dberr.New(dberr.AlreadyExists, "listen on %q: the name is taken", addr)
	}
	l := &localListener{Listener: bufconn.Listen(localBufferBytes), network: n, addr: addr}
	n.listeners[addr] = l
	return l, nil
}

// DialContext connects to the listener of that name.
func (n *Local) DialContext(ctx context.Context, addr string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	if l == nil {
		return nil, dberr.New(dberr.Unavailable, "dial %q: nobody listens there", addr)
	}
	return l.DialContext(ctx)
}

// offer publishes a server's direct channel under its name; channel finds it.
func (n *Local) offer(addr string, ch *inprocgrpc.Channel) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ch == nil {
		delete(n.channels, addr)
		return
	}
	n.channels[addr] = ch
}

func (n *Local) channel(addr string) *inprocgrpc.Channel {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.channels[addr]
}

type localListener struct {
	*bufconn.Listener
	network *Local
	addr    string
	once    sync.Once
}

func (l *localListener) Close() error {
	l.once.Do(func() {
		l.network.mu.Lock()
		delete(l.network.listeners, l.addr)
		l.network.mu.Unlock()
	})
	return l.Listener.Close()
}
