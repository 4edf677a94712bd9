package rest

import (
	"net/http"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/strictjson"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/auth"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
)

// Cookies of the web console. They are good for /me, /refresh and /logout only: SQL wants a header,
// which no foreign page can make a browser send.
const (
	accessCookie  = "kalamdb_auth"
	refreshCookie = "kalamdb_refresh"
)

// Limits of the login body (spec 5.2).
const (
	loginUserMax     = 255
	loginPasswordMax = 1024 // the seed's limit; the newer one was 256
)

type userBody struct {
	ID        string  `json:"id"`
	Role      string  `json:"role"`
	Email     *string `json:"email"`
	CreatedAt string  `json:"created_at"`
	UpdatedAt string  `json:"updated_at"`
}

func userOf(u *catalogv1.User) userBody {
	b := userBody{ID: u.GetUserId(), Role: catalog.Role(u.GetRole()).String(), CreatedAt: instant(time.UnixMicro(u.GetCreatedAtUs())),
		UpdatedAt: instant(time.UnixMicro(u.GetUpdatedAtUs()))}
	if e := u.GetEmail(); e != "" {
		b.Email = &e
	}
	return b
}

func instant(t time.Time) string { return t.UTC().Format(time.RFC3339) }

type loginBody struct {
	User             userBody `json:"user"`
	AdminUIAccess    bool     `json:"admin_ui_access"`
	ExpiresAt        string   `json:"expires_at"`
	AccessToken      string   `json:"access_token"`
	RefreshToken     string   `json:"refresh_token"`
	RefreshExpiresAt string   `json:"refresh_expires_at"`
}

func (a *API) login(w http.ResponseWriter, r *http.Request) {
	client := edge.Client(r.Context())
	if err := a.Guard.Login(client); err != nil {
		authFault(w, err)
		return
	}
	o, err := readObject(r, "user", "username", "password")
	if err != nil {
		authFault(w, err)
		return
	}
	user, hasUser, err1 := o.Text("user")
	alias, hasAlias, err2 := o.Text("username")
	password, hasPassword, err3 := o.Text("password")
	if hasAlias {
		user = alias
	}
	if err1 != nil || err2 != nil || err3 != nil || hasUser == hasAlias || !hasPassword ||
		len(user) > loginUserMax || len(password) > loginPasswordMax {
		authFault(w, dberr.New(dberr.InvalidArgument, "The body must hold user (at most %d bytes) and password (at most %d bytes)",
			loginUserMax, loginPasswordMax).With(fieldReason, reasonInvalidInput))
		return
	}
	l, err := a.Auth.Login(r.Context(), user, password, client)
	a.answerLogin(w, r, l, err)
}

func (a *API) refresh(w http.ResponseWriter, r *http.Request) {
	token := bearer(r)
	if token == "" {
		token = cookieValue(r, refreshCookie)
	}
	if token == "" {
		authFault(w, auth.ErrMissing)
		return
	}
	l, err := a.Auth.Refresh(r.Context(), token, edge.Client(r.Context()))
	a.answerLogin(w, r, l, err)
}

func (a *API) answerLogin(w http.ResponseWriter, r *http.Request, l auth.Login, err error) {
	if err != nil {
		authFault(w, err)
		return
	}
	a.setCookie(w, r, accessCookie, l.AccessToken, l.ExpiresAt)
	a.setCookie(w, r, refreshCookie, l.RefreshToken, l.RefreshExpiresAt)
	writeJSON(w, http.StatusOK, loginBody{User: userOf(l.User), AdminUIAccess: catalog.Role(l.User.GetRole()).Admin(),
		ExpiresAt: instant(l.ExpiresAt), AccessToken: l.AccessToken, RefreshToken: l.RefreshToken,
		RefreshExpiresAt: instant(l.RefreshExpiresAt)})
}

func (a *API) setCookie(w http.ResponseWriter, r *http.Request, name, value string, expires time.Time) {
	c := &http.Cookie{Name: name, Value: value, Path: "/", Expires: expires, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: a.CookieSecure || r.TLS != nil || strings.HasPrefix(a.PublicOrigin, "https:")}
	if value == "" {
		c.MaxAge, c.Expires = -1, time.Time{}
	}
	http.SetCookie(w, c)
}

func cookieValue(r *http.Request, name string) string {
	c, err := r.Cookie(name)
	if err != nil {
		return ""
	}
	return c.Value
}

// bySession authenticates by header, or else by the console's cookie.
func (a *API) bySession(r *http.Request) (auth.Session, error) {
	if token := cookieValue(r, accessCookie); token != "" && r.Header.Get("Authorization") == "" {
		return a.Auth.Bearer(r.Context(), token, edge.Client(r.Context()))
	}
	return a.authenticate(r)
}

func (a *API) logout(w http.ResponseWriter, r *http.Request) {
	a.setCookie(w, r, accessCookie, "", time.Time{})
	a.setCookie(w, r, refreshCookie, "", time.Time{})
	sess, err := a.bySession(r)
	if err == nil {
		err = a.Auth.Logout(r.Context(), sess)
	}
	if err != nil {
		authFault(w, err)
		return
	}
	writePlain(w, http.StatusOK, `{"message":"Logged out successfully"}`)
}

type meBody struct {
	User          userBody `json:"user"`
	AdminUIAccess bool     `json:"admin_ui_access"`
}

