package rpcnet

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const goodSecret = "0123456789abcdef"

type userServer struct {
	catalogv1.UnimplementedCatalogServiceServer
}

func (userServer) GetUser(ctx context.Context, _ *catalogv1.GetUserRequest) (*catalogv1.GetUserResponse, error) {
	p, _ := PeerFromContext(ctx)
	return &catalogv1.GetUserResponse{User: &catalogv1.User{UserId: p.Role}}, nil
}

// pipes is a Network of real pipes: Local's direct calls would go around the handshake.
func pipes() Network { return NewFaults(NewLocal()) }

func secret(t *testing.T, inner Network, text, role string) *Secret {
	t.Helper()
	s, err := NewSecret(inner, text, role)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ask(t *testing.T, n Network) (string, error) {
	t.Helper()
	conn, err := Dial(n, "storage")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := catalogv1.NewCatalogServiceClient(conn).GetUser(t.Context(), &catalogv1.GetUserRequest{})
	return resp.GetUser().GetUserId(), err
}

func TestSecretAndRoles(t *testing.T) {
	inner := pipes()
	server, err := NewServer(secret(t, inner, goodSecret, "storage"), "storage", ServerOptions{Roles: []string{"query"}})
	if err != nil {
		t.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(server.Registrar(), userServer{})
	server.Serve()
	t.Cleanup(func() { stopNow(server) })
	if role, err := ask(t, secret(t, inner, goodSecret, "query")); err != nil || role != "query" {
		t.Errorf("a query node: %q, %v", role, err)
	}
	if _, err := ask(t, secret(t, inner, goodSecret, "gateway")); !dberr.Is(err, dberr.PermissionDenied) {
		t.Errorf("a role that is not accepted: %v", err)
	}
	if _, err := ask(t, secret(t, inner, "another secret of 16+", "query")); err == nil {
		t.Error("a wrong secret was accepted")
	}
	if _, err := ask(t, inner); err == nil {
		t.Error("a stranger was accepted")
	}
}

func stopNow(s *Server) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Stop(ctx)
}

// A server that does not know the secret learns nothing, and the client notices.
func TestClientChecksTheServer(t *testing.T) {
	inner := pipes()
	l, err := secret(t, inner, "another secret of 16+", "storage").Listen("storage")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = c.Read(make([]byte, 1))
		}
	}()
	if _, err := secret(t, inner, goodSecret, "query").DialContext(t.Context(), "storage"); !dberr.Is(err, dberr.Unauthenticated) {
		t.Fatal(err)
	}
}

func TestShortSecret(t *testing.T) {
	if _, err := NewSecret(NewLocal(), "short", "query"); !dberr.Is(err, dberr.InvalidArgument) {
		t.Error(err)
	}
}

// readWriter is what the other end sends, and a place for what it would get.
type readWriter struct {
	io.Reader
	io.Writer
}

func FuzzSecretHandshake(f *testing.F) {
	s, err := NewSecret(NewLocal(), goodSecret, "storage")
	if err != nil {
		f.Fatal(err)
	}
	g, err := s.greeting()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(g, make([]byte, 32)...), true)
	f.Add([]byte{1, 255}, false)
	f.Fuzz(func(t *testing.T, in []byte, client bool) {
		if _, err := s.shake(readWriter{bytes.NewReader(in), io.Discard}, client); err == nil {
			t.Fatal("proved without the secret")
		}
	})
}
