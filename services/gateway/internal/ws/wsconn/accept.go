package wsconn

import (
	"crypto/sha1" // RFC 6455 asks for it; it protects nothing
	"encoding/base64"
	"net/http"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// acceptGUID is RFC 6455's constant.
const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// Accept answers a client's upgrade request and takes the connection over. When it returns an error it
// has answered the request.
func Accept(w http.ResponseWriter, r *http.Request, cfg *Config) (*Conn, error) {
	key, status, reason := checkUpgrade(r)
	if reason != "" {
		w.Header().Set("Sec-WebSocket-Version", "13")
		if status == http.StatusUpgradeRequired {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
		}
		http.Error(w, reason, status)
		return nil, dberr.New(dberr.InvalidArgument, "WebSocket upgrade: %s", reason)
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "WebSocket needs an HTTP/1.1 connection", http.StatusHTTPVersionNotSupported)
		return nil, dberr.New(dberr.InvalidArgument, "WebSocket upgrade: %w", err)
	}
	// The response is written only now, by hand: had the server written it before, a fast client's
	// first frame could race with the server giving the connection up.
	var early []byte
	if n := rw.Reader.Buffered(); n > 0 {
		early = make([]byte, n)
		_, _ = rw.Reader.Read(early) // the bytes are in memory
	}
	_ = conn.SetDeadline(time.Now().Add(cfg.writeTimeout()))
	sum := sha1.Sum([]byte(key + acceptGUID))
	response := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"
	if _, err := conn.Write([]byte(response)); err != nil {
		_ = conn.Close()
		return nil, dberr.New(dberr.Unavailable, "WebSocket upgrade: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	return New(conn, early, cfg), nil
}

func checkUpgrade(r *http.Request) (key string, status int, reason string) {
	switch {
	case !r.ProtoAtLeast(1, 1) || r.ProtoMajor > 1:
		return "", http.StatusHTTPVersionNotSupported, "WebSocket needs HTTP/1.1"
	case !hasToken(r.Header, "Connection", "upgrade") || !hasToken(r.Header, "Upgrade", "websocket"):
		return "", http.StatusUpgradeRequired, "this address speaks WebSocket: an Upgrade is required"
	case r.Method != http.MethodGet:
		return "", http.StatusMethodNotAllowed, "a WebSocket upgrade is a GET"
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return "", http.StatusUpgradeRequired, "WebSocket version 13 is required"
	}
	keys := r.Header.Values("Sec-WebSocket-Key")
	if len(keys) != 1 {
		return "", http.StatusBadRequest, "exactly one Sec-WebSocket-Key is required"
	}
	key = strings.TrimSpace(keys[0])
	if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) != 16 {
		return "", http.StatusBadRequest, "Sec-WebSocket-Key must be 16 bytes in base64"
	}
	return key, 0, ""
}

// hasToken looks for one element of a comma-separated header, in any case.
func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}
