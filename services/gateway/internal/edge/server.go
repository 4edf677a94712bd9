package edge

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Timeouts of the public listener. A body arrives and an answer leaves within them, or the connection
// is cut; WebSockets take the connection over and keep their own.
const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 30 * time.Second
	// writeTimeout covers the statement (30 s by default) and a slow reader of a large answer.
	writeTimeout = 120 * time.Second
	idleTimeout  = 75 * time.Second
	// headerBytesMax is far above a token and cookies.
	headerBytesMax = 16 << 10
	// streamsMax bounds the requests one HTTP/2 connection has at once.
	streamsMax = 100
)

// Server is one HTTP listener with an owner for its goroutine.
type Server struct {
	http     *http.Server
	listener net.Listener
	served   bool
	done     chan struct{}
	err      error
}

// NewServer serves h on l: HTTP/1.1, and HTTP/2 without TLS for those who start with it.
func NewServer(l net.Listener, h http.Handler, log *slog.Logger) *Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &Server{listener: l, done: make(chan struct{}), http: &http.Server{Handler: h, Protocols: protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: streamsMax},
		ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: headerBytesMax, ConnContext: ConnContext,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}}
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Serve accepts requests in the background until Stop.
func (s *Server) Serve() {
	s.served = true
	go func() {
		defer close(s.done)
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			s.err = err
		}
	}()
}

// Done is closed when the server no longer accepts; Err then says why, nil after Stop.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is valid after Done.
func (s *Server) Err() error { return s.err }

// Stop stops accepting, lets requests finish until ctx ends, then cuts them.
func (s *Server) Stop(ctx context.Context) error {
	if !s.served {
		return s.listener.Close()
	}
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	<-s.done
	return err
}
