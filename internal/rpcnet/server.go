package rpcnet

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"reflect"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// messageBytesMax bounds one message between roles; result and batch limits lie well below it.
const messageBytesMax = 128 << 20

// ServerOptions are what differs between servers.
type ServerOptions struct {
	Logger *slog.Logger
	// Unary and Stream run inside the standard interceptors (panic and error conversion).
	Unary  []grpc.UnaryServerInterceptor
	Stream []grpc.StreamServerInterceptor
	// Roles may call; empty means all. It counts on networks whose nodes prove their role.
	Roles []string
	// GRPC are further options for the socket server (TLS, keepalive, message size).
	GRPC []grpc.ServerOption
}

// Server serves gRPC services on one address of a Network.
type Server struct {
	grpc     *grpc.Server
	direct   *directServer // nil unless the network is Local
	local    *Local
	addr     string
	listener net.Listener
	log      *slog.Logger
	serving  sync.WaitGroup
	stopping atomic.Bool
	calls    *callTracker
}

// NewServer listens on addr. Register services, then Serve.
func NewServer(n Network, addr string, opt ServerOptions) (*Server, error) {
	l, err := n.Listen(addr)
	if err != nil {
		return nil, err
	}
	if opt.Logger == nil {
		opt.Logger = slog.Default()
	}
	s := &Server{addr: addr, listener: l, log: opt.Logger, calls: newCallTracker()}
	door := newDoorkeeper(opt.Roles, opt.Logger)
	unary := append([]grpc.UnaryServerInterceptor{s.unary(door)}, opt.Unary...)
	stream := append([]grpc.StreamServerInterceptor{s.stream(door)}, opt.Stream...)
	grpcOpts := append([]grpc.ServerOption{grpc.MaxRecvMsgSize(messageBytesMax), grpc.MaxSendMsgSize(messageBytesMax),
		grpc.Creds(peerCredentials{insecure.NewCredentials()}), grpc.KeepaliveParams(serverKeepalive), grpc.KeepaliveEnforcementPolicy(keepaliveAllowed)}, opt.GRPC...)
	grpcOpts = append(grpcOpts, grpc.ChainUnaryInterceptor(unary...), grpc.ChainStreamInterceptor(stream...))
	s.grpc = grpc.NewServer(grpcOpts...)
	if local, ok := n.(*Local); ok {
		s.local = local
		s.direct = newDirectServer(s.calls, unary, stream)
	}
	return s, nil
}

// Registrar is where services are registered.
func (s *Server) Registrar() grpc.ServiceRegistrar { return registrar{s} }

type registrar struct{ s *Server }

func (r registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	r.s.grpc.RegisterService(desc, impl)
	if r.s.direct != nil {
		r.s.direct.register(desc, impl)
	}
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Serve accepts calls in the background until Stop. A listener that dies before is logged; calls in the same
// process go on.
func (s *Server) Serve() {
	if s.direct != nil {
		s.local.offer(s.addr, s.direct)
	}
	s.serving.Go(func() {
		err := s.grpc.Serve(s.listener)
		if err != nil && !errors.Is(err, grpc.ErrServerStopped) && !s.stopping.Load() {
			s.log.Error("no more connections are accepted", "address", s.addr, "error", err)
		}
	})
}

// hangUpWithin is how long clients have to close their connections when no call runs any more. One that was cut off
// does not hear that it should, and would be waited for until its socket dies.
const hangUpWithin = 2 * time.Second

// Stop refuses new calls, lets running ones finish until ctx ends, then cuts them.
func (s *Server) Stop(ctx context.Context) {
	s.stopping.Store(true)
	if s.direct != nil {
		s.local.offer(s.addr, nil)
	}
	hungUp, ended := make(chan struct{}), make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(hungUp)
	}()
	go func() {
		s.calls.wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		s.log.WarnContext(ctx, "calls are cut, as this node stops", "address", s.addr, "calls", s.calls.methods())
		s.calls.cancel()
	}
	patience := time.NewTimer(hangUpWithin)
	defer patience.Stop()
	select {
	case <-hungUp:
	case <-ctx.Done():
	case <-patience.C:
	}
	s.grpc.Stop()
	<-hungUp
	<-ended
	_ = s.listener.Close()
	s.serving.Wait()
}

// unary converts errors, catches panics, refuses calls while stopping.
func (s *Server) unary(door *doorkeeper) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (resp any, err error) {
		if s.stopping.Load() {
			return nil, dberr.ToStatus(errStopping)
		}
		if err := door.check(ctx, info.FullMethod); err != nil {
			return nil, dberr.ToStatus(err)
		}
		ctx, end, ok := s.calls.begin(ctx, info.FullMethod)
		if !ok {
			return nil, dberr.ToStatus(errStopping)
		}
		defer end()
		defer func() {
			if p := recover(); p != nil {
				resp, err = nil, dberr.ToStatus(panicked(ctx, s.log, info.FullMethod, p))
			}
		}()
		resp, err = h(ctx, req)
		return resp, dberr.ToStatus(err)
	}
}

func (s *Server) stream(door *doorkeeper) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
		if s.stopping.Load() {
			return dberr.ToStatus(errStopping)
		}
		if err := door.check(ss.Context(), info.FullMethod); err != nil {
			return dberr.ToStatus(err)
		}
		ctx, end, ok := s.calls.begin(ss.Context(), info.FullMethod)
		if !ok {
			return dberr.ToStatus(errStopping)
		}
		defer end()
		defer func() {
			if p := recover(); p != nil {
				err = dberr.ToStatus(panicked(ctx, s.log, info.FullMethod, p))
			}
		}()
		return dberr.ToStatus(h(srv, streamWithContext{ss, ctx}))
	}
}

var errStopping = dberr.New(dberr.Unavailable, "this node is stopping")

func panicked(ctx context.Context, log *slog.Logger, method string, p any) error {
	log.ErrorContext(ctx, "handler panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
	return dberr.New(dberr.Internal, "internal fault in %s; see the server's log", method)
}

type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s streamWithContext) Context() context.Context { return s.ctx }

// sharingCloner hands messages over without copying: both sides treat them as immutable.
type sharingCloner struct{}

func (sharingCloner) Copy(out, in any) error {
	reflect.ValueOf(out).Elem().Set(reflect.ValueOf(in).Elem())
	return nil
}

func (sharingCloner) Clone(in any) (any, error) { return in, nil }
