package rpcnet

import (
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/nodecert"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

func certificates(t *testing.T, cluster string) string {
	t.Helper()
	dir := t.TempDir()
	a, err := nodecert.NewAuthority(cluster, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	for _, role := range nodecert.Roles {
		if err := a.Issue(dir, cluster, role, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func withCertificate(t *testing.T, inner Network, dir, cluster, role string) *TLS {
	t.Helper()
	n, err := NewTLS(inner, TLSConfig{Cluster: cluster, Role: role, CAFile: filepath.Join(dir, nodecert.CAFile),
		CertFile: filepath.Join(dir, role+".crt"), KeyFile: filepath.Join(dir, role+".key")})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Over a real port and real gRPC: the role in the certificate decides, and who has none learns nothing.
func TestRolesOverTLS(t *testing.T) {
	dir, port := certificates(t, "c"), &loopback{}
	server, err := NewServer(withCertificate(t, port, dir, "c", "storage"), "storage",
		ServerOptions{Roles: []string{"query"}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(server.Registrar(), userServer{})
	server.Serve()
	t.Cleanup(func() { stopNow(server) })
	if role, err := ask(t, withCertificate(t, port, dir, "c", "query")); err != nil || role != "query" {
		t.Errorf("a query node: %q, %v", role, err)
	}
	if _, err := ask(t, withCertificate(t, port, dir, "c", "live")); !dberr.Is(err, dberr.PermissionDenied) {
		t.Errorf("a role that is not accepted: %v", err)
	}
	if _, err := ask(t, withCertificate(t, port, certificates(t, "c"), "c", "query")); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("another authority: %v", err)
	}
	if _, err := ask(t, secret(t, port, goodSecret, "query")); err == nil {
		t.Error("a secret in place of a certificate was accepted")
	}
	if _, err := ask(t, port); err == nil {
		t.Error("a stranger was accepted")
	}
}

func FuzzNodeURI(f *testing.F) {
	f.Add("kalamdb://c/query", "https://example.com/")
	f.Add("kalamdb://c/query", "kalamdb://c/storage")
	f.Add("kalamdb://c/query/storage", "")
	f.Add("kalamdb:c/query", "kalamdb://user@c:1/query?x#y")
	f.Fuzz(func(t *testing.T, first, second string) {
		var uris []*url.URL
		own := 0
		for _, text := range []string{first, second} {
			if u, err := url.Parse(text); err == nil {
				uris = append(uris, u)
				if u.Scheme == "kalamdb" {
					own++
				}
			}
		}
		cluster, role, err := NodeURI(uris)
		if err != nil {
			if cluster != "" || role != "" {
				t.Fatalf("%q, %q and %v", cluster, role, err)
			}
			return
		}
		if own != 1 || cluster == "" || role == "" || strings.Contains(role, "/") {
			t.Fatalf("%q and %q gave %q, %q", first, second, cluster, role)
		}
		// The identity is all that the URI says: nothing beside it that another reader could take for it.
		for _, u := range uris {
			if u.Scheme != "kalamdb" {
				continue
			}
			if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" || u.Host != cluster || u.Path != "/"+role {
				t.Fatalf("%v gave %q, %q", u, cluster, role)
			}
		}
	})
}

func TestNodeURI(t *testing.T) {
	for _, c := range []struct {
		text []string
		good bool
	}{
		{[]string{"kalamdb://c/query"}, true},
		{[]string{"https://example.com/x", "kalamdb://c/query"}, true},
		{nil, false},
		{[]string{"https://c/query"}, false},
		{[]string{"kalamdb://c/query", "kalamdb://c/storage"}, false},
		{[]string{"kalamdb://c"}, false},
		{[]string{"kalamdb:///query"}, false},
		{[]string{"kalamdb://c/query/x"}, false},
		{[]string{"kalamdb:c/query"}, false},
		{[]string{"kalamdb://user@c/query"}, false},
		{[]string{"kalamdb://c/query?x"}, false},
		{[]string{"kalamdb://c/query?"}, false},
		{[]string{"kalamdb://c/query#x"}, false},
	} {
		var uris []*url.URL
		for _, text := range c.text {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			uris = append(uris, u)
		}
		cluster, role, err := NodeURI(uris)
		if c.good && (err != nil || cluster != "c" || role != "query") || !c.good && !dberr.Is(err, dberr.Unauthenticated) {
			t.Errorf("%v: %q, %q, %v", c.text, cluster, role, err)
		}
	}
}
