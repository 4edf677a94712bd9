// Package account executes CREATE, ALTER, DROP and restore of users (spec 1.12).
package account

import (
	"context"
	"encoding/json"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/authn"
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

const (
	// emailBytesMax is the longest address mail servers must accept.
	emailBytesMax = 320
	// metadataBytesMax bounds METADATA and OAUTH documents, which every cache of users holds.
	metadataBytesMax = 16 << 10
)

// rootUser always exists (spec 5.3).
const rootUser = "root"

// Accounts executes the statements about users.
type Accounts struct {
	Catalog *catalogview.View
	Now     func() time.Time
	// PasswordCost is bcrypt's; zero means its default.
	PasswordCost int
}

// TargetRole finds the role of EXECUTE AS USER's target. An account that does not exist counts as a
// plain user, whose rows may be written before it exists; a dropped one is refused.
func TargetRole(ctx context.Context, view *catalogview.View, userID string) (catalog.Role, error) {
	if err := catalog.CheckUserID(userID); err != nil {
		return 0, err
	}
	u, err := view.User(ctx, userID)
	if err != nil {
		return 0, err
	}
	if u == nil {
		return catalog.RoleUser, nil
	}
	if u.GetDeletedAtUs() != 0 {
		return 0, dberr.New(dberr.UserNotFound, "user '%s' has been dropped", userID)
	}
	return catalog.Role(u.GetRole()), nil
}

// Create executes CREATE USER.
func (a *Accounts) Create(ctx context.Context, id catalog.Identity, s *sqlfront.CreateUser) (string, error) {
	if err := manage(id, s.Role); err != nil {
		return "", err
	}
	user, err := newUser(s)
	if err != nil {
		return "", err
	}
	if s.Auth == sqlfront.AuthPassword {
		if user.PasswordHash, err = a.hash(s.Password); err != nil {
			return "", err
		}
	}
	resp, err := a.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_CreateUser{
		CreateUser: &catalogv1.CreateUser{User: user, IfNotExists: s.IfNotExists}}})
	if err != nil {
		return "", err
	}
	if !resp.GetChanged() {
		return "User '" + s.User + "' already exists (skipped)", nil
	}
	return "User '" + s.User + "' created", nil
}

func newUser(s *sqlfront.CreateUser) (*catalogv1.User, error) {
	if err := catalog.CheckUserID(s.User); err != nil {
		return nil, err
	}
	if s.Role < catalog.RoleUser || s.Role > catalog.RoleSystem {
		return nil, dberr.New(dberr.InvalidArgument, "a user's role must be user, service, dba or system")
	}
	if s.Role == catalog.RoleSystem && s.AllowRemote && s.Auth != sqlfront.AuthPassword {
		return nil, dberr.New(dberr.InvalidArgument, "System users with remote access must have a password")
	}
	if err := checkEmail(s.Email); err != nil {
		return nil, err
	}
	if err := checkJSON("METADATA", s.Metadata); err != nil {
		return nil, err
	}
	if err := checkJSON("OAUTH", s.AuthData); err != nil {
		return nil, err
	}
	return &catalogv1.User{UserId: s.User, Role: catalogv1.Role(s.Role), Email: s.Email, AuthType: s.Auth.String(),
		AuthData: s.AuthData, Metadata: s.Metadata, AllowRemote: s.AllowRemote,
		StorageMode: s.StorageMode, StorageId: storageOf(s.StorageID)}, nil
}

// Alter executes ALTER USER. Administrators change everybody but system users, whom only system users
// change; others change their own password.
func (a *Accounts) Alter(ctx context.Context, id catalog.Identity, s *sqlfront.AlterUser) (string, error) {
	ownPassword := s.User == id.UserID && id.ActorUserID == "" && s.Role == nil && s.Email == nil && s.Metadata == nil && s.StorageMode == nil && s.StorageID == nil
	if !ownPassword {
		if err := manage(id, catalog.RoleUser); err != nil {
			return "", err
		}
	}
	target, err := a.existing(ctx, s.User)
	if err != nil {
		return "", err
	}
	if !ownPassword {
		if err := manage(id, catalog.Role(target.GetRole())); err != nil {
			return "", err
		}
	}
	change, err := a.changes(id, target, s)
	if err != nil {
		return "", err
	}
	if _, err := a.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_AlterUser{AlterUser: change}}); err != nil {
		return "", err
	}
	return "User '" + s.User + "' updated", nil
}

func (a *Accounts) changes(id catalog.Identity, target *catalogv1.User, s *sqlfront.AlterUser) (*catalogv1.AlterUser, error) {
	change := &catalogv1.AlterUser{UserId: s.User, Email: s.Email, Metadata: s.Metadata, StorageMode: s.StorageMode}
	if s.StorageID != nil {
		storage := storageOf(*s.StorageID)
		change.StorageId = &storage
	}
	if s.Role != nil {
		if err := a.checkNewRole(id, target, *s.Role); err != nil {
			return nil, err
		}
		role := catalogv1.Role(*s.Role)
		change.Role = &role
	}
	if s.Email != nil {
		if err := checkEmail(*s.Email); err != nil {
			return nil, err
		}
	}
	if s.Metadata != nil {
		if err := checkJSON("METADATA", *s.Metadata); err != nil {
			return nil, err
		}
	}
	if s.Password == nil {
		return change, nil
	}
	if target.GetAuthType() != sqlfront.AuthPassword.String() {
		return nil, dberr.New(dberr.InvalidOperation, "user '%s' cannot have a password: its authentication is %s", s.User, target.GetAuthType())
	}
	hash, err := a.hash(*s.Password)
	change.PasswordHash = &hash
	return change, err
}

