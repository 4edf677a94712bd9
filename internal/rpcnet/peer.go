package rpcnet

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// handshakeTimeout cuts connections whose other end does not prove who it is.
const handshakeTimeout = 5 * time.Second

// Peer is who is at the other end of a connection, as proven there.
type Peer struct {
	// Role is storage, query, live, gateway or allinone.
	Role string
	// Name is for people: a certificate's common name.
	Name string
}

// AuthType names the proof, for gRPC.
func (Peer) AuthType() string { return "kalamdb-node" }

// provenConn is a connection of a Network on which both ends prove who they are before anything else is
// sent.
type provenConn interface {
	net.Conn
	// prove runs the handshake, once; later calls return its outcome.
	prove(ctx context.Context) (Peer, error)
}

// PeerOf runs the connection's handshake and returns who is there. known is false on networks that prove
// nothing.
func PeerOf(ctx context.Context, c net.Conn) (p Peer, known bool, err error) {
	proven, ok := c.(provenConn)
	if !ok {
		return Peer{}, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	p, err = proven.prove(ctx)
	return p, true, err
}

// PeerFromContext is who made a call. known is false on networks that prove nothing, and in one process.
func PeerFromContext(ctx context.Context) (p Peer, known bool) {
	if info, ok := peer.FromContext(ctx); ok {
		p, known = info.AuthInfo.(Peer)
	}
	return p, known
}

// peerCredentials let gRPC wait for a connection's handshake and carry its outcome to the handlers. On
// connections that prove nothing they do nothing.
type peerCredentials struct {
	credentials.TransportCredentials
}

func (c peerCredentials) ClientHandshake(ctx context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return proved(ctx, conn)
}

func (c peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return proved(context.Background(), conn) // gRPC gives none; PeerOf bounds it
}

func (c peerCredentials) Clone() credentials.TransportCredentials { return c }

func proved(ctx context.Context, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p, known, err := PeerOf(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	if !known {
		return conn, unproven{}, nil
	}
	return conn, p, nil
}

// unproven is the peer of a network that proves nothing.
type unproven struct{ credentials.CommonAuthInfo }

func (unproven) AuthType() string { return "none" }
