package nodecert

import (
	"context"
	"io"

	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

// node makes a network for a role from a folder of certificates.
func node(t *testing.T, inner rpcnet.Network, dir, role string) *rpcnet.TLS {
	t.Helper()
	n, err := rpcnet.NewTLS(inner, rpcnet.TLSConfig{Cluster: "c", Role: role, CAFile: filepath.Join(dir, CAFile),
		CertFile: filepath.Join(dir, role+".crt"), KeyFile: filepath.Join(dir, role+".key")})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func certificates(t *testing.T, cluster string, valid time.Duration) (string, *Authority) {
	t.Helper()
	dir := t.TempDir()
	a, err := NewAuthority(cluster, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	for _, role := range Roles {
		if err := a.Issue(dir, cluster, role, valid); err != nil {
			t.Fatal(err)
		}
	}
	return dir, a
}

// meet lets a client connect to a server and returns what each end learned.
func meet(t *testing.T, server, client rpcnet.Network, addr string) (atServer rpcnet.Peer, err error) {
	t.Helper()
	l, err := server.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			atServer, _, err = rpcnet.PeerOf(context.Background(), c)
		}
		if err == nil {
			_, err = io.Copy(c, io.LimitReader(c, 2))
		}
		got <- err
	}()
	c, err := client.DialContext(t.Context(), addr)
	if err == nil {
		defer c.Close()
		if _, err = c.Write([]byte("hi")); err == nil {
			_, err = io.ReadFull(c, make([]byte, 2))
		}
	}
	if err != nil {
		l.Close()
		<-got
		return rpcnet.Peer{}, err
	}
	return atServer, <-got
}

func TestNodesKnowEachOther(t *testing.T) {
	dir, _ := certificates(t, "c", time.Hour)
	local := rpcnet.NewLocal()
	got, err := meet(t, node(t, local, dir, "storage"), node(t, local, dir, "query"), "a")
	if err != nil || got != (rpcnet.Peer{Role: "query", Name: "kalamdb-query"}) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	dir, _ := certificates(t, "c", time.Hour)
	other, _ := certificates(t, "c", time.Hour)
	expired, a := certificates(t, "c", time.Hour)
	if err := a.Issue(expired, "c", "query", -time.Minute); err != nil {
		t.Fatal(err)
	}
	// An expired certificate of our own authority.
	for _, f := range []string{"query.crt", "query.key"} {
		if err := os.Rename(filepath.Join(expired, f), filepath.Join(expired, "old-"+f)); err != nil {
			t.Fatal(err)
		}
	}
	local := rpcnet.NewLocal()
	server := node(t, local, dir, "storage")
	if _, err := meet(t, server, node(t, local, other, "query"), "a"); err == nil {
		t.Error("a node of another authority was let in")
	}
	if _, err := meet(t, server, local, "b"); err == nil {
		t.Error("a stranger without a certificate was let in")
	}
	if _, err := meet(t, local, node(t, local, dir, "query"), "c"); err == nil {
		t.Error("a node talked to a server without a certificate")
	}
	trusting, err := rpcnet.NewTLS(local, rpcnet.TLSConfig{Cluster: "c", Role: "storage", CAFile: filepath.Join(expired, CAFile),
		CertFile: filepath.Join(expired, "storage.crt"), KeyFile: filepath.Join(expired, "storage.key")})
	if err != nil {
		t.Fatal(err)
	}
	late, err := rpcnet.NewTLS(local, rpcnet.TLSConfig{Cluster: "c", Role: "query", CAFile: filepath.Join(expired, CAFile),
		CertFile: filepath.Join(expired, "old-query.crt"), KeyFile: filepath.Join(expired, "old-query.key")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := meet(t, trusting, late, "d"); err == nil {
		t.Error("an expired certificate was let in")
	}
}

func TestWrongRoleOrClusterDoesNotStart(t *testing.T) {
	dir, _ := certificates(t, "c", time.Hour)
	for _, cfg := range []rpcnet.TLSConfig{{Cluster: "d", Role: "query"}, {Cluster: "c", Role: "storage"}} {
		cfg.CAFile, cfg.CertFile, cfg.KeyFile = filepath.Join(dir, CAFile), filepath.Join(dir, "query.crt"), filepath.Join(dir, "query.key")
		if _, err := rpcnet.NewTLS(rpcnet.NewLocal(), cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

// New certificates of a new authority are taken over without a restart, while both are trusted.
func TestRotation(t *testing.T) {
	dir, _ := certificates(t, "c", time.Hour)
	local := rpcnet.NewLocal()
	server, client := node(t, local, dir, "storage"), node(t, local, dir, "query")
	if _, err := meet(t, server, client, "a"); err != nil {
		t.Fatal(err)
	}
	next, _ := certificates(t, "c", 2*time.Hour)
	both := read(t, filepath.Join(dir, CAFile)) + read(t, filepath.Join(next, CAFile))
	write(t, filepath.Join(dir, CAFile), both)
	for _, f := range []string{"query.crt", "query.key", "storage.crt", "storage.key"} {
		write(t, filepath.Join(dir, f), read(t, filepath.Join(next, f)))
	}
	expires := client.Expires()
	for deadline := time.Now().Add(10 * time.Second); client.Expires().Equal(expires); {
		if _, err := meet(t, server, client, "b"); err != nil {
			t.Fatal("while certificates change: ", err)
		}
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not used")
		}
	}
	if _, err := meet(t, server, client, "c"); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// write replaces a file and makes it look newer, whatever the clock's resolution.
func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(5 * time.Second)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
}

func TestAuthoritySurvivesItsFolder(t *testing.T) {
	dir, _ := certificates(t, "c", time.Hour)
	a, err := LoadAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Issue(dir, "c", "query", time.Hour); err != nil {
		t.Fatal(err)
	}
	local := rpcnet.NewLocal()
	if _, err := meet(t, node(t, local, dir, "storage"), node(t, local, dir, "query"), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAuthority(t.TempDir()); err == nil {
		t.Error("an authority was read from an empty folder")
	}
}
