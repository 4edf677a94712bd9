package objectstore

import (
	"net/http"
	"net/http/httptest"
	"sync"
)

// fault answers in place of a server, which has answered r.
type fault func(w http.ResponseWriter, req *http.Request, r *httptest.ResponseRecorder)

// proxy answers some requests of a method (empty: of all) wrongly.
type proxy struct {
	method string
	fault  fault

	mu   sync.Mutex
	left int
}

func (p *proxy) set(times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = times
}

func (p *proxy) take(method string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left == 0 || p.method != "" && p.method != method {
		return false
	}
	p.left--
	return true
}

func (p *proxy) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !p.take(req.Method) {
			h.ServeHTTP(w, req)
			return
		}
		r := httptest.NewRecorder()
		h.ServeHTTP(r, req)
		p.fault(w, req, r)
	})
}
