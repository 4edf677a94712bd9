package watch

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// Shards is what serving watches needs from the node.
type Shards interface {
	// Hub returns the hub of a shard this node leads, NotLeader otherwise.
	Hub(shard uint32) (*Hub, error)
	// Table returns the newest version of a table that exists.
	Table(id uint32) (*catalog.Table, bool)
}

// Stream is the server's side of StorageService.Watch.
type Stream interface {
	Context() context.Context
	Send(*storagev1.WatchResponse) error
	Recv() (*storagev1.WatchRequest, error)
}

// catalogWaitMax bounds how long a watch waits for the catalog it was bound to. The others that are asked for on
// the stream wait with it.
const catalogWaitMax = 5 * time.Second

// Server serves StorageService.Watch.
type Server struct {
	// WaitVersion returns once the catalog that Shards knows has a version; nil means that it always has. Set it
	// before serving.
	WaitVersion func(ctx context.Context, version uint64) error

	// Open refuses users whose accounts are closed for good; nil refuses nobody. Set it before serving.
	Open func(user string) error

	shards Shards
}

// NewServer makes a server over the node's shards.
func NewServer(shards Shards) *Server { return &Server{shards: shards} }

// Watch serves one stream until the caller closes it or either direction fails.
func (v *Server) Watch(stream Stream) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	s := newSession(stream.Send)
	defer s.close()
	// Recv ends with the stream, which ends when this handler returns: only then can the receiver be
	// waited for, so nobody does. A session that is closed admits nothing, however late it asks.
	go func() { cancel(v.receive(ctx, stream, s)) }()
	err := s.run(ctx)
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	if errors.Is(err, errHungUp) {
		return nil
	}
	return err
}

// errHungUp ends a stream whose caller has no more requests: a watch needs someone who can remove it.
var errHungUp = errors.New("the caller closed the stream")

// receive takes requests until the caller has no more.
func (v *Server) receive(ctx context.Context, stream Stream, s *session) error {
	for ctx.Err() == nil {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errHungUp
		}
		if err != nil {
			return err
		}
		switch r := req.GetRequest().(type) {
		case *storagev1.WatchRequest_Add:
			if err := v.add(ctx, s, r.Add); err != nil {
				return err
			}
		case *storagev1.WatchRequest_Remove:
			s.remove(r.Remove)
		default:
			return dberr.New(dberr.InvalidArgument, "watch: request of an unknown kind")
		}
	}
	return ctx.Err()
}

// add opens a watch. What is wrong with the watch alone ends the watch, not the stream.
func (v *Server) add(ctx context.Context, s *session, a *storagev1.WatchAdd) error {
	if s.full() {
		return s.refuse(a.GetWatchId(), dberr.New(dberr.LimitExceeded, "watch: more than %d watches on one stream (watchesMax)", watchesMax))
	}
	err := v.waitCatalog(ctx, a.GetCatalogVersion())
	var w *watch
	if err == nil {
		w, err = v.open(a)
	}
	if err != nil {
		return s.refuse(a.GetWatchId(), err)
	}
	w.session = s
	if err := s.admit(w); err != nil {
		return err
	}
	if err := w.register(a.GetAfterSeq()); err != nil {
		s.release(w)
		return s.refuse(w.id, err)
	}
	if w.unlogged && a.GetAfterSeq() == 0 {
		w.startNow()
	}
	return nil
}

func (v *Server) waitCatalog(ctx context.Context, version uint64) error {
	if version == 0 || v.WaitVersion == nil {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, catalogWaitMax)
	defer cancel()
	err := v.WaitVersion(wait, version)
	if err != nil && ctx.Err() == nil {
		return dberr.New(dberr.Unavailable, "this node's catalog is behind (catalogWaitMax): %w", err)
	}
	return err
}

func (v *Server) open(a *storagev1.WatchAdd) (*watch, error) {
	t, ok := v.shards.Table(a.GetTableId())
	if !ok {
		return nil, dberr.New(dberr.NotFound, "watch: there is no table %d", a.GetTableId())
	}
	if err := authorize(t, a); err != nil {
		return nil, err
	}
	if t.Kind.PerUser() && v.Open != nil {
		if err := v.Open(a.GetUserId()); err != nil {
			return nil, err
		}
	}
	h, err := v.shards.Hub(a.GetShard())
	if err != nil {
		return nil, err
	}
	unlogged := t.Kind == catalog.StreamTable
	if unlogged && h.unlogged == nil {
		return nil, dberr.New(dberr.Unsupported, "watch: shard %d serves no STREAM tables", a.GetShard())
	}
	return &watch{id: a.GetWatchId(), hub: h, unlogged: unlogged,
		partition: subject{table: t.ID, user: a.GetUserId()}}, nil
}

// authorize lets an identity watch its own partitions and shared ones, whose access level the query role
// has checked.
func authorize(t *catalog.Table, a *storagev1.WatchAdd) error {
	switch {
	case t.Kind.PerUser() && (a.GetUserId() == "" || a.GetUserId() != a.GetIdentity().GetUserId()):
		return dberr.New(dberr.PermissionDenied, "watch: the rows of another user of %s cannot be watched", t.QualifiedName())
	case t.Partitioned():
		if _, ok := partition.Parse(t, a.GetUserId()); !ok {
			return dberr.New(dberr.InvalidArgument, "watch: %s is partitioned, and the watch names none of its partitions", t.QualifiedName())
		}
	case !t.Kind.PerUser() && a.GetUserId() != "":
		return dberr.New(dberr.InvalidArgument, "watch: %s is a shared table and has no partition of a user", t.QualifiedName())
	}
	return nil
}
