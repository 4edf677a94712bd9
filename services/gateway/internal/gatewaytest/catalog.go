// Package gatewaytest holds what the gateway's tests stand on: a catalog with users and a scriptable
// query role, both real gRPC services behind the real contracts on an in-process network.
package gatewaytest

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/authn"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// BcryptCost is the lowest there is: tests check behaviour, not strength.
const BcryptCost = 4

// ClusterID is the catalog's.
const ClusterID = "test-cluster"

// Catalog is a catalog role in memory that knows users only.
type Catalog struct {
	catalogv1.UnimplementedCatalogServiceServer
	mu       sync.Mutex
	version  uint64
	users    map[string]*catalogv1.User
	watchers map[chan *catalogv1.WatchResponse]struct{}
	logins   int // RecordLogin commands so far
}

// NewCatalog serves a catalog at "storage" until the test ends.
func NewCatalog(t testing.TB, net rpcnet.Network) *Catalog {
	c := &Catalog{version: 1, users: map[string]*catalogv1.User{}, watchers: map[chan *catalogv1.WatchResponse]struct{}{}}
	srv, err := rpcnet.NewServer(net, "storage", rpcnet.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(srv.Registrar(), c)
	srv.Serve()
	t.Cleanup(func() { stop(srv) })
	return c
}

func stop(srv *rpcnet.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	srv.Stop(ctx)
}

// View follows the catalog at "storage"; the caller starts it after registering for changes.
func View(t testing.TB, net rpcnet.Network) *catalogview.View {
	conn, err := rpcnet.Dial(net, "storage")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return catalogview.New(conn, slog.New(slog.DiscardHandler))
}

// AddUser stores a user, hashing the password when it is not empty.
func (c *Catalog) AddUser(t testing.TB, u *catalogv1.User, password string) {
	if password != "" {
		hash, err := authn.HashPassword(password, BcryptCost)
		if err != nil {
			t.Fatal(err)
		}
		u.PasswordHash = hash
	}
	c.Change(u.GetUserId(), func(*catalogv1.User) *catalogv1.User { return u })
}

// Change replaces a user by what f makes of a copy, and tells the watchers.
func (c *Catalog) Change(id string, f func(*catalogv1.User) *catalogv1.User) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.users[id] = f(clone(c.users[id]))
	return c.bump(id)
}

// User returns a user as stored.
func (c *Catalog) User(id string) *catalogv1.User {
	c.mu.Lock()
	defer c.mu.Unlock()
	return clone(c.users[id])
}

// Logins counts the RecordLogin commands.
func (c *Catalog) Logins() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logins
}

func (c *Catalog) bump(id string) uint64 {
	c.version++
	for w := range c.watchers {
		w <- &catalogv1.WatchResponse{Version: c.version, Event: &catalogv1.WatchResponse_UserChanged{UserChanged: id}}
	}
	return c.version
}

// clone copies the fields one by one: messages are shared with readers and must not change.
func clone(u *catalogv1.User) *catalogv1.User {
	if u == nil {
		return nil
	}
	return &catalogv1.User{UserId: u.UserId, PasswordHash: u.PasswordHash, Role: u.Role, Email: u.Email, AuthType: u.AuthType,
		AuthData: u.AuthData, Metadata: u.Metadata, AllowRemote: u.AllowRemote, FailedLoginAttempts: u.FailedLoginAttempts,
		LockedUntilUs: u.LockedUntilUs, LastLoginAtUs: u.LastLoginAtUs, CreatedAtUs: u.CreatedAtUs, UpdatedAtUs: u.UpdatedAtUs,
		DeletedAtUs: u.DeletedAtUs, TokenVersion: u.TokenVersion}
}

// GetUser implements the contract.
func (c *Catalog) GetUser(_ context.Context, req *catalogv1.GetUserRequest) (*catalogv1.GetUserResponse, error) {
	return &catalogv1.GetUserResponse{User: c.User(req.GetUserId())}, nil
}

// watchQueue holds more events than any test makes.
const watchQueue = 10_000

// Watch implements the contract.
func (c *Catalog) Watch(_ *catalogv1.WatchRequest, stream catalogv1.CatalogService_WatchServer) error {
	events := make(chan *catalogv1.WatchResponse, watchQueue)
	c.mu.Lock()
	c.watchers[events] = struct{}{}
	events <- &catalogv1.WatchResponse{Version: c.version, Event: &catalogv1.WatchResponse_Snapshot{
		Snapshot: &catalogv1.Snapshot{Shards: 1, ClusterId: ClusterID}}}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.watchers, events)
		c.mu.Unlock()
	}()
	for {
		select {
		case e := <-events:
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// Apply implements the commands the gateway sends.
func (c *Catalog) Apply(_ context.Context, req *catalogv1.ApplyRequest) (*catalogv1.ApplyResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := req.GetCommand().GetTimeUs()
	switch cmd := req.GetCommand().GetCommand().(type) {
	case *catalogv1.Command_RecordLogin:
		c.logins++
		return c.alter(cmd.RecordLogin.GetUserId(), func(u *catalogv1.User) { recordLogin(u, cmd.RecordLogin, now) })
	case *catalogv1.Command_RevokeTokens:
		return c.alter(cmd.RevokeTokens.GetUserId(), func(u *catalogv1.User) { u.TokenVersion++ })
	case *catalogv1.Command_AlterUser:
		return c.alter(cmd.AlterUser.GetUserId(), func(u *catalogv1.User) {
			u.PasswordHash = cmd.AlterUser.GetPasswordHash()
			u.TokenVersion++
		})
	case *catalogv1.Command_CreateUser:
		u := clone(cmd.CreateUser.GetUser())
		if c.users[u.UserId] != nil {
			return nil, dberr.New(dberr.AlreadyExists, "User '%s' already exists", u.UserId)
		}
		u.CreatedAtUs, u.UpdatedAtUs = now, now
		c.users[u.UserId] = u
		return &catalogv1.ApplyResponse{Changed: true, Version: c.bump(u.UserId), User: u}, nil
	}
	return nil, dberr.New(dberr.Unsupported, "the test catalog has no such command")
}

func (c *Catalog) alter(id string, f func(*catalogv1.User)) (*catalogv1.ApplyResponse, error) {
	u := clone(c.users[id])
	if u == nil {
		return nil, dberr.New(dberr.UserNotFound, "User '%s' does not exist", id)
	}
	f(u)
	c.users[id] = u
	return &catalogv1.ApplyResponse{Changed: true, Version: c.bump(id), User: u}, nil
}

func recordLogin(u *catalogv1.User, r *catalogv1.RecordLogin, now int64) {
	if r.GetSuccess() {
		u.FailedLoginAttempts, u.LockedUntilUs, u.LastLoginAtUs = 0, 0, now
		return
	}
	if u.FailedLoginAttempts++; u.FailedLoginAttempts >= r.GetMaxFailures() {
		u.FailedLoginAttempts, u.LockedUntilUs = 0, r.GetLockUntilUs()
	}
}
