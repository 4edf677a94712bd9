package querypool

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// NewStream opens a stream. One whose client sends a single message is opened again elsewhere when it
// breaks before the first answer.
func (p *Pool) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s := &stream{pool: p, ctx: ctx, desc: desc, method: method, opts: opts, began: p.cfg.Now()}
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

// stream is a stream to one node, and until its first answer the means to open it on another.
type stream struct {
	grpc.ClientStream // the present one
	pool              *Pool
	ctx               context.Context //nolint:containedctx // the call's, which opens it again
	desc              *grpc.StreamDesc
	method            string
	opts              []grpc.CallOption
	began             time.Time

	tried    []*node
	done     func() // counts the call out of the present node
	sent     []any  // the request, kept until there is an answer
	closed   bool   // CloseSend was called
	answered bool
}

// open opens the stream on the next node that takes it.
func (s *stream) open() error {
	for {
		n, err := s.pool.pick(s.tried)
		if err != nil {
			return err
		}
		s.tried = append(s.tried, n)
		conn, err := s.pool.cfg.Nodes.Conn(n.addr)
		if err == nil {
			s.ClientStream, err = conn.NewStream(s.ctx, s.desc, s.method, s.opts...)
		}
		if err == nil {
			s.countOut(n)
			return nil
		}
		n.outstanding.Add(-1)
		if !dberr.Is(err, dberr.Unavailable) {
			return err
		}
		s.pool.fail(n)
		if s.ctx.Err() != nil || !s.pool.another(s.tried) {
			return err
		}
	}
}

// countOut counts the call out of a node when it ends.
func (s *stream) countOut(n *node) {
	var once sync.Once
	out := func() { once.Do(func() { n.outstanding.Add(-1) }) }
	unhook := context.AfterFunc(s.ctx, out) // for callers that stop reading
	s.done = func() { unhook(); out() }
}

// oneRequest reports whether the client sends a single message.
func (s *stream) oneRequest() bool { return !s.desc.ClientStreams }

// SendMsg implements grpc.ClientStream.
func (s *stream) SendMsg(m any) error {
	if s.oneRequest() {
		s.sent = []any{m}
	}
	return s.ClientStream.SendMsg(m)
}

// CloseSend implements grpc.ClientStream.
func (s *stream) CloseSend() error {
	s.closed = true
	return s.ClientStream.CloseSend()
}

// RecvMsg implements grpc.ClientStream.
func (s *stream) RecvMsg(m any) error {
	for {
		err := s.ClientStream.RecvMsg(m)
		if err == nil {
			s.answered, s.sent = true, nil
			return nil
		}
		s.done()
		if !s.mayMove(err) {
			return err
		}
		s.pool.fail(s.tried[len(s.tried)-1])
		if s.reopen() != nil {
			return err
		}
	}
}

func (s *stream) mayMove(err error) bool {
	return s.oneRequest() && !s.answered && dberr.Is(err, dberr.Unavailable) && s.ctx.Err() == nil &&
		s.pool.cfg.Now().Sub(s.began) < againWithin && s.pool.another(s.tried)
}

// reopen asks another node what the former was asked.
func (s *stream) reopen() error {
	if err := s.open(); err != nil {
		return err
	}
	s.pool.retries.Add(1)
	for _, m := range s.sent {
		if s.ClientStream.SendMsg(m) != nil {
			return nil // RecvMsg has the reason
		}
	}
	if s.closed {
		return s.ClientStream.CloseSend()
	}
	return nil
}
