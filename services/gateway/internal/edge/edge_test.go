package edge

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

func TestClient(t *testing.T) {
	p, err := ParseProxies([]string{"10.0.0.0/8", " 192.0.2.1 "})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, peer string
		header     []string
		want       string // "" for an address nobody knows
	}{
		{"direct", "203.0.113.7", nil, "203.0.113.7"},
		{"a stranger's header counts for nothing", "203.0.113.7", []string{"X-Forwarded-For", "127.0.0.1"}, "203.0.113.7"},
		{"loopback", "127.0.0.1", nil, "127.0.0.1"},
		{"a local proxy", "127.0.0.1", []string{"X-Forwarded-For", "203.0.113.7"}, "203.0.113.7"},
		{"what the client claimed before the proxy", "127.0.0.1", []string{"X-Forwarded-For", "127.0.0.1, 203.0.113.7"}, "203.0.113.7"},
		{"two headers", "127.0.0.1", []string{"X-Forwarded-For", "127.0.0.1", "X-Forwarded-For", "203.0.113.7"}, "203.0.113.7"},
		{"a chain of ours", "192.0.2.1", []string{"X-Forwarded-For", "203.0.113.7, 10.1.1.1, 127.0.0.1"}, "203.0.113.7"},
		{"only ours", "10.0.0.1", []string{"X-Forwarded-For", "10.0.0.2"}, "10.0.0.2"},
		{"loopback of a remote proxy", "10.0.0.1", []string{"X-Forwarded-For", "127.0.0.1, 10.1.1.1"}, "10.1.1.1"},
		{"loopback of the peer", "10.0.0.1", []string{"X-Forwarded-For", "127.0.0.1"}, "10.0.0.1"},
		{"loopback behind a remote hop", "127.0.0.1", []string{"X-Forwarded-For", "::1, 10.1.1.1, 127.0.0.1"}, "10.1.1.1"},
		{"two proxies on this machine", "127.0.0.1", []string{"X-Forwarded-For", "127.0.0.1"}, "127.0.0.1"},
		{"with a port", "127.0.0.1", []string{"X-Forwarded-For", "203.0.113.7:4711"}, "203.0.113.7"},
		{"IPv6", "::1", []string{"X-Forwarded-For", "[2001:db8::1]:80"}, "2001:db8::1"},
		{"IPv6 bare", "::1", []string{"X-Forwarded-For", "2001:db8::1"}, "2001:db8::1"},
		{"mapped", "127.0.0.1", []string{"X-Forwarded-For", "::ffff:203.0.113.7"}, "203.0.113.7"},
		{"nonsense", "127.0.0.1", []string{"X-Forwarded-For", "unknown"}, ""},
		{"nonsense first", "127.0.0.1", []string{"X-Forwarded-For", "x, 203.0.113.7"}, "203.0.113.7"},
		{"another header betrays a proxy", "127.0.0.1", []string{"X-Real-IP", "203.0.113.7"}, ""},
		{"Forwarded", "127.0.0.1", []string{"Forwarded", "for=203.0.113.7"}, ""},
		{"empty", "127.0.0.1", []string{"X-Forwarded-For", ""}, "127.0.0.1"},
		{"empty elements", "127.0.0.1", []string{"X-Forwarded-For", ","}, ""},
	} {
		h := http.Header{}
		for i := 0; i < len(c.header); i += 2 {
			h.Add(c.header[i], c.header[i+1])
		}
		got := p.Client(netip.MustParseAddr(c.peer), h.Values)
		if (c.want == "" && got.IsValid()) || (c.want != "" && got != netip.MustParseAddr(c.want)) {
			t.Errorf("%s: got %s, want %q", c.name, got, c.want)
		}
	}
	if _, err := ParseProxies([]string{"proxy.example"}); err == nil {
		t.Error("a name passed as a range")
	}
}

