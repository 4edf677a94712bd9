package ws

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// checkOrigin keeps foreign web pages out: a browser sends any page's requests, but says whose they are.
func (h *Handler) checkOrigin(r *http.Request) error {
	origin := r.Header.Get("Origin")
	if origin == "" {
		if h.cfg.StrictOrigin {
			return dberr.New(dberr.PermissionDenied, "an Origin header is required (strict_ws_origin_check)")
		}
		return nil
	}
	for _, allowed := range h.cfg.AllowedOrigins {
		if allowed == "*" || strings.EqualFold(allowed, origin) {
			return nil
		}
	}
	u, err := url.Parse(origin)
	if err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) && (!h.cfg.StrictOrigin || u.Scheme == scheme(r)) {
		return nil
	}
	return dberr.New(dberr.PermissionDenied, "the origin of this page may not open WebSockets here")
}

func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}
