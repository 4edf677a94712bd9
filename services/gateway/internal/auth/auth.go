// Package auth establishes who a request acts for. A credential (token or password) is verified once
// and remembered, but the account behind it is looked at on every request: a dropped user, a changed
// role or password and a logout take effect with the next request, and end open streams.
package auth

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/expirable"

	"github.com/kalamdb/kalamdb-go/internal/authn"
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// Config are the settings of section [auth]. The zero value gets the defaults.
type Config struct {
	// Secret signs tokens.
	Secret []byte
	// AccessLifetime is 24 h by default; a refresh token lives seven times as long.
	AccessLifetime time.Duration
	// BcryptCost of new hashes; zero means authn.PasswordCost.
	BcryptCost int
	// MaxFailures locks an account (default 5) for LockFor (default 15 min).
	MaxFailures int
	LockFor     time.Duration
	// AllowRemoteSetup lets another machine do the first setup.
	AllowRemoteSetup bool
	// AdmitLogin is asked before a password that comes with a request is verified, unless it is remembered;
	// nil admits all. Login does not ask: its callers do.
	AdmitLogin func(client netip.Addr) error
	Logger     *slog.Logger
	Now        func() time.Time
}

const (
	accessLifetimeDefault = 24 * time.Hour
	refreshFactor         = 7
	maxFailuresDefault    = 5
	lockForDefault        = 15 * time.Minute
	// verifiedTokensMax bounds the tokens remembered (about 0.5 KB each); a forgotten one costs 25 µs.
	verifiedTokensMax = 10_000
	// verifiedPasswordsMax bounds the passwords remembered, as MACs (about 100 bytes each) …
	verifiedPasswordsMax = 10_000
	// … and verifiedPasswordTTL for how long: then one request pays for bcrypt again.
	verifiedPasswordTTL = 5 * time.Minute
	// strangersMax bounds the unknown names whose failures are counted.
	strangersMax = 10_000
	// waitersMax bounds who may wait for a turn at bcrypt: at 0.2 s each, the last waits seconds.
	waitersMax = 64
	// networkWaitersMax bounds those of one network, which leaves places for others.
	networkWaitersMax = 8
	// catalogTimeout bounds one command to the catalog that must happen even when the client left.
	catalogTimeout = 5 * time.Second
	macKeyBytes    = 32
)

