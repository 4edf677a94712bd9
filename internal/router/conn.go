package router

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/pause"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/silence"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

const (
	// pauseMin is the pause before the second attempt; it doubles up to pauseMax, which is what a failover takes longer
	// than its election. A hint is followed at once, hintsMax times: after that the hints go in a circle.
	pauseMin = 5 * time.Millisecond
	pauseMax = 100 * time.Millisecond
	hintsMax = 4
)

// clusterService are calls that may take long: moving leaders, comparing replicas.
const clusterService = "/cluster.v1."

// takesLong reports whether a call takes as long as its work does: asking another replica meanwhile would not make it
// faster, and ending it would throw away what it has done. Its caller bounds it.
func takesLong(method string) bool {
	switch method {
	case storagev1.StorageService_Flush_FullMethodName, storagev1.StorageService_Compact_FullMethodName,
		storagev1.StorageService_DescribeBackup_FullMethodName, storagev1.StorageService_CheckRestoreUser_FullMethodName,
		storagev1.StorageService_RestoreUser_FullMethodName, storagev1.StorageService_RestoreRows_FullMethodName:
		return true
	}
	return strings.HasPrefix(method, clusterService)
}

// groupConn sends calls to the leader of one group.
type groupConn struct {
	router *Router
	group  uint32
	// anyStream: streams may be served by any storage node.
	anyStream bool
}

var errNowhere = dberr.New(dberr.Unavailable, "no storage node is known (cluster.join)")

// Invoke makes a unary call, as often as it takes.
func (c *groupConn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	addr, ok := c.router.Leader(c.group)
	if !ok {
		return errNowhere
	}
	within := c.router.cfg.AttemptTimeout
	err := c.attempt(ctx, within, addr, method, args, reply, opts)
	if err == nil || !again(err) {
		return err
	}
	return c.retry(ctx, addr, err, func(addr string) error {
		if errors.Is(err, errNoAnswer) { // an answer, whatever it said, was no sign that time is short
			within = min(2*within, attemptTimeoutMax)
		}
		err = c.attempt(ctx, within, addr, method, args, reply, opts)
		return err
	})
}

// errNoAnswer is in the error of an attempt that its time ended.
var errNoAnswer = errors.New("it did not answer in time")

// attempt makes the call once and learns from its outcome.
func (c *groupConn) attempt(ctx context.Context, within time.Duration, addr, method string, args, reply any, opts []grpc.CallOption) error {
	conn, err := c.router.pool.Get(addr)
	if err != nil {
		return err
	}
	call, cancel := ctx, context.CancelFunc(nil)
	if !c.router.local && !takesLong(method) {
		call, cancel = context.WithTimeout(ctx, within)
		defer cancel()
	}
	err = conn.Invoke(call, method, args, reply, opts...)
	if cancel != nil && dberr.Is(err, dberr.Timeout) && ctx.Err() == nil {
		// The attempt's own end, noticed here or there. A caller's deadline that is as near comes next.
		err = dberr.New(dberr.Unavailable, "ask %s: %w (%v)", addr, errNoAnswer, within)
		if !answers(ctx, conn) {
			c.router.silent.add(addr)
		}
	} else if ctx.Err() == nil {
		c.router.silent.remove(addr)
	}
	if err == nil || again(err) {
		c.router.Learn(c.group, addr, err)
	}
	return err
}

// again reports whether another attempt may succeed.
func again(err error) bool {
	code := dberr.CodeOf(err)
	return code == dberr.NotLeader || code == dberr.Unavailable
}

// retry tries call until it answers, ctx ends or the time for retries is over.
func (c *groupConn) retry(ctx context.Context, addr string, err error, call func(addr string) error) error {
	r := c.router
	deadline := time.Now().Add(r.cfg.RetryFor)
	wait, hints := pause.Growing{Min: pauseMin, Max: pauseMax}, 0
	for again(err) && time.Now().Before(deadline) {
		next := r.hinted(err)
		if next != "" && next != addr && !r.silent.is(next) && hints < hintsMax {
			hints++
		} else {
			next = c.next(addr, hints == hintsMax)
			hints = 0
			if wait.Wait(ctx) != nil {
				return lastWords(ctx, err)
			}
		}
		if ctx.Err() != nil {
			return lastWords(ctx, err)
		}
		r.counts.Retries.Add(1)
		addr = next
		err = call(addr)
	}
	return err
}

// next is where to go without a hint: to the leader somebody else has found meanwhile, or on to the next
// replica; always on when hints went in a circle.
func (c *groupConn) next(tried string, circle bool) string {
	if a, ok := c.router.leaders.Load(c.group); ok && a != tried && !circle && !c.router.silent.is(a.(string)) {
		return a.(string)
	}
	a, _ := c.router.guess(c.group, tried)
	return a
}

// lastWords is the error of a call whose context ended between two attempts: the caller's end, and what
// kept it until then.
func lastWords(ctx context.Context, last error) error {
	return dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "%w; the last attempt: %v", ctx.Err(), last)
}

// NewStream opens a stream once.
func (c *groupConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	addr, ok := c.router.Leader(c.group)
	if c.anyStream {
		addr, ok = c.router.anyStorage()
	}
	if !ok {
		return nil, errNowhere
	}
	conn, err := c.router.pool.Get(addr)
	if err != nil {
		return nil, err
	}
	s, err := conn.NewStream(ctx, desc, method, opts...)
	if c.anyStream {
		return s, err
	}
	if err != nil {
		if again(err) {
			c.router.Learn(c.group, addr, err)
		}
		return nil, err
	}
	return &learningStream{ClientStream: s, conn: c, addr: addr, to: conn}, nil
}

// learningStream tells the router how its first message went: gRPC streams are opened before the server
// has said anything.
type learningStream struct {
	grpc.ClientStream
	conn    *groupConn
	addr    string
	to      *rpcnet.Conn
	learned bool // touched by the receiver only
}

func (s *learningStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if ctx := s.Context(); err != nil && errors.Is(context.Cause(ctx), silence.Err) && !answers(context.WithoutCancel(ctx), s.to) {
		s.conn.router.Learn(s.conn.group, s.addr, silence.Err) // who waited gave it up
	}
	if !s.learned || err != nil && again(err) {
		s.learned = true
		if err == nil || errors.Is(err, io.EOF) {
			s.conn.router.Learn(s.conn.group, s.addr, nil)
		} else if again(err) {
			s.conn.router.Learn(s.conn.group, s.addr, err)
		}
	}
	return err
}
