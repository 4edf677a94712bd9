// Package rest is the HTTP API: SQL in both generations' shapes, and the auth endpoints.
//
// The newer shape (rows as arrays beside a schema) answers /v1/api/sql; the seed's (rows as objects)
// answers /api/sql and /api/v1/query. "?format=arrays" or "?format=objects" chooses on any of them.
package rest

import (
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/auth"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/export"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/limit"
)

// Config are the settings of the HTTP API. Every field but the first group may stay zero.
type Config struct {
	Auth  *auth.Service
	Query queryv1.QueryServiceClient
	Guard *limit.Guard
	// PerUser limits SQL requests.
	PerUser *limit.Rate

	// BodyBytesMax bounds a request's body; zero means 10 MiB.
	BodyBytesMax int64
	// DisableBasic refuses user and password on SQL requests; /login still takes them.
	DisableBasic bool
	CookieSecure bool
	// PublicOrigin is what clients reach us as (https://db.example); it names WebSocket addresses.
	PublicOrigin string
	Version      string
	BuildDate    string
	Logger       *slog.Logger
	Now          func() time.Time
	// Export may be left out: its endpoint then does not exist.
	Export *export.Exports
	// Cluster may be left out: its endpoint then does not exist.
	Cluster *Cluster
	// Observe is told of every answer.
	Observe func(route string, status int, took time.Duration)
}

const (
	bodyBytesDefault = 10 << 20
	// authBodyBytesMax is far above the longest user name and password.
	authBodyBytesMax = 16 << 10
)

// API serves the endpoints.
type API struct {
	Config
	mux     *http.ServeMux
	handler http.Handler
}

// New makes the API.
func New(cfg Config) *API {
	if cfg.BodyBytesMax == 0 {
		cfg.BodyBytesMax = bodyBytesDefault
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, int, time.Duration) {}
	}
	a := &API{Config: cfg, mux: http.NewServeMux()}
	a.handler = edge.Drain(cfg.BodyBytesMax, a.mux)
	a.route("/v1/api/sql", http.MethodPost, a.sqlArrays)
	a.route("/api/sql", http.MethodPost, a.sqlObjects)
	a.route("/api/v1/query", http.MethodPost, a.sqlObjects)
	a.route("/v1/api/auth/login", http.MethodPost, a.login)
	a.route("/v1/api/auth/refresh", http.MethodPost, a.refresh)
	a.route("/v1/api/auth/logout", http.MethodPost, a.logout)
	a.route("/v1/api/auth/setup", http.MethodPost, a.setup)
	a.route("/v1/api/auth/me", http.MethodGet, a.me)
	a.route("/v1/api/auth/status", http.MethodGet, a.status)
	a.route("/health", http.MethodGet, a.health)
	a.route("/v1/api/healthcheck", http.MethodGet, a.health)
	if cfg.Export != nil {
		a.route("/v1/exports/{user_id}/{export_id}", http.MethodGet, a.exports)
	}
	if cfg.Cluster != nil {
		a.route("/v1/api/cluster/health", http.MethodGet, a.clusterHealth)
	}
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writePlain(w, http.StatusNotFound, `{"error":"Not found"}`)
	})
	return a
}

func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

func (a *API) route(path, method string, h http.HandlerFunc) {
	a.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		began := a.Now()
		sw := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		defer func() { a.Observe(path, sw.status, a.Now().Sub(began)) }()
		if r.Method != method {
			sw.Header().Set("Allow", method)
			writePlain(sw, http.StatusMethodNotAllowed, `{"error":"Method not allowed"}`)
			return
		}
		h(sw, r)
	})
}

// statusWriter remembers the status for the metrics.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController through.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func writePlain(w http.ResponseWriter, status int, body string) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body))) // so that a flush (edge.Drain) sends all of it
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

// health answers this machine only: a version is worth something to an attacker.
func (a *API) health(w http.ResponseWriter, r *http.Request) {
	if !edge.Client(r.Context()).IsLoopback() {
		writePlain(w, http.StatusForbidden, `{"error":"Access denied. Health endpoint is localhost-only."}`)
		return
	}
	writeJSON(w, http.StatusOK, healthBody{Status: "healthy", Version: a.Version, APIVersion: "v1", BuildDate: a.BuildDate})
}

type healthBody struct {
	Status     string `json:"status"`
	Version    string `json:"version"`
	APIVersion string `json:"api_version"`
	BuildDate  string `json:"build_date"`
}

// authenticate finds the request's credential and verifies it.
func (a *API) authenticate(r *http.Request) (auth.Session, error) {
	switch list := r.Header.Values("Authorization"); {
	case len(list) == 0 || (len(list) == 1 && strings.TrimSpace(list[0]) == ""):
		return auth.Session{}, auth.ErrMissing
	case len(list) > 1:
		return auth.Session{}, dberr.New(dberr.Unauthenticated, "Invalid credentials") // which one would count?
	}
	client := edge.Client(r.Context())
	if user, password, ok := r.BasicAuth(); ok && !a.DisableBasic {
		return a.Auth.Basic(r.Context(), user, password, client)
	}
	return a.Auth.Bearer(r.Context(), bearer(r), client)
}

// bearer returns the token of the Authorization header, or "".
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
