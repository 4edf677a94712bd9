// Package allinone runs every role in one process, with in-memory connections between them: the server
// for a laptop, for tests and for small installations. Only the gateway listens outside.
package allinone

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/host"
	"github.com/kalamdb/kalamdb-go/internal/keyring"
	"github.com/kalamdb/kalamdb-go/internal/membership"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/secretfile"
	"github.com/kalamdb/kalamdb-go/internal/telemetry"
	"github.com/kalamdb/kalamdb-go/services/gateway"
	"github.com/kalamdb/kalamdb-go/services/live"
	"github.com/kalamdb/kalamdb-go/services/query"
	"github.com/kalamdb/kalamdb-go/services/storage"
)

// Files in the data directory that hold secrets, readable by the server's account only.
const (
	// RootPasswordFile is where tools on the same machine find root's first password.
	RootPasswordFile = "root-password"
	jwtSecretFile    = "jwt-secret"
	// jwtSecretBytes makes a secret of 64 characters.
	jwtSecretBytes = 48
	masterKeyFile  = "master-key"
)

// Roles makes all roles, in the order of their start. version is shown to clients; out gets what a person
// must see (root's first password).
func Roles(cfg Config, version string, tel *telemetry.Telemetry, out io.Writer) ([]host.Role, error) {
	if err := os.MkdirAll(cfg.Storage.DataPath, 0o700); err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "storage.data_path: %w", err)
	}
	if cfg.Auth.JWTSecret == "" {
		made, _, err := secretfile.Get(filepath.Join(cfg.Storage.DataPath, jwtSecretFile), jwtSecretBytes)
		if err != nil {
			return nil, err
		}
		cfg.Auth.JWTSecret = made
	}
	if cfg.Storage.MasterKey == "" {
		made, _, err := secretfile.Get(filepath.Join(cfg.Storage.DataPath, masterKeyFile), keyring.KeyBytes)
		if err != nil {
			return nil, err
		}
		cfg.Storage.MasterKey = made
	}
	s, l, q, g := cfg.roles()
	s.Logger, l.Logger, q.Logger, g.Logger = tel.Logger, tel.Logger, tel.Logger, tel.Logger
	s.Metrics, l.Metrics, q.Metrics, g.Metrics = tel.Registry, tel.Registry, tel.Registry, tel.Registry
	g.Version, s.Version = version, version

	inside := rpcnet.NewLocal()
	catalog, err := rpcnet.Dial(inside, "storage")
	if err != nil {
		return nil, err
	}
	root := membership.NewRoot(membership.RootConfig{AllowRemote: cfg.Auth.RootAllowRemote, Password: cfg.Auth.RootPassword, Cost: cfg.Auth.BcryptCost, Out: out,
		File: filepath.Join(cfg.Storage.DataPath, RootPasswordFile)}, catalog)
	return []host.Role{
		storage.New(s, inside), // first: everyone else dials it
		root,                   // before gateway: nobody meets a server without a password
		live.New(l, inside),    // before gateway, so that no subscriber is turned away
		query.New(q, inside),   // after live: it lists and ends live queries
		&door{gateway.New(g, inside, rpcnet.TCP{}), version}, // last: opens the public ports
	}, nil
}

// door is the gateway, which tells where clients may connect.
type door struct {
	*gateway.Gateway
	version string
}

// Greeting is printed when everything serves.
func (d *door) Greeting() string {
	return fmt.Sprintf("KalamDB %s is ready: HTTP and WebSocket on %s, gRPC and Flight SQL on %s. Ctrl-C stops it.",
		d.version, d.HTTPAddr(), d.GRPCAddr())
}