func (c Config) withDefaults() Config {
	if c.AccessLifetime == 0 {
		c.AccessLifetime = accessLifetimeDefault
	}
	if c.MaxFailures == 0 {
		c.MaxFailures = maxFailuresDefault
	}
	if c.LockFor == 0 {
		c.LockFor = lockForDefault
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Service verifies credentials against one catalog.
type Service struct {
	cfg    Config
	view   *catalogview.View
	tokens *authn.Tokens

	verified  *lru.Cache[string, authn.Claims]
	passwords *expirable.LRU[[32]byte, struct{}]
	macKey    [macKeyBytes]byte // random per process: what is remembered is worthless elsewhere
	dummyHash string            // for unknown users, so that they cost as much as known ones
	strangers *lru.Cache[string, strangerRecord]
	turns     chan struct{} // one element per bcrypt running

	waiting   sync.Mutex // guards waiters and waitersOf
	waiters   int
	waitersOf map[netip.Prefix]int

	setup sync.Mutex // one setup at a time

	held *held
}

// New makes a service over a view of the catalog. Call it before the view starts: it registers for
// changes of users.
func New(cfg Config, view *catalogview.View) (*Service, error) {
	cfg = cfg.withDefaults()
	s := &Service{cfg: cfg, view: view, tokens: authn.NewTokens(cfg.Secret, cfg.Now),
		passwords: expirable.NewLRU[[32]byte, struct{}](verifiedPasswordsMax, nil, verifiedPasswordTTL),
		waitersOf: map[netip.Prefix]int{},
		turns:     make(chan struct{}, max(runtime.GOMAXPROCS(0)/2, 1))}
	var err error
	if s.verified, err = lru.New[string, authn.Claims](verifiedTokensMax); err != nil {
		return nil, dberr.New(dberr.Internal, "make the token cache: %w", err)
	}
	if s.strangers, err = lru.New[string, strangerRecord](strangersMax); err != nil {
		return nil, dberr.New(dberr.Internal, "make the failure cache: %w", err)
	}
	if _, err := rand.Read(s.macKey[:]); err != nil {
		return nil, dberr.New(dberr.Internal, "read random bytes: %w", err)
	}
	if s.dummyHash, err = authn.HashPassword(rand.Text(), cfg.BcryptCost); err != nil {
		return nil, err
	}
	s.held = newHeld(s.account, cfg.Logger)
	view.OnChange(s.held.changed)
	return s, nil
}

// Start begins to watch held sessions.
func (s *Service) Start(ctx context.Context) { s.held.start(ctx) }

// Stop ends watching.
func (s *Service) Stop() { s.held.stop() }

// Session is a verified credential.
type Session struct {
	Identity catalog.Identity
	// ExpiresAt is zero for a password.
	ExpiresAt time.Time
	version   uint64
}

// Hold returns a channel that is closed when the session's account is dropped, changes its role or
// password, or logs out. It is for streams, which must also end at ExpiresAt. Call release when the
// stream has ended.
func (s *Service) Hold(sess Session) (end <-chan struct{}, release func()) { return s.held.add(sess) }

// account reads a user; dropped ones count as absent.
func (s *Service) account(ctx context.Context, id string) (*catalogv1.User, error) {
	u, err := s.view.User(ctx, id)
	if err != nil {
		return nil, dberr.New(dberr.Unavailable, "read the account: %w", err)
	}
	if u.GetDeletedAtUs() != 0 {
		return nil, nil
	}
	return u, nil
}

// Reasons refine a code for those who speak to clients; they travel in the field "reason".
const (
	FieldReason        = "reason"
	ReasonRemoteAccess = "REMOTE_ACCESS_DENIED"
	ReasonMissing      = "MISSING_AUTHORIZATION"
	ReasonSetup        = "SETUP_REQUIRED"
	ReasonConfigured   = "already_configured"
	ReasonUserExists   = "user_exists"
	ReasonWeakPassword = "weak_password"
	ReasonInvalidUser  = "invalid_user"
)

// ErrMissing is the answer to a request without any credential.
var ErrMissing = dberr.New(dberr.Unauthenticated, "Authorization is required: Bearer <token> or Basic <credentials>").
	With(FieldReason, ReasonMissing)

var (
	errLocked = dberr.New(dberr.AccountLocked, "Account locked after too many failed logins; try again later")
	errRemote = dberr.New(dberr.PermissionDenied, "Remote access denied: this account may log in from this machine only").
			With(FieldReason, ReasonRemoteAccess)
	errBusy = dberr.New(dberr.RateLimited, "too many logins are being checked; try again").
		With(dberr.FieldRetryAfterMS, "1000")
)

// standing says whether an account may be used from an address now.
func (s *Service) standing(u *catalogv1.User, remote netip.Addr) error {
	if thisMachineOnly(u, remote) {
		return errRemote
	}
	if s.locked(u) {
		return errLocked
	}
	return nil
}

// thisMachineOnly reports whether the account may be used from this machine only and remote is another.
func thisMachineOnly(u *catalogv1.User, remote netip.Addr) bool {
	bound := catalog.Role(u.GetRole()) == catalog.RoleSystem && !u.GetAllowRemote()
	return !remote.IsLoopback() && (bound || u.GetAuthType() == authInternal)
}

func (s *Service) locked(u *catalogv1.User) bool {
	return u.GetLockedUntilUs() > s.cfg.Now().UnixMicro()
}

// Values of catalog.v1.User.auth_type that matter here; everything else logs in by password.
const (
	authPassword = "password"
	authOAuth    = "oauth"
	authInternal = "internal"
)

// Bearer verifies an access token.
func (s *Service) Bearer(ctx context.Context, token string, remote netip.Addr) (Session, error) {
	sess, _, err := s.bearer(ctx, token, authn.AccessToken, remote)
	return sess, err
}

func (s *Service) bearer(ctx context.Context, token string, typ authn.TokenType, remote netip.Addr) (Session, *catalogv1.User, error) {
	c, err := s.verify(token)
	if err != nil {
		return Session{}, nil, err
	}
	if c.Type != typ || c.ClusterID != s.view.State().ClusterID {
		return Session{}, nil, authn.ErrInvalid
	}
	u, err := s.account(ctx, c.Subject)
	if err != nil {
		return Session{}, nil, err
	}
	if u == nil || catalog.Role(u.GetRole()) != c.Role || u.GetTokenVersion() != c.TokenVersion {
		return Session{}, nil, authn.ErrInvalid
	}
	if err := s.standing(u, remote); err != nil {
		return Session{}, nil, err
	}
	return session(u, c.ExpiresAt), u, nil
}

// verify remembers good tokens: a signature does not turn bad, only late.
func (s *Service) verify(token string) (authn.Claims, error) {
	if c, ok := s.verified.Get(token); ok {
		if s.tokens.Expired(c) {
			s.verified.Remove(token)
			return authn.Claims{}, authn.ErrExpired
		}
		return c, nil
	}
	c, err := s.tokens.Verify(token)
	if err != nil {
		return authn.Claims{}, err
	}
	s.verified.Add(token, c)
	return c, nil
}

func session(u *catalogv1.User, expires time.Time) Session {
	return Session{Identity: catalog.Identity{UserID: u.GetUserId(), Role: catalog.Role(u.GetRole())},
		ExpiresAt: expires, version: u.GetTokenVersion()}
}
