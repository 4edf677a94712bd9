package rpcnet

import (
	"context"
	"io"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Conn is a client connection to one server. It is safe for concurrent use and meant to be shared.
type Conn struct {
	grpc.ClientConnInterface
	close io.Closer
}

// Close ends the connection.
func (c *Conn) Close() error {
	if c.close == nil {
		return nil
	}
	return c.close.Close()
}

// Dial makes a connection; it does not wait for the server. Errors of calls are *dberr.Error.
func Dial(n Network, addr string, opts ...grpc.DialOption) (*Conn, error) {
	if local, ok := n.(*Local); ok {
		return &Conn{ClientConnInterface: &directConn{network: local, addr: addr}}, nil
	}
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(peerCredentials{insecure.NewCredentials()}),
		grpc.WithKeepaliveParams(clientKeepalive), grpc.WithConnectParams(reconnect),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			return n.DialContext(ctx, target)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytesMax), grpc.MaxCallSendMsgSize(messageBytesMax)),
	}, opts...)
	cc, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err != nil {
		return nil, dberr.New(dberr.Unavailable, "dial %s: %w", addr, err)
	}
	return &Conn{ClientConnInterface: convertingConn{cc}, close: cc}, nil
}

// directConn calls the server of that name in this process, whichever serves at the time of the call.
type directConn struct {
	network *Local
	addr    string
}

func (c *directConn) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	s := c.network.server(c.addr)
	if s == nil {
		return dberr.New(dberr.Unavailable, "call %s: %q is not serving", method, c.addr)
	}
	return s.invoke(ctx, method, args, reply)
}

func (c *directConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	server := c.network.server(c.addr)
	if server == nil {
		return nil, dberr.New(dberr.Unavailable, "call %s: %q is not serving", method, c.addr)
	}
	return server.newStream(ctx, desc, method, opts...)
}

// convertingConn turns status errors back into *dberr.Error.
type convertingConn struct{ *grpc.ClientConn }

func (c convertingConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return dberr.FromStatus(c.ClientConn.Invoke(ctx, method, args, reply, opts...))
}

func (c convertingConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := c.ClientConn.NewStream(ctx, desc, method, opts...)
	return convertingStream{s}, dberr.FromStatus(err)
}

type convertingStream struct{ grpc.ClientStream }

func (s convertingStream) RecvMsg(m any) error { return convertStreamErr(s.ClientStream.RecvMsg(m)) }
func (s convertingStream) SendMsg(m any) error { return convertStreamErr(s.ClientStream.SendMsg(m)) }

// convertStreamErr leaves io.EOF alone: it is how streams end.
func convertStreamErr(err error) error {
	if err == io.EOF { //nolint:errorlint // gRPC returns io.EOF itself, never wrapped
		return err
	}
	return dberr.FromStatus(err)
}

// Pool shares one connection per address.
type Pool struct {
	network Network
	mu      sync.Mutex
	conns   map[string]*Conn
}

// NewPool makes an empty pool over n.
func NewPool(n Network) *Pool { return &Pool{network: n, conns: map[string]*Conn{}} }

// Get returns the connection to addr.
func (p *Pool) Get(addr string) (*Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.conns[addr]; ok {
		return c, nil
	}
	c, err := Dial(p.network, addr)
	if err != nil {
		return nil, err
	}
	p.conns[addr] = c
	return c, nil
}

// Close ends all connections.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for addr, c := range p.conns {
		_ = c.Close()
		delete(p.conns, addr)
	}
}