// storageOf is a user's storage as the catalog keeps it: local is none of its own.
func storageOf(id string) string {
	if id == catalog.LocalStorage {
		return ""
	}
	return id
}

func (a *Accounts) checkNewRole(id catalog.Identity, target *catalogv1.User, role catalog.Role) error {
	if err := manage(id, role); err != nil {
		return err
	}
	if target.GetUserId() == rootUser && role != catalog.RoleSystem {
		return dberr.New(dberr.InvalidOperation, "user '%s' keeps the role system", rootUser)
	}
	if role == catalog.RoleSystem && target.GetAllowRemote() && target.GetPasswordHash() == "" {
		return dberr.New(dberr.InvalidArgument, "System users with remote access must have a password")
	}
	return nil
}

// Drop executes DROP USER: soft, the name stays blocked and the user can be restored.
func (a *Accounts) Drop(ctx context.Context, id catalog.Identity, s *sqlfront.DropUser) (string, error) {
	if err := manage(id, catalog.RoleUser); err != nil {
		return "", err
	}
	target, err := a.existing(ctx, s.User)
	if dberr.Is(err, dberr.UserNotFound) && s.IfExists {
		return "User '" + s.User + "' does not exist (skipped)", nil
	}
	if err != nil {
		return "", err
	}
	if err := manage(id, catalog.Role(target.GetRole())); err != nil {
		return "", err
	}
	switch s.User {
	case rootUser:
		return "", dberr.New(dberr.InvalidOperation, "user '%s' cannot be dropped: it always exists", s.User)
	case id.UserID:
		return "", dberr.New(dberr.InvalidOperation, "user '%s' cannot be dropped: nobody drops their own account", s.User)
	}
	resp, err := a.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_DropUser{
		DropUser: &catalogv1.DropUser{UserId: s.User, IfExists: s.IfExists}}})
	if err != nil {
		return "", err
	}
	if !resp.GetChanged() {
		return "User '" + s.User + "' does not exist (skipped)", nil
	}
	return "User '" + s.User + "' dropped (soft delete)", nil
}

// Restore executes UPDATE system.users SET deleted_at = NULL and returns the number of users restored.
func (a *Accounts) Restore(ctx context.Context, id catalog.Identity, s *sqlfront.RestoreUser) (uint64, error) {
	if err := manage(id, catalog.RoleUser); err != nil {
		return 0, err
	}
	resp, err := a.Catalog.Client().GetUser(ctx, &catalogv1.GetUserRequest{UserId: s.User})
	if err != nil {
		return 0, err
	}
	target := resp.GetUser()
	if target == nil || target.GetDeletedAtUs() == 0 {
		return 0, nil // as any UPDATE that matches nothing or changes nothing
	}
	if err := manage(id, catalog.Role(target.GetRole())); err != nil {
		return 0, err
	}
	applied, err := a.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_RestoreUser{
		RestoreUser: &catalogv1.RestoreUser{UserId: s.User}}})
	if err != nil || !applied.GetChanged() {
		return 0, err
	}
	return 1, nil
}

// manage checks the right over accounts of a role. Inside EXECUTE AS USER nobody manages accounts:
// the right to act on somebody's rows is not the right to take their account over.
func manage(id catalog.Identity, target catalog.Role) error {
	if id.ActorUserID != "" {
		return dberr.New(dberr.PermissionDenied, "users cannot be managed inside EXECUTE AS USER")
	}
	if err := access.Can(id.Role, access.ManageUsers); err != nil {
		return err
	}
	if target == catalog.RoleSystem {
		return access.Can(id.Role, access.GrantSystem)
	}
	return nil
}

// existing reads a user that is not dropped, from the catalog itself: rights hang on the answer.
func (a *Accounts) existing(ctx context.Context, userID string) (*catalogv1.User, error) {
	resp, err := a.Catalog.Client().GetUser(ctx, &catalogv1.GetUserRequest{UserId: userID})
	if err != nil {
		return nil, err
	}
	if u := resp.GetUser(); u != nil && u.GetDeletedAtUs() == 0 {
		return u, nil
	}
	return nil, dberr.New(dberr.UserNotFound, "User '%s' does not exist", userID)
}

func (a *Accounts) apply(ctx context.Context, c *catalogv1.Command) (*catalogv1.ApplyResponse, error) {
	c.TimeUs = a.Now().UnixMicro()
	resp, err := a.Catalog.Apply(ctx, c)
	if err != nil {
		return nil, err
	}
	return resp, a.Catalog.WaitVersion(ctx, resp.GetVersion())
}

func (a *Accounts) hash(password string) (string, error) {
	if err := authn.ValidatePassword(password); err != nil {
		return "", err
	}
	return authn.HashPassword(password, a.PasswordCost)
}

func checkEmail(email string) error {
	if len(email) > emailBytesMax {
		return dberr.New(dberr.InvalidArgument, "the email address has %d bytes, at most %d are allowed", len(email), emailBytesMax)
	}
	return nil
}

func checkJSON(clause, text string) error {
	if len(text) > metadataBytesMax {
		return dberr.New(dberr.LimitExceeded, "%s has %d bytes, at most %d are allowed", clause, len(text), metadataBytesMax)
	}
	if text != "" && !json.Valid([]byte(text)) {
		return dberr.New(dberr.InvalidArgument, "%s is not valid JSON", clause)
	}
	return nil
}
