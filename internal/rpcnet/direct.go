package rpcnet

import (
	"context"
	"time"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// directServer is a server as the other roles of its process see it. Unary calls run in the caller's
// goroutine; streams go through grpchan's in-process channel.
//
// grpchan runs unary calls in a goroutine of their own: at 64 writers a quarter of the server's time went
// into growing those goroutines' stacks and into the select that waits for them (ADR 0002).
type directServer struct {
	streams *inprocgrpc.Channel
	unary   grpc.UnaryServerInterceptor
	methods map[string]directMethod
	calls   *callTracker
}

type directMethod struct {
	handler grpc.MethodHandler
	impl    any
}

func newDirectServer(calls *callTracker, unary []grpc.UnaryServerInterceptor, stream []grpc.StreamServerInterceptor) *directServer {
	return &directServer{unary: chainUnary(unary), methods: map[string]directMethod{}, calls: calls,
		streams: new(inprocgrpc.Channel).WithCloner(sharingCloner{}).WithServerStreamInterceptor(chainStream(stream))}
}

func (d *directServer) register(desc *grpc.ServiceDesc, impl any) {
	d.streams.RegisterService(desc, impl)
	for _, m := range desc.Methods {
		d.methods["/"+desc.ServiceName+"/"+m.MethodName] = directMethod{handler: m.Handler, impl: impl}
	}
}

// invoke returns when the handler does: handlers end soon after their context.
func (d *directServer) invoke(ctx context.Context, method string, args, reply any) error {
	m, ok := d.methods[method]
	if !ok {
		return dberr.New(dberr.Unsupported, "this server has no method %s", method)
	}
	resp, err := m.handler(m.impl, serverContext(ctx), func(in any) error { return sharingCloner{}.Copy(in, args) }, d.unary)
	if err != nil {
		return dberr.FromStatus(err)
	}
	return sharingCloner{}.Copy(reply, resp)
}

// serverContext passes on the caller's end and metadata and nothing else: what a role keeps in its
// contexts is its own, in one process as in many.
func serverContext(ctx context.Context) context.Context {
	inner := context.Context(valueless{ctx})
	if md, ok := metadata.FromOutgoingContext(ctx); ok {
		inner = metadata.NewIncomingContext(inner, md)
	}
	return inner
}

// valueless hides a context's values. It implements AfterFunc because package context otherwise starts
// a goroutine for each child of a context it does not know.
type valueless struct{ outer context.Context }

func (v valueless) Deadline() (time.Time, bool)    { return v.outer.Deadline() }
func (v valueless) Done() <-chan struct{}          { return v.outer.Done() }
func (v valueless) Err() error                     { return v.outer.Err() }
func (v valueless) Value(any) any                  { return nil }
func (v valueless) AfterFunc(f func()) func() bool { return context.AfterFunc(v.outer, f) }

// newStream opens a stream that ends with the server as with the caller: a handler blocked in Send by a client
// that stopped reading waits for the client's context, which need not end.
func (d *directServer) newStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	inner, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(d.calls.root, cancel)
	context.AfterFunc(inner, func() { unhook() })
	s, err := d.streams.NewStream(inner, desc, method, opts...)
	if err != nil {
		cancel()
		return nil, dberr.FromStatus(err)
	}
	return &directStream{ClientStream: s, server: d, caller: ctx, end: cancel, many: desc.ServerStreams}, nil
}

// directStream is the client's end of a stream in one process.
type directStream struct {
	grpc.ClientStream
	server *directServer
	caller context.Context
	end    context.CancelFunc
	many   bool // the server may send more than one message
}

func (s *directStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil || !s.many {
		s.end() // nothing comes after it
	}
	return s.convert(err)
}

func (s *directStream) SendMsg(m any) error { return s.convert(s.ClientStream.SendMsg(m)) }

// convert tells a stream the server cut from one that the caller ended.
func (s *directStream) convert(err error) error {
	err = convertStreamErr(err)
	if dberr.Is(err, dberr.Canceled) && s.caller.Err() == nil && s.server.calls.root.Err() != nil {
		return errStopping
	}
	return err
}
