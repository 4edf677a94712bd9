package edge

import (
	"context"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/kalamdb/kalamdb-go/services/gateway/internal/limit"
)

// requestIDMax bounds an X-Request-ID we repeat.
const requestIDMax = 128

// Identify gives each request an id and its client's address, and admits it.
func Identify(p Proxies, guard *limit.Guard, refuse func(http.ResponseWriter, *http.Request, error), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-ID")
		if !validRequestID(id) {
			id = uuid.NewString()
		}
		w.Header().Set("X-Request-ID", id)
		peer, _ := r.Context().Value(peerKey).(netip.Addr)
		client := p.Client(peer, r.Header.Values)
		ctx := WithClient(r.Context(), client)
		r = r.WithContext(context.WithValue(ctx, requestIDKey, id))
		if err := guard.Request(client); err != nil {
			refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// validRequestID allows what can stand in a header and in a log line.
func validRequestID(id string) bool {
	if id == "" || len(id) > requestIDMax {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("._:-", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// RequestID returns the request's id.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey).(string)
	return id
}

// Recover turns a panic of a handler into an aborted response and a log entry.
func Recover(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p != http.ErrAbortHandler { //nolint:errorlint // net/http compares the same way
				log.ErrorContext(r.Context(), "handler panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			}
			panic(http.ErrAbortHandler) // part of the response may be out: cut it
		}()
		next.ServeHTTP(w, r)
	})
}

// CORS answers browsers for other origins. An empty list allows none; "*" allows all, without
// credentials (tokens in headers are not credentials in that sense).
type CORS struct{ Origins []string }

const (
	corsMethods = "GET, POST, OPTIONS"
	corsHeaders = "Authorization, Content-Type, Idempotency-Key, X-Request-ID"
	corsMaxAge  = "600"
)

// Wrap adds the headers, and answers preflights itself.
func (c CORS) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		if c.forged(r) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"error":"Origin not allowed to use a password (security.cors_allowed_origins)"}`)
			return
		}
		if origin == "" {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Add("Vary", "Origin")
		allowed := c.allow(h, origin)
		if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
			next.ServeHTTP(w, r)
			return
		}
		if !allowed {
			http.Error(w, "origin not allowed", http.StatusForbidden)
			return
		}
		h.Set("Access-Control-Allow-Methods", corsMethods)
		h.Set("Access-Control-Allow-Headers", corsHeaders)
		h.Set("Access-Control-Max-Age", corsMaxAge)
		w.WriteHeader(http.StatusNoContent)
	})
}

// forged reports whether a page of another origin may have made a browser send the password it remembers
// for this server. Browsers ask first (a preflight) only for what a form cannot send, so JSON by any
// allowed origin was asked for, and without leave for credentials if all origins are allowed.
func (c CORS) forged(r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions {
		return false
	}
	if _, _, basic := r.BasicAuth(); !basic {
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return r.Header.Get("Sec-Fetch-Site") == "cross-site"
	}
	if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) {
		return false
	}
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return !slices.ContainsFunc(c.Origins, func(o string) bool {
		return o == "*" && mediaType == "application/json" || strings.EqualFold(o, origin)
	})
}

func (c CORS) allow(h http.Header, origin string) bool {
	for _, o := range c.Origins {
		switch {
		case o == "*":
			h.Set("Access-Control-Allow-Origin", "*")
		case strings.EqualFold(o, origin):
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Access-Control-Allow-Credentials", "true")
		default:
			continue
		}
		h.Set("Access-Control-Expose-Headers", "X-Request-ID, Retry-After")
		return true
	}
	return false
}
