package ws

import (
	"net/http"
	"testing"
)

func TestPasswordsMayBeRefused(t *testing.T) {
	w := newWorld(t, Config{DisableBasic: true})
	alice := basic("alice", "alice-password")
	for path, header := range map[string]http.Header{
		"/v1/ws":               {"Authorization": {"Basic " + alice}},
		"/v1/ws?auth=" + alice: nil,
	} {
		if _, resp, err := w.dial(t, path, header); err == nil || resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %v, %v", path, resp, err)
		}
	}
	w.login(t, "alice") // by a token
}
