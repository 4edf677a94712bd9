// Package rpcnet is how roles reach each other: a Network listens and dials, and on top of it Server
// and Dial carry gRPC (Flight included) with the same interceptors everywhere.
//
// Which Network a role is given (TCP, Local in one process, Faults around either) is decided in main
// or in a test; roles cannot tell. Over Local, unary calls run the server's handler in the caller's
// goroutine and streams go through grpchan's in-process channel (ADR 0002), so a message must not be
// changed after it was sent or received.
package rpcnet

import (
	"context"
	"net"
)

// Network listens and dials. Addresses are host:port for TCP and plain names for Local.
type Network interface {
	Listen(addr string) (net.Listener, error)
	DialContext(ctx context.Context, addr string) (net.Conn, error)
}

// TCP is the Network of separate processes.
type TCP struct{}

// Listen listens on a TCP address.
func (TCP) Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

// DialContext connects to a TCP address.
func (TCP) DialContext(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}
