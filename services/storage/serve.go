package storage

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	flightv1 "github.com/apache/arrow-go/v18/arrow/flight/gen/flight"
	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/clusterservice"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/scan"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/watch"
)

// serve opens the address. Until the node belongs to a cluster only Hello is answered.
func (s *Storage) serve(context.Context) error {
	scans, err := scan.NewServer(lookup{s}, scan.Config{Cold: s.cold, Open: s.checkOpen, WaitVersion: s.catalog.WaitVersion})
	if err != nil {
		return err
	}
	watches := watch.NewServer(lookup{s})
	watches.WaitVersion, watches.Open = s.catalog.WaitVersion, s.checkOpen
	s.gate = &gate{stopping: make(chan struct{})}
	s.server, err = rpcnet.NewServer(s.net, s.cfg.Addr, rpcnet.ServerOptions{Logger: s.cfg.Logger,
		Unary: []grpc.UnaryServerInterceptor{s.gate.unary}, Stream: []grpc.StreamServerInterceptor{s.gate.stream}})
	if err != nil {
		return err
	}
	catalogv1.RegisterCatalogServiceServer(s.server.Registrar(), s.commands)
	storagev1.RegisterStorageServiceServer(s.server.Registrar(), &service{node: s, watches: watches})
	flightv1.RegisterFlightServiceServer(s.server.Registrar(), scans)
	clusterv1.RegisterClusterServiceServer(s.server.Registrar(), clusterservice.New(clusterservice.Config{
		Meeting: s.meeting, Directory: s.directory, Controller: s.controller, Groups: groups{s}, Logger: s.cfg.Logger}))
	s.server.Serve()
	return nil
}

// gate keeps requests out that the node cannot serve yet, and ends streams that would never end by themselves.
type gate struct {
	catalog  atomic.Bool // group 0 is open
	ready    atomic.Bool // everything is
	stopping chan struct{}
	once     sync.Once
}

const (
	helloMethod    = "/cluster.v1.ClusterService/Hello"
	catalogService = "/catalog.v1."
)

var errNotReady = dberr.New(dberr.Unavailable, "this storage node is starting, or waits for its cluster")

func (g *gate) open() { g.ready.Store(true) }

func (g *gate) isOpen() bool { return g != nil && g.ready.Load() }

// close ends the streams.
func (g *gate) close() { g.once.Do(func() { close(g.stopping) }) }

func (g *gate) admits(method string) error {
	switch {
	case g.ready.Load(), method == helloMethod:
		return nil
	case g.catalog.Load() && strings.HasPrefix(method, catalogService):
		return nil
	}
	return errNotReady
}

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	if err := g.admits(info.FullMethod); err != nil {
		return nil, err
	}
	return h(ctx, req)
}

// stream cuts watches when the node stops: their clients go elsewhere. Scans and writes may finish.
func (g *gate) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	if err := g.admits(info.FullMethod); err != nil {
		return err
	}
	if !strings.HasSuffix(info.FullMethod, "/Watch") && !strings.HasSuffix(info.FullMethod, "/WriteStream") {
		return h(srv, stream)
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- h(srv, endingStream{stream, ctx}) }()
	select {
	case err := <-done:
		return err
	case <-g.stopping:
		cancel(errStopping)
	}
	// A handler that waits in Recv ends with the stream, which ends when this returns.
	select {
	case <-done:
	case <-ctx.Done():
	}
	return errStopping
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s endingStream) Context() context.Context { return s.ctx }

// lateGroup is the catalog's group, which opens after those who need it are made. Before that it has no leader.
type lateGroup struct {
	group atomic.Pointer[raftgroup.Group]
}

func (l *lateGroup) set(g *raftgroup.Group) { l.group.Store(g) }

func (l *lateGroup) get() *raftgroup.Group { return l.group.Load() }

// Term is the term in which this node serves as leader, 0 when it does not.
func (l *lateGroup) Term() uint64 {
	if g := l.get(); g != nil {
		return g.Term()
	}
	return 0
}

// NotLeader is the error for requests this node cannot serve.
func (l *lateGroup) NotLeader() error {
	if g := l.get(); g != nil {
		return g.NotLeader()
	}
	return errNotReady
}

// ReadBarrier returns once reading the local state is linearizable.
func (l *lateGroup) ReadBarrier(ctx context.Context) error {
	if g := l.get(); g != nil {
		return g.ReadBarrier(ctx)
	}
	return errNotReady
}

// Propose appends a command to the log.
func (l *lateGroup) Propose(command []byte) raft.ApplyFuture {
	if g := l.get(); g != nil {
		return g.Propose(command)
	}
	return refusedProposal{}
}

// refusedProposal is a proposal to a group that is not open.
type refusedProposal struct{}

func (refusedProposal) Error() error  { return raft.ErrNotLeader }
func (refusedProposal) Response() any { return nil }
func (refusedProposal) Index() uint64 { return 0 }
