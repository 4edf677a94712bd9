package membership

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/authn"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/secretfile"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	rootUser          = "root"
	rootPasswordBytes = 18 // 24 characters
)

// RootConfig says how the user root of a new cluster is made.
type RootConfig struct {
	// Password from the settings; empty means a random one, which goes into File.
	Password string
	File     string
	// AllowRemote lets root log in from other machines. Otherwise it must be on the gateway's.
	AllowRemote bool
	// Cost of hashing it, see authn.HashPassword.
	Cost int
	// Out gets what a person must see.
	Out io.Writer
}

// Root makes the user root of a new cluster. It is started after what holds the users and before what lets
// them in: nobody meets a server without a password. Of several nodes that try at once one succeeds, and
// only that one tells its password.
type Root struct {
	cfg  RootConfig
	conn grpc.ClientConnInterface
}

// NewRoot makes the role; conn leads to the catalog.
func NewRoot(cfg RootConfig, conn grpc.ClientConnInterface) *Root { return &Root{cfg: cfg, conn: conn} }

// Name is the role's name.
func (*Root) Name() string { return "root account" }

// Stop has nothing to do.
func (*Root) Stop(context.Context) error { return nil }

// Start makes the user unless there is one.
func (r *Root) Start(ctx context.Context) error {
	catalog := catalogv1.NewCatalogServiceClient(r.conn)
	got, err := catalog.GetUser(ctx, &catalogv1.GetUserRequest{UserId: rootUser})
	if err != nil {
		return err
	}
	if got.GetUser() != nil {
		return r.settle(got.GetUser())
	}
	password := r.cfg.Password
	if password == "" {
		if password, _, err = secretfile.Get(r.pending(), rootPasswordBytes); err != nil {
			return err
		}
	}
	hash, err := authn.HashPassword(password, r.cfg.Cost)
	if err != nil {
		return dberr.New(dberr.InvalidArgument, "the root password: %w", err)
	}
	_, err = catalog.Apply(ctx, &catalogv1.ApplyRequest{Command: &catalogv1.Command{Command: &catalogv1.Command_CreateUser{
		CreateUser: &catalogv1.CreateUser{IfNotExists: true, User: &catalogv1.User{UserId: rootUser, PasswordHash: hash,
			Role: catalogv1.Role_ROLE_SYSTEM, AuthType: "password", AllowRemote: r.cfg.AllowRemote}}}}})
	if err != nil {
		return err
	}
	// What was stored decides whose password counts, not the answer: a command whose answer was lost is sent again,
	// and finds its own user there.
	if got, err = catalog.GetUser(ctx, &catalogv1.GetUserRequest{UserId: rootUser}); err != nil {
		return err
	}
	return r.settle(got.GetUser())
}

// pending is the file of a password that is not known to count yet. It is there before the user is: if the
// process dies in between, the next start uses the same password, or learns that it counted.
func (r *Root) pending() string { return r.cfg.File + ".new" }

// settle tells the password that was waiting, if it is the stored user's, and forgets it otherwise. So
// File never holds a password that was never root's.
func (r *Root) settle(stored *catalogv1.User) error {
	if r.cfg.File == "" {
		return nil
	}
	raw, err := os.ReadFile(r.pending())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return dberr.New(dberr.Internal, "the root password that was made: %w", err)
	}
	password := strings.TrimSpace(string(raw))
	if !authn.CheckPassword(stored.GetPasswordHash(), password) {
		return secretfile.Remove(r.pending()) // another node was first
	}
	if err := secretfile.Put(r.cfg.File, password); err != nil {
		return err
	}
	fmt.Fprintf(r.cfg.Out, "\nFirst start: the user root was made.\n  password: %s\n  also in:  %s (readable by this account only)\n\n",
		password, r.cfg.File)
	return secretfile.Remove(r.pending())
}
