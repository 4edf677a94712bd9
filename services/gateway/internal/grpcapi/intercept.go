package grpcapi

import (
	"context"
	"encoding/base64"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/kalamdb/kalamdb-go/internal/authn"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/auth"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/limit"
)

// Door is what every call passes on its way in and every error on its way out.
type Door struct {
	Auth  *auth.Service
	Guard *limit.Guard
	// Proxies may say whom they forward for.
	Proxies edge.Proxies
	// DisableBasic refuses user and password, except for the methods of Open.
	DisableBasic bool
	// Open are methods that authenticate by themselves.
	Open   map[string]bool
	Logger *slog.Logger
	// Observe is told of every call that ended.
	Observe func(method string, err error, took time.Duration)
}

// Unary is the interceptor of unary calls.
func (d *Door) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	began := time.Now()
	ctx, err := d.enter(ctx, info.FullMethod)
	var resp any
	if err == nil {
		resp, err = h(ctx, req)
	}
	return resp, d.leave(ctx, info.FullMethod, began, err)
}

// Stream is the interceptor of streams.
func (d *Door) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	began := time.Now()
	ctx, err := d.enter(ss.Context(), info.FullMethod)
	if err == nil {
		err = h(srv, streamWithContext{ss, ctx})
	}
	return d.leave(ctx, info.FullMethod, began, err)
}

type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s streamWithContext) Context() context.Context { return s.ctx }

func (d *Door) enter(ctx context.Context, method string) (context.Context, error) {
	client := d.client(ctx)
	ctx = edge.WithClient(ctx, client)
	if err := d.Guard.Request(client); err != nil {
		return ctx, err
	}
	if d.Open[method] {
		return ctx, nil
	}
	c, err := CredentialOf(ctx)
	if err != nil {
		return ctx, err
	}
	var sess auth.Session
	if c.Token == "" && d.DisableBasic {
		return ctx, authn.ErrInvalid
	}
	if c.Token != "" {
		sess, err = d.Auth.Bearer(ctx, c.Token, client)
	} else {
		sess, err = d.Auth.Basic(ctx, c.User, c.Password, client)
	}
	if err != nil {
		return ctx, err
	}
	return auth.NewContext(ctx, sess), nil
}

// leave hides the text of our own faults from everybody but administrators.
func (d *Door) leave(ctx context.Context, method string, began time.Time, err error) error {
	d.Observe(method, err, time.Since(began))
	sess, _ := auth.FromContext(ctx)
	return Redact(ctx, d.Logger, sess, err)
}

// Redact returns what a client may read of an error, and logs what it may not.
func Redact(ctx context.Context, log *slog.Logger, sess auth.Session, err error) error {
	err = dberr.FromStatus(err)
	if code := dberr.CodeOf(err); code != dberr.Internal && code != dberr.Corrupt {
		return err
	}
	log.ErrorContext(ctx, "call failed", "user", sess.Identity.UserID, "error", err)
	if sess.Identity.Role.Admin() {
		return err
	}
	return dberr.New(dberr.CodeOf(err), "SQL request failed")
}

// client is the address a call comes from. A proxy on this machine must not lend its rights to others.
func (d *Door) client(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	return d.Proxies.Client(limit.AddrOf(p.Addr), md.Get)
}

// Credential is what the metadata key "authorization" holds: a token, or a user and a password.
type Credential struct{ Token, User, Password string }

// CredentialOf reads it.
func CredentialOf(ctx context.Context) (Credential, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	switch list := md.Get("authorization"); len(list) {
	case 0:
		return Credential{}, auth.ErrMissing
	case 1:
		return parseCredential(list[0])
	}
	return Credential{}, authn.ErrInvalid // which one would count?
}

func parseCredential(text string) (Credential, error) {
	scheme, rest, _ := strings.Cut(text, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case rest == "":
	case strings.EqualFold(scheme, "Bearer"):
		return Credential{Token: rest}, nil
	case strings.EqualFold(scheme, "Basic"):
		// Some clients leave the padding out.
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(rest, "="))
		user, password, found := strings.Cut(string(raw), ":")
		if err == nil && found {
			return Credential{User: user, Password: password}, nil
		}
	}
	return Credential{}, authn.ErrInvalid
}
