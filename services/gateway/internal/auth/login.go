package auth

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/authn"
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// rootUser is the account that setup gives its password.
const rootUser = "root"

// Login is what a successful login or refresh returns.
type Login struct {
	User             *catalogv1.User
	AccessToken      string
	RefreshToken     string
	ExpiresAt        time.Time
	RefreshExpiresAt time.Time
}

// Login trades a password for tokens.
func (s *Service) Login(ctx context.Context, user, password string, remote netip.Addr) (Login, error) {
	u, err := s.checkPassword(ctx, user, password, remote, true)
	if err != nil {
		if dberr.Is(err, dberr.Unauthenticated) {
			// Nobody can have a password yet; say what to do instead of "wrong".
			if needed, serr := s.NeedsSetup(ctx); serr == nil && needed {
				return Login{}, dberr.New(dberr.InvalidOperation, "Setup required: the root password has not been set").
					With(FieldReason, ReasonSetup)
			}
		}
		return Login{}, err
	}
	return s.issue(u)
}

// Refresh trades a refresh token for a new pair.
func (s *Service) Refresh(ctx context.Context, token string, remote netip.Addr) (Login, error) {
	_, u, err := s.bearer(ctx, token, authn.RefreshToken, remote)
	if err != nil {
		return Login{}, err
	}
	return s.issue(u)
}

func (s *Service) issue(u *catalogv1.User) (Login, error) {
	now := s.cfg.Now()
	l := Login{User: u, ExpiresAt: now.Add(s.cfg.AccessLifetime), RefreshExpiresAt: now.Add(refreshFactor * s.cfg.AccessLifetime)}
	claims := authn.Claims{Subject: u.GetUserId(), Email: u.GetEmail(), Role: catalog.Role(u.GetRole()), Type: authn.AccessToken,
		IssuedAt: now, ExpiresAt: l.ExpiresAt, TokenVersion: u.GetTokenVersion(), ClusterID: s.view.State().ClusterID}
	var err error
	if l.AccessToken, err = s.tokens.Issue(claims); err != nil {
		return Login{}, err
	}
	claims.Type, claims.ExpiresAt = authn.RefreshToken, l.RefreshExpiresAt
	l.RefreshToken, err = s.tokens.Issue(claims)
	return l, err
}

// Logout ends every token of the account, everywhere.
func (s *Service) Logout(ctx context.Context, sess Session) error {
	resp, err := s.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_RevokeTokens{
		RevokeTokens: &catalogv1.RevokeTokens{UserId: sess.Identity.UserID}}})
	if err != nil {
		return err
	}
	return s.view.WaitVersion(ctx, resp.GetVersion())
}

// Account returns the account behind a session.
func (s *Service) Account(ctx context.Context, sess Session) (*catalogv1.User, error) {
	u, err := s.account(ctx, sess.Identity.UserID)
	if err == nil && u == nil {
		err = authn.ErrInvalid
	}
	return u, err
}

// NeedsSetup reports whether root has no password yet.
func (s *Service) NeedsSetup(ctx context.Context) (bool, error) {
	u, err := s.view.User(ctx, rootUser)
	if err != nil {
		return false, dberr.New(dberr.Unavailable, "read the root account: %w", err)
	}
	return u.GetPasswordHash() == "", nil
}

// SetupRequest names the first administrator and sets root's password.
type SetupRequest struct {
	User, Password, RootPassword, Email string
}

// Setup happens once, from this machine unless the settings allow others.
func (s *Service) Setup(ctx context.Context, req SetupRequest, remote netip.Addr) (*catalogv1.User, error) {
	if !remote.IsLoopback() && !s.cfg.AllowRemoteSetup {
		return nil, dberr.New(dberr.PermissionDenied, "Setup is possible from this machine only").With(FieldReason, ReasonRemoteAccess)
	}
	s.setup.Lock()
	defer s.setup.Unlock()
	needed, err := s.NeedsSetup(ctx)
	if err != nil {
		return nil, err
	}
	if !needed {
		return nil, dberr.New(dberr.AlreadyExists, "The server is already configured").With(FieldReason, ReasonConfigured)
	}
	if err := s.validateSetup(ctx, req); err != nil {
		return nil, err
	}
	if err := s.setRootPassword(ctx, req.RootPassword); err != nil {
		return nil, err
	}
	return s.createUser(ctx, &catalogv1.User{UserId: req.User, Role: catalogv1.Role_ROLE_DBA, Email: req.Email, AuthType: authPassword},
		req.Password)
}

func (s *Service) validateSetup(ctx context.Context, req SetupRequest) error {
	if !validUserID(req.User) || req.User == rootUser {
		return dberr.New(dberr.InvalidArgument, "The user name must be 1 to %d bytes without '/', '\\', '..' and NUL, and not %q",
			userBytesMax, rootUser).With(FieldReason, ReasonInvalidUser)
	}
	for _, p := range []string{req.Password, req.RootPassword} {
		if err := authn.ValidatePassword(p); err != nil {
			return dberr.New(dberr.InvalidArgument, "%w", err).With(FieldReason, ReasonWeakPassword)
		}
	}
	taken, err := s.view.User(ctx, req.User)
	if err != nil {
		return err
	}
	if taken != nil {
		return dberr.New(dberr.AlreadyExists, "User '%s' already exists", req.User).With(FieldReason, ReasonUserExists)
	}
	return nil
}

func validUserID(id string) bool {
	return id != "" && len(id) <= userBytesMax && !strings.ContainsAny(id, "/\\\x00") && !strings.Contains(id, "..")
}

func (s *Service) setRootPassword(ctx context.Context, password string) error {
	root, err := s.view.User(ctx, rootUser)
	if err != nil {
		return err
	}
	if root == nil {
		_, err := s.createUser(ctx, &catalogv1.User{UserId: rootUser, Role: catalogv1.Role_ROLE_SYSTEM, AuthType: authPassword}, password)
		return err
	}
	hash, err := authn.HashPassword(password, s.cfg.BcryptCost)
	if err != nil {
		return err
	}
	resp, err := s.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_AlterUser{
		AlterUser: &catalogv1.AlterUser{UserId: rootUser, PasswordHash: &hash}}})
	if err != nil {
		return err
	}
	return s.view.WaitVersion(ctx, resp.GetVersion())
}

func (s *Service) createUser(ctx context.Context, u *catalogv1.User, password string) (*catalogv1.User, error) {
	hash, err := authn.HashPassword(password, s.cfg.BcryptCost)
	if err != nil {
		return nil, err
	}
	u.PasswordHash = hash
	resp, err := s.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_CreateUser{CreateUser: &catalogv1.CreateUser{User: u}}})
	if err != nil {
		return nil, err
	}
	if err := s.view.WaitVersion(ctx, resp.GetVersion()); err != nil {
		return nil, err
	}
	return resp.GetUser(), nil
}
