package raftgroup

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/nodecert"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

// secretNetwork makes a view for each role of a network whose nodes know a secret.
func secretNetwork(t *testing.T) func(role string) rpcnet.Network {
	inner := rpcnet.NewLocal()
	return func(role string) rpcnet.Network {
		n, err := rpcnet.NewSecret(inner, "a secret of the cluster", role)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// tlsNetwork does the same with certificates.
func tlsNetwork(t *testing.T) func(role string) rpcnet.Network {
	inner, dir := rpcnet.NewLocal(), t.TempDir()
	a, err := nodecert.NewAuthority("c", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	return func(role string) rpcnet.Network {
		if err := a.Issue(dir, "c", role, time.Hour); err != nil {
			t.Fatal(err)
		}
		n, err := rpcnet.NewTLS(inner, rpcnet.TLSConfig{Cluster: "c", Role: role, CAFile: filepath.Join(dir, nodecert.CAFile),
			CertFile: filepath.Join(dir, role+".crt"), KeyFile: filepath.Join(dir, role+".key")})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
}

func TestOnlyStorageNodesSpeakRaft(t *testing.T) {
	for name, make := range map[string]func(*testing.T) func(string) rpcnet.Network{"secret": secretNetwork, "certificates": tlsNetwork} {
		t.Run(name, func(t *testing.T) {
			as := make(t)
			var out bytes.Buffer
			m, err := Listen(as("storage"), "n1/raft", "n1", book{}, slog.New(slog.NewTextHandler(&out, nil)))
			if err != nil {
				t.Fatal(err)
			}
			l := m.layer(7)
			for _, role := range []string{"storage", "allinone", "gateway", "live", "query", "gateway"} {
				reached := reaches(t, as(role), l)
				if want := role == "storage" || role == "allinone"; reached != want {
					t.Errorf("%s: reached the group %t, want %t", role, reached, want)
				}
			}
			m.Close() // and nobody logs any more
			if n := strings.Count(out.String(), "refused"); n != 1 {
				t.Errorf("%d lines about one address:\n%s", n, &out)
			}
		})
	}
}

// reaches dials a group as another network's node and reports whether the group got the connection.
func reaches(t *testing.T, network rpcnet.Network, l *layer) bool {
	t.Helper()
	c, err := network.DialContext(t.Context(), "n1/raft")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h, err := hello{group: l.group, server: "n1"}.encode()
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() {
		_, err := c.Write(h)
		if err == nil {
			_, err = c.Read(h[:1]) // until the other end closes it
		}
		closed <- err
	}()
	select {
	case there := <-l.conns:
		defer there.Close()
		return true
	case err := <-closed:
		if err == nil {
			t.Error("something was answered")
		}
		return false
	}
}

func TestRefusalsAreToldOnceAMinute(t *testing.T) {
	var r refusals
	now := time.Unix(1, 0)
	if !r.due("a", now) || r.due("a", now.Add(refusalPause-1)) || !r.due("b", now) || !r.due("a", now.Add(refusalPause)) {
		t.Error("not once a minute for each address")
	}
	for i := range 2 * refusalsMax {
		r.due(fmt.Sprint(i), now)
	}
	if len(r.last) > refusalsMax {
		t.Errorf("%d addresses are remembered", len(r.last))
	}
	if !r.due("new", now.Add(2*refusalPause)) {
		t.Error("the old ones are not forgotten")
	}
}

// Connections break when a group stops: nobody needs to read of it.
func TestAStopIsQuiet(t *testing.T) {
	var out bytes.Buffer
	stopping := false
	l := newLogger(t.Context(), slog.New(slog.NewTextHandler(&out, nil)), func() bool { return stopping })
	l.Error("failed to decode incoming command", "error", net.ErrClosed)
	if !strings.Contains(out.String(), "level=ERROR") {
		t.Errorf("while it runs: %q", &out)
	}
	out.Reset()
	stopping = true
	l.Error("failed to decode incoming command", "error", errors.New("closed pipe"))
	if out.Len() != 0 {
		t.Errorf("while it stops: %q", &out)
	}
}
