package rpcnet

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"net"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// The handshake of a shared secret, version 1:
//
//	client → server   version u8, role length u8, role, nonce of 32 bytes
//	server → client   version u8, role length u8, role, nonce of 32 bytes, proof of 32 bytes
//	client → server   proof of 32 bytes
//
// A proof is HMAC-SHA-256 over a label, both greetings and nothing else. What follows is neither encrypted nor
// protected against changes on its way: it is for loopback and networks that are trusted. TLS is for all others.
const (
	secretVersion  = 1
	nonceBytes     = 32
	roleBytesMax   = 32
	secretBytesMin = 16
)

// Secret is a Network whose nodes prove to each other that they know a secret.
type Secret struct {
	inner  Network
	secret []byte
	role   string
}

// NewSecret makes a network for a node of a role.
func NewSecret(inner Network, secret, role string) (*Secret, error) {
	if len(secret) < secretBytesMin {
		return nil, dberr.New(dberr.InvalidArgument, "the cluster's secret has %d bytes, at least %d are needed", len(secret), secretBytesMin)
	}
	if role == "" || len(role) > roleBytesMax {
		return nil, dberr.New(dberr.InvalidArgument, "%q is no role of a node", role)
	}
	return &Secret{inner: inner, secret: []byte(secret), role: role}, nil
}

// Listen accepts connections whose handshake happens at first use.
func (s *Secret) Listen(addr string) (net.Listener, error) {
	l, err := s.inner.Listen(addr)
	if err != nil {
		return nil, err
	}
	return &secretListener{Listener: l, network: s}, nil
}

// DialContext connects and proves both ends.
func (s *Secret) DialContext(ctx context.Context, addr string) (net.Conn, error) {
	inner, err := s.inner.DialContext(ctx, addr)
	if err != nil {
		return nil, err
	}
	c := &secretConn{Conn: inner, network: s, client: true}
	if _, _, err := PeerOf(ctx, c); err != nil {
		_ = inner.Close()
		return nil, err
	}
	return c, nil
}

type secretListener struct {
	net.Listener
	network *Secret
}

func (l *secretListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &secretConn{Conn: c, network: l.network}, nil
}

// secretConn proves before the first byte of its user.
type secretConn struct {
	net.Conn
	network *Secret
	client  bool

	once sync.Once
	peer Peer
	err  error
}

func (c *secretConn) prove(ctx context.Context) (Peer, error) {
	c.once.Do(func() {
		deadline, ok := ctx.Deadline()
		if !ok {
			deadline = time.Now().Add(handshakeTimeout)
		}
		if c.err = c.SetDeadline(deadline); c.err != nil {
			return
		}
		stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
		c.peer, c.err = c.network.shake(c.Conn, c.client)
		if !stop() && c.err == nil {
			c.err = ctx.Err()
		}
		if c.err == nil {
			c.err = c.SetDeadline(time.Time{})
		} else {
			_ = c.Close()
		}
	})
	if c.err != nil {
		return Peer{}, dberr.New(dberr.Unauthenticated, "prove the cluster's secret: %w", c.err)
	}
	return c.peer, nil
}

func (c *secretConn) Read(p []byte) (int, error) {
	if _, err := c.prove(context.Background()); err != nil { // prove bounds it
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *secretConn) Write(p []byte) (int, error) {
	if _, err := c.prove(context.Background()); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// shake runs the handshake.
func (s *Secret) shake(c io.ReadWriter, client bool) (Peer, error) {
	mine, err := s.greeting()
	if err != nil {
		return Peer{}, err
	}
	if client {
		return s.shakeAsClient(c, mine)
	}
	return s.shakeAsServer(c, mine)
}

func (s *Secret) shakeAsClient(c io.ReadWriter, mine []byte) (Peer, error) {
	if _, err := c.Write(mine); err != nil {
		return Peer{}, err
	}
	theirs, role, err := readGreeting(c)
	if err != nil {
		return Peer{}, err
	}
	if err := s.checkProof(c, "server", mine, theirs); err != nil {
		return Peer{}, err
	}
	_, err = c.Write(s.proof("client", mine, theirs))
	return Peer{Role: role}, err
}

func (s *Secret) shakeAsServer(c io.ReadWriter, mine []byte) (Peer, error) {
	theirs, role, err := readGreeting(c)
	if err != nil {
		return Peer{}, err
	}
	if _, err := c.Write(append(mine, s.proof("server", theirs, mine)...)); err != nil {
		return Peer{}, err
	}
	return Peer{Role: role}, s.checkProof(c, "client", theirs, mine)
}

func (s *Secret) greeting() ([]byte, error) {
	g := append([]byte{secretVersion, byte(len(s.role))}, s.role...)
	nonce := make([]byte, nonceBytes)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return append(g, nonce...), nil
}

// readGreeting reads what the other end says of itself, and all its bytes.
func readGreeting(r io.Reader) (raw []byte, role string, err error) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, "", err
	}
	if head[0] != secretVersion {
		return nil, "", dberr.New(dberr.Unsupported, "handshake version %d, this node speaks %d", head[0], secretVersion)
	}
	n := int(head[1])
	if n == 0 || n > roleBytesMax {
		return nil, "", dberr.New(dberr.InvalidArgument, "a role of %d bytes", n)
	}
	rest := make([]byte, n+nonceBytes)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, "", err
	}
	return append(head, rest...), string(rest[:n]), nil
}

// proof binds label and both greetings, which hold roles and nonces, and are told apart by their lengths.
func (s *Secret) proof(label string, client, server []byte) []byte {
	m := hmac.New(sha256.New, s.secret)
	m.Write([]byte("kalamdb node " + label))
	m.Write(client)
	m.Write(server)
	return m.Sum(nil)
}

func (s *Secret) checkProof(r io.Reader, label string, client, server []byte) error {
	got := make([]byte, sha256.Size)
	if _, err := io.ReadFull(r, got); err != nil {
		return err
	}
	if !hmac.Equal(got, s.proof(label, client, server)) {
		return dberr.New(dberr.Unauthenticated, "the other node does not know the cluster's secret")
	}
	return nil
}
