package edge

import (
	"io"
	"net/http"
)

// Drain takes up to most bytes of a request's body that next left unread, before the answer leaves. A connection closed on bytes nobody read
// is reset, and a client that is still sending then sees the reset instead of the refusal that says what is wrong. The body's
// deadline (bodyTimeout) bounds the time; what is larger is cut. A client that asked whether to send (Expect: 100-continue) and was never
// told to sends nothing, and HTTP/2 has a refusal of its own for one stream.
func Drain(most int64, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &drainable{ReadCloser: r.Body, begun: r.Header.Get("Expect") == ""}
		r.Body = body
		next.ServeHTTP(w, r)
		if r.ProtoMajor == 1 && body.begun {
			_, _ = io.CopyN(io.Discard, body, most)
		}
	})
}

// drainable is a body that knows whether the client sends it.
type drainable struct {
	io.ReadCloser
	begun bool
}

func (b *drainable) Read(p []byte) (int, error) {
	b.begun = true
	return b.ReadCloser.Read(p)
}
