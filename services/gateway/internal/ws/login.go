package ws

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

var errCredentials = dberr.New(dberr.Unauthenticated, "Invalid credentials")

var errNoBasic = dberr.New(dberr.Unauthenticated, "user and password are refused here; log in for a token")

// logInByRequest uses the credentials of the upgrade request, if it has any: the header, or in the S
// generation the parameters token and auth.
func (s *socket) logInByRequest(r *http.Request) error {
	q := r.URL.Query()
	var session Session
	var err error
	switch header := r.Header.Get("Authorization"); {
	case header != "":
		session, err = s.byHeader(r.Context(), header)
	case q.Get("token") != "":
		session, err = s.bearer(r.Context(), q.Get("token"))
	case q.Get("auth") != "":
		session, err = s.basic(r.Context(), q.Get("auth"))
	default:
		return nil
	}
	if err != nil {
		return err
	}
	s.setSession(session)
	return nil
}

func (s *socket) byHeader(ctx context.Context, header string) (Session, error) {
	method, credential, _ := strings.Cut(header, " ")
	switch credential = strings.TrimSpace(credential); strings.ToLower(method) {
	case "bearer":
		return s.bearer(ctx, credential)
	case "basic":
		s.seedHint = true
		return s.basic(ctx, credential)
	}
	return Session{}, dberr.New(dberr.Unauthenticated, "the Authorization header must be Bearer or Basic")
}

func (s *socket) bearer(ctx context.Context, token string) (Session, error) {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	return s.h.deps.Auth.Bearer(ctx, token, s.remote)
}

func (s *socket) basic(ctx context.Context, encoded string) (Session, error) {
	if s.h.cfg.DisableBasic {
		return Session{}, errNoBasic
	}
	// In a URL the padding may be missing, and + may have become a space.
	encoded = strings.TrimRight(strings.ReplaceAll(encoded, " ", "+"), "=")
	raw, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil {
		if raw, err = base64.RawURLEncoding.DecodeString(encoded); err != nil {
			return Session{}, errCredentials
		}
	}
	user, password, ok := strings.Cut(string(raw), ":")
	if !ok {
		return Session{}, errCredentials
	}
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	return s.h.deps.Auth.Basic(ctx, user, password, s.remote)
}

// setSession makes the socket act for a user. Only the first one sets the identity.
func (s *socket) setSession(session Session) {
	s.mu.Lock()
	s.session, s.loggedIn = session, true
	s.mu.Unlock()
}

// renew prolongs a session with a newer credential of the same account; another account's changes
// nothing. It returns the session it did not keep.
func (s *socket) renew(session Session) Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.session
	if session.Identity != old.Identity {
		return session
	}
	s.session = session
	return old
}

func (s *socket) isLoggedIn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loggedIn
}

// releaseSession undoes what the session holds elsewhere. The socket is not used after it.
func (s *socket) releaseSession() {
	s.mu.Lock()
	session, counted := s.session, s.seedCount
	s.session, s.seedCount = Session{}, false
	s.mu.Unlock()
	if counted {
		s.h.release(session.Identity.UserID, 0, 1)
	}
	if session.Release != nil {
		session.Release()
	}
}
