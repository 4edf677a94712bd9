package grpcapi

import (
	"context"
	"encoding/base64"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/auth"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/gatewaytest"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/limit"
)

const openMethod = "/open"

func newDoor(t *testing.T) *Door {
	t.Helper()
	network := rpcnet.NewLocal()
	gatewaytest.NewCatalog(t, network).AddUser(t, &catalogv1.User{UserId: "root", Role: catalogv1.Role_ROLE_SYSTEM, AuthType: "password"}, "root secret")
	view := gatewaytest.View(t, network)
	service, err := auth.New(auth.Config{Secret: []byte("0123456789abcdef0123456789abcdef"), BcryptCost: gatewaytest.BcryptCost,
		Logger: slog.New(slog.DiscardHandler)}, view)
	if err != nil {
		t.Fatal(err)
	}
	if err := view.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	service.Start(t.Context())
	t.Cleanup(func() { service.Stop(); view.Stop() })
	return &Door{Auth: service, Guard: limit.NewGuard(limit.GuardConfig{Now: time.Now}), Open: map[string]bool{openMethod: true},
		Logger: slog.New(slog.DiscardHandler), Observe: func(string, error, time.Duration) {}}
}

// from is a call from an address with metadata.
func from(t *testing.T, addr string, pairs ...string) context.Context {
	ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(addr), Port: 4711}})
	return metadata.NewIncomingContext(ctx, metadata.Pairs(pairs...))
}

var asRoot = []string{"authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("root:root secret"))}

// A proxy on this machine has this machine's rights only for itself.
func TestTheDoorKnowsWhomAProxyForwardsFor(t *testing.T) {
	d := newDoor(t)
	for _, c := range []struct {
		name   string
		header []string
		want   dberr.Code
		client string // "" when nobody knows
	}{
		{"this machine", nil, "", "127.0.0.1"},
		{"forwarded", []string{"x-forwarded-for", "203.0.113.7"}, dberr.PermissionDenied, "203.0.113.7"},
		{"what the client claimed first", []string{"x-forwarded-for", "127.0.0.1", "x-forwarded-for", "203.0.113.7"}, dberr.PermissionDenied, "203.0.113.7"},
		{"forwarded for somebody", []string{"via", "1.1 proxy"}, dberr.PermissionDenied, ""},
		{"real ip", []string{"x-real-ip", "127.0.0.1"}, dberr.PermissionDenied, ""},
		{"forwarded header", []string{"forwarded", "for=127.0.0.1"}, dberr.PermissionDenied, ""},
	} {
		ctx := from(t, "127.0.0.1", append(c.header, asRoot...)...)
		if _, err := d.enter(ctx, "/m"); dberr.CodeOf(err) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
		got, err := d.enter(ctx, openMethod) // which authenticates by itself, from the same address
		if client := edge.Client(got); err != nil || c.client == "" && client.IsValid() || c.client != "" && client != netip.MustParseAddr(c.client) {
			t.Errorf("%s: the client is %s, %v", c.name, client, err)
		}
	}
}

func TestTheDoorMayRefusePasswords(t *testing.T) {
	d := newDoor(t)
	d.DisableBasic = true
	if _, err := d.enter(from(t, "127.0.0.1", asRoot...), "/m"); !dberr.Is(err, dberr.Unauthenticated) {
		t.Errorf("a password: %v", err)
	}
	l, err := d.Auth.Login(t.Context(), "root", "root secret", netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.enter(from(t, "127.0.0.1", "authorization", "Bearer "+l.AccessToken), "/m"); err != nil {
		t.Errorf("a token: %v", err)
	}
}
