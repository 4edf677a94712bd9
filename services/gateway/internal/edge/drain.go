package edge

import (
	"errors"
	"io"
	"net/http"
)

// Drain takes up to most bytes of a request's body that next left unread, after the answer has left. A connection closed on bytes nobody
// read is reset, and a client that is still sending then sees the reset instead of the refusal that says what is wrong. The answer does not wait
// for the body: a slow client would learn of its refusal when bodyTimeout ends. What is larger is cut. A client that asked whether to
// send (Expect: 100-continue) and was never told to sends nothing, and HTTP/2 has a refusal of its own for one stream.
func Drain(most int64, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		body := &drainable{ReadCloser: r.Body, begun: r.Header.Get("Expect") == ""}
		r.Body = body
		answer := http.NewResponseController(w)
		duplex := answer.EnableFullDuplex() // else the server reads the body before it sends the answer's head
		next.ServeHTTP(w, r)
		if !body.begun || body.ended || errors.Join(duplex, answer.Flush()) != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, body, most)
	})
}

// drainable is a body that knows whether the client sends it, and whether it has been read to its end.
type drainable struct {
	io.ReadCloser
	begun, ended bool
}

func (b *drainable) Read(p []byte) (int, error) {
	b.begun = true
	n, err := b.ReadCloser.Read(p)
	b.ended = b.ended || errors.Is(err, io.EOF)
	return n, err
}
