package rest

import (
	"net/http"
	"testing"
)

// A request without Content-Type can be made by any web page's form.
func TestSQLNeedsAContentType(t *testing.T) {
	b := newBench(t)
	for _, path := range []string{"/v1/api/sql", "/api/sql"} {
		for _, contentType := range []string{"", "text/plain", "application/x-www-form-urlencoded"} {
			if a := b.do(http.MethodPost, path, "alice", `{"sql":"SELECT 1"}`, "Content-Type", contentType); a.status != http.StatusUnsupportedMediaType {
				t.Errorf("%s with %q: %d %s", path, contentType, a.status, a.body)
			}
		}
	}
}