func (a *API) me(w http.ResponseWriter, r *http.Request) {
	sess, err := a.bySession(r)
	var u *catalogv1.User
	if err == nil {
		u, err = a.Auth.Account(r.Context(), sess)
	}
	if err != nil {
		authFault(w, err)
		return
	}
	writeJSON(w, http.StatusOK, meBody{User: userOf(u), AdminUIAccess: sess.Identity.Role.Admin()})
}

type statusBody struct {
	NeedsSetup bool   `json:"needs_setup"`
	Message    string `json:"message"`
}

// errNotLocal refuses what only this machine may ask.
var errNotLocal = dberr.New(dberr.PermissionDenied, "This endpoint answers this machine only").
	With(fieldReason, auth.ReasonRemoteAccess)

func (a *API) status(w http.ResponseWriter, r *http.Request) {
	if !edge.Client(r.Context()).IsLoopback() || !edge.LocalHost(r) {
		authFault(w, errNotLocal)
		return
	}
	needed, err := a.Auth.NeedsSetup(r.Context())
	if err != nil {
		authFault(w, err)
		return
	}
	b := statusBody{NeedsSetup: needed, Message: "Server is configured"}
	if needed {
		b.Message = "Server requires initial setup"
	}
	writeJSON(w, http.StatusOK, b)
}

type setupBody struct {
	User    userBody `json:"user"`
	Message string   `json:"message"`
}

func (a *API) setup(w http.ResponseWriter, r *http.Request) {
	client := edge.Client(r.Context())
	if client.IsLoopback() && !edge.LocalHost(r) { // a page that made its own name point here
		authFault(w, errNotLocal)
		return
	}
	if err := a.Guard.Login(client); err != nil {
		authFault(w, err)
		return
	}
	req, err := readSetup(r)
	if err != nil {
		authFault(w, err)
		return
	}
	u, err := a.Auth.Setup(r.Context(), req, client)
	if err != nil {
		authFault(w, err)
		return
	}
	writeJSON(w, http.StatusOK, setupBody{User: userOf(u), Message: "Setup complete"})
}

func readSetup(r *http.Request) (req auth.SetupRequest, err error) {
	o, err := readObject(r, "user", "username", "password", "root_password", "email")
	if err != nil {
		return req, err
	}
	for _, f := range []struct {
		key string
		to  *string
	}{{"username", &req.User}, {"user", &req.User}, {"password", &req.Password}, {"root_password", &req.RootPassword}, {"email", &req.Email}} {
		text, present, err := o.Text(f.key)
		if err != nil {
			return req, invalidInput(err)
		}
		if present {
			*f.to = text
		}
	}
	return req, nil
}

// readObject reads a small JSON object with no other fields than those named.
func readObject(r *http.Request, allowed ...string) (strictjson.Object, error) {
	if ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(ct), "application/json") {
		return nil, dberr.New(dberr.InvalidArgument, "Content-Type must be application/json").With(fieldReason, reasonMediaType)
	}
	data, err := readAll(http.MaxBytesReader(nil, r.Body, authBodyBytesMax), authBodyBytesMax)
	if err != nil {
		return nil, err
	}
	o, err := strictjson.DecodeObject(data, strictjson.Limits{Depth: 1}, allowed...)
	if err != nil {
		return nil, invalidInput(err)
	}
	return o, nil
}

type authFaultBody struct {
	Error   string `json:"error"`
	Message string `json:"message"`
}

// authFaults are spec 5.2's words for reasons and codes.
var authFaults = map[string]struct {
	status int
	word   string
}{
	auth.ReasonSetup: {428, "setup_required"}, auth.ReasonConfigured: {409, "already_configured"},
	auth.ReasonUserExists: {409, "user_exists"}, auth.ReasonWeakPassword: {400, "weak_password"},
	auth.ReasonInvalidUser: {400, "invalid_user"}, auth.ReasonRemoteAccess: {403, "forbidden"},
	reasonInvalidInput: {400, "invalid_request"}, reasonMediaType: {415, "invalid_request"}, reasonTooLarge: {413, "invalid_request"},
	string(dberr.Unauthenticated): {401, "unauthorized"}, string(dberr.TokenExpired): {401, "unauthorized"},
	string(dberr.AccountLocked): {401, "account_locked"}, string(dberr.PermissionDenied): {403, "forbidden"},
	string(dberr.RateLimited): {429, "rate_limited"}, string(dberr.Unavailable): {503, "unavailable"},
	string(dberr.AlreadyExists): {409, "user_exists"}, string(dberr.InvalidArgument): {400, "invalid_request"},
}

func authFault(w http.ResponseWriter, err error) {
	f, ok := authFaults[dberr.FieldOf(err, fieldReason)]
	if !ok {
		f, ok = authFaults[string(dberr.CodeOf(err))]
	}
	text := err.Error()
	if !ok {
		f.status, f.word, text = http.StatusInternalServerError, "internal_error", redactedText
	}
	setErrorHeaders(w.Header(), f.status, err)
	writeJSON(w, f.status, authFaultBody{Error: f.word, Message: text})
}

// Refuse answers what was refused before it reached an endpoint.
func Refuse(w http.ResponseWriter, r *http.Request, err error) {
	if strings.HasPrefix(r.URL.Path, "/v1/api/auth/") {
		authFault(w, err)
		return
	}
	f := faultOf(err)
	setErrorHeaders(w.Header(), f.status, err)
	var out arraysFault
	out.Status, out.Results = "error", []struct{}{}
	out.Error.Code, out.Error.Message = f.code, f.text(err, 0, false)
	writeJSON(w, f.status, out)
}
