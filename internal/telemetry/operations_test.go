package telemetry

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func TestOperations(t *testing.T) {
	tel, err := New(Config{Output: &bytes.Buffer{}})
	if err != nil {
		t.Fatal(err)
	}
	var notReady error
	h := Operations(tel.Registry, func(context.Context) error { return notReady })
	ask := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, nil))
		return w.Code, w.Body.String()
	}
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"/healthz", 200, `"status":"live"`},
		{"/live", 200, `"status":"live"`},
		{"/readyz", 200, `"status":"ready"`},
		{"/ready", 200, `"status":"ready"`},
		{"/metrics", 200, "go_goroutines"},
		{"/debug/pprof/", 200, "goroutine"},
		{"/debug/pprof/cmdline", 200, ""},
		{"/", 404, ""},
	} {
		if code, body := ask(http.MethodGet, c.path); code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %.100q", c.path, code, body)
		}
	}
	if code, _ := ask(http.MethodPost, "/healthz"); code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", code)
	}
	notReady = dberr.New(dberr.Unavailable, "no leader of group 3")
	for _, path := range []string{"/readyz", "/ready"} {
		if code, body := ask(http.MethodGet, path); code != 503 || !strings.Contains(body, "no leader of group 3") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if code, _ := ask(http.MethodGet, "/healthz"); code != 200 {
		t.Errorf("a node that is not ready was called dead: %d", code)
	}
}

func TestLevelsAndFormats(t *testing.T) {
	var out bytes.Buffer
	tel, err := New(Config{Level: "WARN", Format: "json", Output: &out})
	if err != nil {
		t.Fatal(err)
	}
	tel.Logger.Info("quiet")
	tel.Logger.Warn("loud", "n", 1)
	if got := out.String(); strings.Contains(got, "quiet") || !strings.HasPrefix(got, "{") || !strings.Contains(got, `"msg":"loud"`) {
		t.Errorf("log: %s", got)
	}
	for _, bad := range []Config{{Level: "loud"}, {Format: "xml"}} {
		bad.Output = &out
		if _, err := New(bad); !dberr.Is(err, dberr.InvalidArgument) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
