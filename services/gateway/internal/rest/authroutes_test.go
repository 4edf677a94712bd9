package rest

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

func TestLoginRefreshMeLogout(t *testing.T) {
	b := newBench(t)
	a := b.do(http.MethodPost, "/v1/api/auth/login", "", `{"user":"dba","password":"dba secret"}`)
	var l loginBody
	if err := json.Unmarshal([]byte(a.body), &l); err != nil || a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if l.User.ID != "dba" || l.User.Role != "dba" || l.User.Email != nil || l.User.CreatedAt != "2026-05-01T10:00:00Z" || !l.AdminUIAccess ||
		l.ExpiresAt != "2026-05-02T10:00:00Z" || l.RefreshExpiresAt != "2026-05-08T10:00:00Z" {
		t.Errorf("%s", a.body)
	}
	cookies := a.header.Values("Set-Cookie")
	if len(cookies) != 2 || !strings.Contains(cookies[0], "HttpOnly; SameSite=Strict") || strings.Contains(cookies[0], "Secure") {
		t.Errorf("cookies %q", cookies)
	}
	if a := b.do(http.MethodGet, "/v1/api/auth/me", "", "", "Cookie", "kalamdb_auth="+l.AccessToken); a.status != 200 || !strings.Contains(a.body, `"id":"dba"`) {
		t.Errorf("me by cookie: %d %s", a.status, a.body)
	}
	if a := b.do(http.MethodGet, "/v1/api/auth/me", "", "", "Authorization", "Bearer "+l.RefreshToken); a.status != 401 {
		t.Errorf("me by refresh token: %d", a.status)
	}
	for _, h := range [][]string{{"Authorization", "Bearer " + l.RefreshToken}, {"Cookie", "kalamdb_refresh=" + l.RefreshToken}} {
		if a := b.do(http.MethodPost, "/v1/api/auth/refresh", "", "", h...); a.status != 200 || !strings.Contains(a.body, "access_token") {
			t.Errorf("refresh: %d %s", a.status, a.body)
		}
	}
	a = b.do(http.MethodPost, "/v1/api/auth/logout", "", "", "Authorization", "Bearer "+l.AccessToken)
	if a.status != 200 || a.body != `{"message":"Logged out successfully"}` || !strings.Contains(a.header.Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("logout: %d %s %v", a.status, a.body, a.header)
	}
	for path, method := range map[string]string{"/v1/api/auth/me": http.MethodGet, "/v1/api/auth/refresh": http.MethodPost} {
		token := l.AccessToken
		if method == http.MethodPost {
			token = l.RefreshToken
		}
		if a := b.do(method, path, "", "", "Authorization", "Bearer "+token); a.status != 401 {
			t.Errorf("%s after logout: %d %s", path, a.status, a.body)
		}
	}
}

func TestSecureCookies(t *testing.T) {
	b := newBench(t, func(c *Config) { c.PublicOrigin = "https://db.example" })
	a := b.do(http.MethodPost, "/v1/api/auth/login", "", `{"user":"dba","password":"dba secret"}`)
	if !strings.Contains(a.header.Get("Set-Cookie"), "Secure") {
		t.Errorf("%v", a.header)
	}
}

