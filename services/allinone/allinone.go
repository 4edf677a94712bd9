// Package allinone runs every role in one process, with in-memory connections between them: the server
// for a laptop, for tests and for small installations. Only the gateway listens outside.
package allinone

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/host"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/telemetry"
	"github.com/kalamdb/kalamdb-go/services/gateway"
	"github.com/kalamdb/kalamdb-go/services/live"
	"github.com/kalamdb/kalamdb-go/services/query"
	"github.com/kalamdb/kalamdb-go/services/storage"
)

// jwtSecretBytes makes a secret of 64 characters.
const jwtSecretBytes = 48

// Node is a running server.
type Node struct {
	host    *host.Host
	gateway *gateway.Gateway
	timeout time.Duration
}

// Start starts all roles and returns when clients can connect. version is shown to clients; out gets
// what a person must see (root's first password).
func Start(ctx context.Context, cfg Config, version string, tel *telemetry.Telemetry, out io.Writer) (*Node, error) {
	if err := os.MkdirAll(cfg.Storage.DataPath, 0o700); err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "storage.data_path: %w", err)
	}
	if cfg.Auth.JWTSecret == "" {
		made, _, err := secret(cfg.Storage.DataPath, jwtSecretFile, jwtSecretBytes)
		if err != nil {
			return nil, err
		}
		cfg.Auth.JWTSecret = made
	}
	s, l, q, g := cfg.roles()
	s.Logger, l.Logger, q.Logger, g.Logger = tel.Logger, tel.Logger, tel.Logger, tel.Logger
	s.Metrics, l.Metrics, q.Metrics, g.Metrics = tel.Registry, tel.Registry, tel.Registry, tel.Registry
	g.Version = version

	inside := rpcnet.NewLocal()
	n := &Node{gateway: gateway.New(g, inside, rpcnet.TCP{}), timeout: time.Duration(cfg.Server.ShutdownTimeout)}
	var err error
	n.host, err = host.Start(ctx, tel.Logger,
		storage.New(s, inside), // first: everyone else dials it
		&bootstrap{network: inside, dir: cfg.Storage.DataPath, password: cfg.Auth.RootPassword, cost: cfg.Auth.BcryptCost, out: out},
		live.New(l, inside),  // before gateway, so that no subscriber is turned away
		query.New(q, inside), // after live: it lists and ends live queries
		n.gateway,            // last: opens the public ports
	)
	return n, err
}

// Gateway is the role that listens outside.
func (n *Node) Gateway() *gateway.Gateway { return n.gateway }

// Wait returns when ctx ends (nil) or a role dies (its error).
func (n *Node) Wait(ctx context.Context) error { return n.host.Wait(ctx) }

// Stop stops the roles in reverse order, within the configured time.
func (n *Node) Stop(ctx context.Context) error { return n.host.Stop(ctx, n.timeout) }
