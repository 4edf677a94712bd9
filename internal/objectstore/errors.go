package objectstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/aws/smithy-go"
	"gocloud.dev/gcerrors"
	"google.golang.org/api/googleapi"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/pause"
)

// errorTextMax bounds what is shown of a store's own words, in bytes.
const errorTextMax = 500

// again tries f until it succeeds, fails for a reason that does not pass, or has been tried often enough.
func (s *Store) again(ctx context.Context, f func(context.Context) error) error {
	wait := s.cfg.Limits.Backoff
	for n := 1; ; n++ {
		err := f(ctx)
		if err == nil || n >= s.cfg.Limits.Attempts || !passes(err) || ctx.Err() != nil {
			return err
		}
		// Half of the pause is random, so that those who were throttled together do not come back together.
		if pause.For(ctx, wait/2+rand.N(wait/2+1)) != nil { //nolint:gosec // not a secret
			return err
		}
		wait = min(2*wait, 100*s.cfg.Limits.Backoff)
	}
}

// passes reports whether another attempt may succeed. Wrong bytes may come from a cache between us and the store.
func passes(err error) bool { return dberr.Is(err, dberr.Unavailable) || dberr.Is(err, dberr.Corrupt) }

// failed makes an error of what a store's library returned. The library's own error is left out of the chain: it may have credentials in
// its address or its text. ctx is the caller's: its end is the caller's affair, that of a single request is the store's.
func (s *Store) failed(ctx context.Context, what, key string, err error) error {
	if ctx.Err() != nil {
		return dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "%s %q of storage %s: %w", what, key, s.cfg.Name, ctx.Err())
	}
	var own *dberr.Error
	if errors.As(err, &own) {
		return dberr.New(dberr.CodeOf(own), "%s %q of storage %s: %s", what, key, s.cfg.Name, own.Error())
	}
	return dberr.New(codeOf(err), "%s %q of storage %s: %s", what, key, s.cfg.Name, s.words(err))
}

// words are what people need of an error, without what might be secret.
func (s *Store) words(err error) string {
	var u *url.Error
	if errors.As(err, &u) && !hasStatus(err) {
		return s.clean(plain(u.Err))
	}
	var status *azcore.ResponseError
	if errors.As(err, &status) { // its text repeats the request
		return s.clean("the store answered " + http.StatusText(status.StatusCode) + " (" + status.ErrorCode + ")")
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		return s.clean("the store answered " + api.ErrorCode() + ": " + api.ErrorMessage())
	}
	return s.clean(plain(err))
}

func plain(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "the store did not answer in time"
	case errors.Is(err, context.Canceled):
		return "the request was cut short"
	}
	return err.Error()
}

// query is the part of an address that may be a signature.
var query = regexp.MustCompile(`\?[^\s"']+`)

func (s *Store) clean(text string) string {
	text = query.ReplaceAllString(s.redact.Replace(text), "?…")
	if len(text) > errorTextMax {
		text = text[:errorTextMax] + "…"
	}
	return text
}

func hasStatus(err error) bool { return statusOf(err) != 0 }

// statusOf is the HTTP status that an error comes from; 0 when it is none.
func statusOf(err error) int {
	var withStatus interface{ HTTPStatusCode() int } // AWS
	var azure *azcore.ResponseError
	var google *googleapi.Error
	switch {
	case errors.As(err, &azure):
		return azure.StatusCode
	case errors.As(err, &google):
		return google.Code
	case errors.As(err, &withStatus):
		return withStatus.HTTPStatusCode()
	}
	return 0
}

// codeOf says who can do something about an error. What nobody classified may pass.
func codeOf(err error) dberr.Code {
	if isMissing(err) || gcerrors.Code(err) == gcerrors.NotFound {
		return dberr.NotFound
	}
	switch status := statusOf(err); {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return dberr.PermissionDenied
	case status == http.StatusNotFound:
		return dberr.NotFound
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		return dberr.Unavailable
	case status >= 300:
		return dberr.InvalidArgument
	}
	var unknownHost *net.DNSError
	switch {
	case errors.As(err, &unknownHost) && unknownHost.IsNotFound:
		return dberr.InvalidArgument
	case gcerrors.Code(err) == gcerrors.PermissionDenied, errors.Is(err, errPermission):
		return dberr.PermissionDenied
	case gcerrors.Code(err) == gcerrors.InvalidArgument:
		return dberr.InvalidArgument
	}
	return dberr.Unavailable
}
