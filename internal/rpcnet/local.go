package rpcnet

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc/test/bufconn"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// localBufferBytes is each pipe's buffer; at 1 MiB a Flight stream runs at twice loopback TCP's speed.
const localBufferBytes = 1 << 20

// Local is the Network of one process: names instead of ports, memory instead of sockets.
type Local struct {
	mu        sync.RWMutex
	listeners map[string]*localListener
	servers   map[string]*directServer // of gRPC servers, by name
}

// NewLocal makes an empty network.
func NewLocal() *Local {
	return &Local{listeners: map[string]*localListener{}, servers: map[string]*directServer{}}
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

// offer publishes a server under its name, nil takes it back; server finds it.
func (n *Local) offer(addr string, s *directServer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s == nil {
		delete(n.servers, addr)
		return
	}
	n.servers[addr] = s
}

func (n *Local) server(addr string) *directServer {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.servers[addr]
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