func TestLocalHost(t *testing.T) {
	for host, want := range map[string]bool{"localhost": true, "LOCALHOST:8080": true, "127.0.0.1:8080": true, "[::1]:8080": true,
		"[::1]": true, "evil.example": false, "evil.example:8080": false, "203.0.113.7": false, "": false, "localhost.evil.example": false} {
		if got := LocalHost(&http.Request{Host: host}); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

func TestForgedRequests(t *testing.T) {
	for _, c := range []struct {
		allowed                                []string
		method, origin, site, contentType, who string
		refused                                bool
	}{
		{nil, "POST", "https://evil.example", "", "multipart/form-data; boundary=x", "basic", true},
		{nil, "POST", "https://evil.example", "", "", "basic", true},
		{nil, "POST", "https://evil.example", "cross-site", "application/json", "basic", true},
		{nil, "POST", "", "cross-site", "multipart/form-data; boundary=x", "basic", true},
		{nil, "POST", "null", "", "multipart/form-data; boundary=x", "basic", true},
		{[]string{"*"}, "POST", "https://evil.example", "", "multipart/form-data; boundary=x", "basic", true},
		{[]string{"*"}, "POST", "https://any.example", "", "application/json", "basic", false},
		{[]string{"https://app.example"}, "POST", "https://evil.example", "", "application/json", "basic", true},
		{[]string{"https://app.example"}, "POST", "https://app.example", "", "multipart/form-data; boundary=x", "basic", false},
		{nil, "POST", "https://db.example:8080", "same-origin", "multipart/form-data; boundary=x", "basic", false},
		{nil, "POST", "https://evil.example", "cross-site", "application/json", "bearer", false},
		{nil, "POST", "", "", "application/json", "basic", false}, // not a browser
		{nil, "GET", "https://evil.example", "cross-site", "", "basic", false},
	} {
		served := false
		h := CORS{Origins: c.allowed}.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true }))
		r := httptest.NewRequest(c.method, "http://db.example:8080/v1/api/sql", nil)
		for name, v := range map[string]string{"Origin": c.origin, "Sec-Fetch-Site": c.site, "Content-Type": c.contentType} {
			if v != "" {
				r.Header.Set(name, v)
			}
		}
		if c.who == "basic" {
			r.SetBasicAuth("root", "x")
		} else {
			r.Header.Set("Authorization", "Bearer x")
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if served == c.refused || c.refused && w.Code != http.StatusForbidden {
			t.Errorf("%+v: served %v, status %d", c, served, w.Code)
		}
	}
}

func TestCORS(t *testing.T) {
	served := false
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true })
	for _, c := range []struct {
		allowed []string
		origin  string
		want    string
	}{
		{nil, "https://evil.example", ""},
		{[]string{"https://app.example"}, "https://evil.example", ""},
		{[]string{"https://app.example"}, "https://app.example", "https://app.example"},
		{[]string{"https://app.example"}, "https://app.example.evil", ""},
		{[]string{"https://app.example"}, "null", ""},
		{[]string{"*"}, "https://any.example", "*"},
		{[]string{"*"}, "", ""},
	} {
		for _, preflight := range []bool{false, true} {
			served = false
			r := httptest.NewRequest(http.MethodPost, "/", nil)
			if preflight {
				r.Method = http.MethodOptions
				r.Header.Set("Access-Control-Request-Method", "POST")
			}
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			w := httptest.NewRecorder()
			CORS{c.allowed}.Wrap(next).ServeHTTP(w, r)
			h := w.Header()
			if got := h.Get("Access-Control-Allow-Origin"); got != c.want {
				t.Errorf("%v %q: allowed %q", c.allowed, c.origin, got)
			}
			if c.want == "*" && h.Get("Access-Control-Allow-Credentials") != "" {
				t.Error("every origin with credentials")
			}
			if c.origin != "" && preflight {
				if status := w.Code; served || (status == http.StatusNoContent) != (c.want != "") {
					t.Errorf("%v %q: preflight %d, served %v", c.allowed, c.origin, status, served)
				}
			} else if !served {
				t.Errorf("%v %q: not served", c.allowed, c.origin)
			}
		}
	}
}

// TestSmuggling: what could mean two things to two parsers is refused, and a head has a limit.
func TestSmuggling(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	reached := 0
	s := NewServer(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }), slog.New(slog.DiscardHandler))
	s.Serve()
	defer s.Stop(t.Context())
	long := make([]byte, 64<<10)
	for i := range long {
		long[i] = 'a'
	}
	for name, text := range map[string]string{
		"two lengths":   "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
		"bad encoding":  "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
		"header space":  "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
		"two hosts":     "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"no host":       "GET / HTTP/1.1\r\n\r\n",
		"a long header": "GET / HTTP/1.1\r\nHost: a\r\nX: " + string(long) + "\r\n\r\n",
	} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(text)) // the server may close before it has read all
		head := make([]byte, 12)
		n, _ := c.Read(head)
		c.Close()
		if n >= 10 && head[9] != '4' && head[9] != '5' {
			t.Errorf("%s: %s", name, head)
		}
	}
	if reached != 0 {
		t.Errorf("%d of them reached the handler", reached)
	}
}
