package auth

import (
	"context"

	"github.com/kalamdb/kalamdb-go/internal/authn"
)

type sessionKey struct{}

// NewContext carries a session to a handler.
func NewContext(ctx context.Context, s Session) context.Context {
	return context.WithValue(ctx, sessionKey{}, s)
}

// FromContext returns the session of a request; a request without one is nobody's.
func FromContext(ctx context.Context) (Session, error) {
	s, ok := ctx.Value(sessionKey{}).(Session)
	if !ok {
		return Session{}, ErrMissing
	}
	return s, nil
}

// Bind returns a context for a stream: it ends when the session does, with the reason as its cause.
// stop ends it and waits for what watches the session.
func (s *Service) Bind(ctx context.Context, sess Session) (bound context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	expire := func() {}
	if !sess.ExpiresAt.IsZero() {
		ctx, expire = context.WithDeadlineCause(ctx, sess.ExpiresAt, authn.ErrExpired)
	}
	ended, release := s.Hold(sess)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		defer release()
		select {
		case <-ended:
			cancel(authn.ErrInvalid)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(context.Canceled)
		expire()
		<-watched
	}
}
