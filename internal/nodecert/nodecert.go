// Package nodecert makes a cluster's certificate authority and its nodes' certificates: for development, tests
// and clusters that have no authority of their own. What a certificate must carry is in internal/rpcnet.
package nodecert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Roles are those a node may have.
var Roles = []string{"storage", "query", "live", "gateway", "allinone"}

// Names of the files in a folder of certificates; a role's are <role>.crt and <role>.key.
const (
	CAFile    = "ca.crt"
	CAKeyFile = "ca.key"
)

const (
	// backdate keeps nodes whose clocks are a little behind from refusing a new certificate.
	backdate    = 5 * time.Minute
	serialBits  = 128
	publicMode  = 0o644
	privateMode = 0o600
)

// Authority signs nodes' certificates.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority whose certificate is good for a time.
func NewAuthority(cluster string, valid time.Duration) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "make a key: %w", err)
	}
	template, err := newTemplate("KalamDB authority of "+cluster, valid)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "sign the authority's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "read the authority's certificate: %w", err)
	}
	return &Authority{cert: cert, key: key}, nil
}

// LoadAuthority reads an authority from its folder.
func LoadAuthority(dir string) (*Authority, error) {
	cert, err := readPEM(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, err
	}
	key, err := readPEM(filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, err
	}
	a := &Authority{}
	if a.cert, err = x509.ParseCertificate(cert); err == nil {
		a.key, err = x509.ParseECPrivateKey(key)
	}
	if err != nil {
		return nil, dberr.New(dberr.Corrupt, "the authority in %s: %w", dir, err)
	}
	return a, nil
}

// Save writes the authority into a folder; its key is readable by this account only.
func (a *Authority) Save(dir string) error {
	return save(dir, CAFile, CAKeyFile, a.cert.Raw, a.key)
}

// holds reports whether a file of certificates has one; a file that cannot be read has none.
func holds(path string, cert []byte) bool {
	rest, _ := os.ReadFile(path)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return false
		}
		if bytes.Equal(block.Bytes, cert) {
			return true
		}
	}
}

// SaveCertificate writes the authority's certificate into a folder: what nodes need to know each other by. A file that holds it already
// is left, because it may hold others beside it while the authority is being replaced.
func (a *Authority) SaveCertificate(dir string) error {
	err := os.MkdirAll(dir, 0o755)
	if err == nil && !holds(filepath.Join(dir, CAFile), a.cert.Raw) {
		err = replace(filepath.Join(dir, CAFile), "CERTIFICATE", a.cert.Raw, publicMode)
	}
	if err != nil {
		return dberr.New(dberr.InvalidArgument, "write the authority's certificate: %w", err)
	}
	return nil
}

// Issue makes a certificate for a role and writes it into a folder as <role>.crt and <role>.key.
func (a *Authority) Issue(dir, cluster, role string, valid time.Duration) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return dberr.New(dberr.Internal, "make a key: %w", err)
	}
	template, err := newTemplate("kalamdb-"+role, valid)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.DNSNames = []string{template.Subject.CommonName}
	template.URIs = []*url.URL{{Scheme: "kalamdb", Host: cluster, Path: "/" + role}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return dberr.New(dberr.Internal, "sign a certificate: %w", err)
	}
	return save(dir, role+".crt", role+".key", der, key)
}

func newTemplate(name string, valid time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, dberr.New(dberr.Internal, "make a serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-backdate),
		NotAfter: now.Add(valid)}, nil
}

// save writes both files by renaming, the key first, so that whoever reads them meanwhile finds whole ones.
func save(dir, certName, keyName string, der []byte, key *ecdsa.PrivateKey) error {
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return dberr.New(dberr.Internal, "encode a key: %w", err)
	}
	err = os.MkdirAll(dir, 0o755)
	if err == nil {
		err = replace(filepath.Join(dir, keyName), "EC PRIVATE KEY", raw, privateMode)
	}
	if err == nil {
		err = replace(filepath.Join(dir, certName), "CERTIFICATE", der, publicMode)
	}
	if err != nil {
		return dberr.New(dberr.InvalidArgument, "write certificates: %w", err)
	}
	return nil
}

func replace(path, kind string, der []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	err = pem.Encode(f, &pem.Block{Type: kind, Bytes: der})
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func readPEM(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "read the authority: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, dberr.New(dberr.Corrupt, "%s holds no PEM block", path)
	}
	return block.Bytes, nil
}
