package allinone

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/kalamdb/kalamdb-go/internal/authn"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	rootUser          = "root"
	rootPasswordBytes = 18 // 24 characters
)

// bootstrap makes the user root on first start. It is started between storage, which holds the users,
// and gateway, which lets them in: nobody meets a server without a password.
type bootstrap struct {
	network  rpcnet.Network
	dir      string
	password string // from the settings; empty means a random one
	cost     int
	out      io.Writer
}

func (b *bootstrap) Name() string { return "bootstrap" }

func (b *bootstrap) Stop(context.Context) error { return nil }

func (b *bootstrap) Start(ctx context.Context) error {
	conn, err := rpcnet.Dial(b.network, "storage")
	if err != nil {
		return err
	}
	defer conn.Close()
	catalog := catalogv1.NewCatalogServiceClient(conn)
	got, err := catalog.GetUser(ctx, &catalogv1.GetUserRequest{UserId: rootUser})
	if err != nil || got.GetUser() != nil {
		return err
	}
	// The file comes first: if the process dies in between, the next start uses the same password.
	password, given := b.password, b.password != ""
	if !given {
		if password, _, err = secret(b.dir, RootPasswordFile, rootPasswordBytes); err != nil {
			return err
		}
	}
	hash, err := authn.HashPassword(password, b.cost)
	if err != nil {
		return dberr.New(dberr.InvalidArgument, "the root password: %w", err)
	}
	_, err = catalog.Apply(ctx, &catalogv1.ApplyRequest{Command: &catalogv1.Command{Command: &catalogv1.Command_CreateUser{
		CreateUser: &catalogv1.CreateUser{IfNotExists: true, User: &catalogv1.User{UserId: rootUser, PasswordHash: hash,
			Role: catalogv1.Role_ROLE_SYSTEM, AuthType: "password"}}}}})
	if err != nil {
		return err
	}
	if !given {
		fmt.Fprintf(b.out, "\nFirst start: the user root was made.\n  password: %s\n  also in:  %s (readable by this account only)\n\n",
			password, filepath.Join(b.dir, RootPasswordFile))
	}
	return nil
}