func TestLoginRefusals(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct {
		body   string
		status int
		word   string
	}{
		"alias":          {`{"username":"alice","password":"alice secret"}`, 200, "access_token"},
		"both names":     {`{"user":"alice","username":"alice","password":"alice secret"}`, 400, "invalid_request"},
		"wrong":          {`{"user":"dba","password":"x"}`, 401, "unauthorized"},
		"nobody":         {`{"user":"nobody","password":"x"}`, 401, "unauthorized"},
		"unknown field":  {`{"user":"alice","password":"alice secret","role":"dba"}`, 400, "invalid_request"},
		"other case":     {`{"user":"alice","Password":"alice secret"}`, 400, "invalid_request"},
		"twice":          {`{"user":"alice","password":"x","password":"alice secret"}`, 400, "invalid_request"},
		"no password":    {`{"user":"alice"}`, 400, "invalid_request"},
		"a number":       {`{"user":"alice","password":12345678}`, 400, "invalid_request"},
		"long user":      {`{"user":"` + strings.Repeat("a", 256) + `","password":"x"}`, 400, "invalid_request"},
		"1 MB password":  {`{"user":"alice","password":"` + strings.Repeat("a", 1<<20) + `"}`, 413, "invalid_request"},
		"not an object":  {`"alice"`, 400, "invalid_request"},
		"nested deeply":  {`{"user":{"a":{}},"password":"x"}`, 400, "invalid_request"},
		"the empty body": {``, 400, "invalid_request"},
	} {
		a := b.do(http.MethodPost, "/v1/api/auth/login", "", c.body)
		if a.status != c.status || !strings.Contains(a.body, c.word) {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	wrong, nobody := b.do(http.MethodPost, "/v1/api/auth/login", "", `{"user":"root","password":"x"}`), b.do(http.MethodPost, "/v1/api/auth/login", "", `{"user":"nobody2","password":"x"}`)
	if wrong.body != nobody.body {
		t.Errorf("a wrong password reads %s, an unknown user %s", wrong.body, nobody.body)
	}
	if a := b.do(http.MethodPost, "/v1/api/auth/login", "", `user=alice&password=x`, "Content-Type", "application/x-www-form-urlencoded"); a.status != 415 {
		t.Errorf("a form: %d", a.status)
	}
	for range 5 {
		b.do(http.MethodPost, "/v1/api/auth/login", "", `{"user":"alice","password":"x"}`)
	}
	if a := b.do(http.MethodPost, "/v1/api/auth/login", "", `{"user":"alice","password":"alice secret"}`); a.status != 401 || !strings.Contains(a.body, "account_locked") {
		t.Errorf("locked: %d %s", a.status, a.body)
	}
	if a := b.sql("/v1/api/sql", "alice", "x"); a.status != 401 || !strings.Contains(a.body, "ACCOUNT_LOCKED") {
		t.Errorf("SQL while locked: %d %s", a.status, a.body)
	}
}

// TestThisMachineOnly: behind a proxy on this machine a client is not this machine.
func TestThisMachineOnly(t *testing.T) {
	b := newBench(t)
	outside := []string{"X-Forwarded-For", "203.0.113.7"}
	for _, path := range []string{"/health", "/v1/api/healthcheck", "/v1/api/auth/status"} {
		if a := b.do(http.MethodGet, path, "", ""); a.status != 200 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
		if a := b.do(http.MethodGet, path, "", "", outside...); a.status != 403 {
			t.Errorf("%s from outside: %d %s", path, a.status, a.body)
		}
	}
	b.golden("health", b.do(http.MethodGet, "/health", "", ""))
	b.golden("health_denied", b.do(http.MethodGet, "/health", "", "", outside...))
	if a := b.do(http.MethodPost, "/v1/api/sql", "root", `{"sql":"x"}`, outside...); a.status != 403 || !strings.Contains(a.body, "REMOTE_ACCESS_DENIED") {
		t.Errorf("root from outside: %d %s", a.status, a.body)
	}
}

func TestSetup(t *testing.T) {
	b := newBench(t)
	setup := `{"user":"admin","password":"first secret","root_password":"second secret","email":"a@b"}`
	if a := b.do(http.MethodPost, "/v1/api/auth/setup", "", setup); a.status != 409 || !strings.Contains(a.body, "already_configured") {
		t.Errorf("configured: %d %s", a.status, a.body)
	}
	fresh := newBench(t)
	fresh.catalog.Change("root", func(u *catalogv1.User) *catalogv1.User { u.PasswordHash = ""; return u })
	if a := fresh.do(http.MethodGet, "/v1/api/auth/status", "", ""); !strings.Contains(a.body, `"needs_setup":true`) {
		t.Errorf("status: %s", a.body)
	}
	if a := fresh.do(http.MethodPost, "/v1/api/auth/login", "", `{"user":"root","password":""}`); a.status != 428 || !strings.Contains(a.body, "setup_required") {
		t.Errorf("login before setup: %d %s", a.status, a.body)
	}
	if a := fresh.do(http.MethodPost, "/v1/api/auth/setup", "", strings.Replace(setup, "first secret", "short", 1)); a.status != 400 || !strings.Contains(a.body, "weak_password") {
		t.Errorf("weak: %d %s", a.status, a.body)
	}
	req, err := http.NewRequest(http.MethodPost, fresh.url+"/v1/api/auth/setup", strings.NewReader(setup))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "rebound.example"
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 403 {
		t.Errorf("setup through a foreign name: %d", resp.StatusCode)
	}
	a := fresh.do(http.MethodPost, "/v1/api/auth/setup", "", setup)
	if a.status != 200 || !strings.Contains(a.body, `"role":"dba"`) || !strings.Contains(a.body, `"email":"a@b"`) {
		t.Fatalf("setup: %d %s", a.status, a.body)
	}
	if a := fresh.do(http.MethodPost, "/v1/api/auth/login", "", `{"user":"admin","password":"first secret"}`); a.status != 200 {
		t.Errorf("login after setup: %d %s", a.status, a.body)
	}
}
