package rpcnet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// reloadEvery is how often certificate files are looked at again, at handshakes.
const reloadEvery = time.Second

// TLSConfig names a node's certificate. The files are PEM and are read again when they change, so
// certificates are replaced without a restart; the CA file may hold several authorities.
type TLSConfig struct {
	// Cluster and Role are what the own certificate must carry as URI, kalamdb://cluster/role. Others must carry
	// the same cluster.
	Cluster, Role string
	CAFile        string
	CertFile      string
	KeyFile       string
}

// TLS is a Network on which both ends show certificates: TLS 1.3 on top of another Network. A node is told by
// the role its certificate names, not by its address, which may change.
type TLS struct {
	inner Network
	cfg   TLSConfig

	mu     sync.Mutex
	looked time.Time
	stamp  string // sizes and times of the files as read
	cert   *tls.Certificate
	roots  *x509.CertPool
}

// NewTLS reads the files once, so that a wrong setting is told at the start.
func NewTLS(inner Network, cfg TLSConfig) (*TLS, error) {
	t := &TLS{inner: inner, cfg: cfg}
	if err := t.load(); err != nil {
		return nil, err
	}
	return t, nil
}

// Listen accepts connections whose handshake happens at first use.
func (t *TLS) Listen(addr string) (net.Listener, error) {
	l, err := t.inner.Listen(addr)
	if err != nil {
		return nil, err
	}
	return &tlsListener{Listener: l, network: t}, nil
}

// DialContext connects and proves both ends.
func (t *TLS) DialContext(ctx context.Context, addr string) (net.Conn, error) {
	inner, err := t.inner.DialContext(ctx, addr)
	if err != nil {
		return nil, err
	}
	c := t.conn(tls.Client(inner, t.config()))
	if _, _, err := PeerOf(ctx, c); err != nil {
		_ = inner.Close()
		return nil, err
	}
	return c, nil
}

// Expires is when the own certificate ends.
func (t *TLS) Expires() time.Time {
	cert, _ := t.current()
	return cert.Leaf.NotAfter
}

type tlsListener struct {
	net.Listener
	network *TLS
}

func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.network.conn(tls.Server(c, l.network.config())), nil
}

// config is one connection's. Verification is ours: a node is told by its URI, and the files may be new.
func (t *TLS) config() *tls.Config {
	cert, _ := t.current()
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert}, ClientAuth: tls.RequireAnyClientCert,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection checks the chain and the identity
		// Tickets would let a node whose certificate was replaced go on with the old one.
		SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := t.identify(s)
			return err
		}}
}

// identify checks a peer's chain and reads who it is.
func (t *TLS) identify(s tls.ConnectionState) (Peer, error) {
	if len(s.PeerCertificates) == 0 {
		return Peer{}, dberr.New(dberr.Unauthenticated, "the other node shows no certificate")
	}
	leaf, between := s.PeerCertificates[0], x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	if err := t.verify(leaf, between); err != nil {
		return Peer{}, dberr.New(dberr.Unauthenticated, "the other node's certificate is not good: %w", err)
	}
	cluster, role, err := NodeURI(leaf.URIs)
	if err != nil {
		return Peer{}, err
	}
	if cluster != t.cfg.Cluster {
		return Peer{}, dberr.New(dberr.Unauthenticated, "the other node belongs to cluster %q, this is %q", cluster, t.cfg.Cluster)
	}
	return Peer{Role: role, Name: leaf.Subject.CommonName}, nil
}

// verify checks a chain against the authorities. One that nobody vouches for is checked once more against the
// files as they are now: the other node may have seen a new authority within reloadEvery, and this one not.
func (t *TLS) verify(leaf *x509.Certificate, between *x509.CertPool) error {
	_, roots := t.current()
	check := func() error {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return err
	}
	err := check()
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		roots = t.reload()
		err = check()
	}
	return err
}

// reload looks at the files now.
func (t *TLS) reload() *x509.CertPool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.load() // what cannot be read leaves what was
	return t.roots
}

// NodeURI reads cluster and role from a certificate's URIs: exactly one is kalamdb://cluster/role, and says nothing
// else.
func NodeURI(uris []*url.URL) (cluster, role string, err error) {
	found := 0
	for _, u := range uris {
		if u.Scheme == "kalamdb" {
			found++
			cluster, role = u.Host, strings.TrimPrefix(u.Path, "/")
			if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" {
				role = ""
			}
		}
	}
	if found != 1 || cluster == "" || role == "" || strings.Contains(role, "/") {
		return "", "", dberr.New(dberr.Unauthenticated, "a node's certificate needs one URI kalamdb://cluster/role")
	}
	return cluster, role, nil
}

// current returns certificate and authorities, read again when the files changed. Files that cannot be read
// right now, as when they are being replaced, leave what was.
func (t *TLS) current() (*tls.Certificate, *x509.CertPool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.looked) > reloadEvery {
		_ = t.load()
	}
	return t.cert, t.roots
}

// load reads the files if they changed. mu is held, or nobody else knows t yet.
func (t *TLS) load() error {
	t.looked = time.Now()
	var stamp strings.Builder
	for _, f := range []string{t.cfg.CAFile, t.cfg.CertFile, t.cfg.KeyFile} {
		info, err := os.Stat(f)
		if err != nil {
			return dberr.New(dberr.InvalidArgument, "a certificate file: %w", err)
		}
		stamp.WriteString(info.ModTime().String() + "|")
	}
	if stamp.String() == t.stamp {
		return nil
	}
	// The authorities come first, and count even when certificate and key do not fit each other yet.
	pem, err := os.ReadFile(t.cfg.CAFile)
	if err != nil {
		return dberr.New(dberr.InvalidArgument, "the authority's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return dberr.New(dberr.InvalidArgument, "%s holds no certificate", t.cfg.CAFile)
	}
	t.roots = roots
	cert, err := t.cfg.certificate()
	if err != nil {
		return err
	}
	t.cert, t.stamp = cert, stamp.String()
	return nil
}

// certificate reads the node's own certificate and checks that it says who the node is.
func (c *TLSConfig) certificate() (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "read %s and %s: %w", c.CertFile, c.KeyFile, err)
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "read %s: %w", c.CertFile, err)
	}
	cluster, role, err := NodeURI(cert.Leaf.URIs)
	if err != nil {
		return nil, err
	}
	if cluster != c.Cluster || role != c.Role {
		return nil, dberr.New(dberr.InvalidArgument, "%s is for %s of cluster %q, this node is %s of %q", c.CertFile, role, cluster, c.Role, c.Cluster)
	}
	return &cert, nil
}

func (t *TLS) conn(c *tls.Conn) *tlsConn { return &tlsConn{Conn: c, network: t} }

// tlsConn remembers the peer's identity.
type tlsConn struct {
	*tls.Conn
	network *TLS
}

func (c *tlsConn) prove(ctx context.Context) (Peer, error) {
	if err := c.HandshakeContext(ctx); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return Peer{}, dberr.New(dberr.Unauthenticated, "the other node did not prove who it is within %v", handshakeTimeout)
		}
		return Peer{}, dberr.New(dberr.Unauthenticated, "prove identities: %w", err)
	}
	return c.network.identify(c.ConnectionState())
}
