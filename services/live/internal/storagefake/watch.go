package storagefake

import (
	"context"
	"sort"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// catalogService is the part of Storage that has a Watch of its own.
type catalogService struct {
	catalogv1.UnimplementedCatalogServiceServer
	*Storage
}

const (
	// batchRows is small, so that tests see many batches.
	batchRows = 16
	idleEvery = 10 * time.Millisecond
)

// session is one Watch stream.
type session struct {
	node   *Node
	cancel context.CancelFunc

	mu      sync.Mutex
	dirty   []*watch
	refused []*storagev1.WatchEnded
	wake    chan struct{}
	broken  bool // guarded by Storage.mu

	watches map[uint64]*watch // guarded by Storage.mu
}

// watch is guarded by Storage.mu.
type watch struct {
	id      uint64
	session *session
	part    *partition
	sent    uint64
	started bool
	fail    error
}

func (ss *session) touch(w *watch) {
	ss.mu.Lock()
	ss.dirty = append(ss.dirty, w)
	ss.mu.Unlock()
	ss.signal()
}

func (ss *session) signal() {
	select {
	case ss.wake <- struct{}{}:
	default:
	}
}

// Watch serves a watch stream.
func (n *Node) Watch(stream grpc.BidiStreamingServer[storagev1.WatchRequest, storagev1.WatchResponse]) error {
	s := n.storage
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	ss := &session{node: n, cancel: cancel, wake: make(chan struct{}, 1), watches: map[uint64]*watch{}}
	s.mu.Lock()
	s.sessions[ss] = struct{}{}
	s.mu.Unlock()
	defer s.forget(ss)
	go func() {
		defer cancel()
		for {
			m, err := stream.Recv()
			if err != nil || ctx.Err() != nil {
				return
			}
			s.request(ss, m)
		}
	}()
	tick := time.NewTicker(idleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return dberr.New(dberr.Unavailable, "the stream was cut")
		case <-ss.wake:
		case <-tick.C:
		}
		if err := s.round(ctx, ss, stream.Send); err != nil {
			return err
		}
	}
}

func (s *Storage) forget(ss *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, ss)
	for _, w := range ss.watches {
		delete(w.part.watches, w)
	}
}

func (s *Storage) request(ss *session, m *storagev1.WatchRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id := m.GetRemove(); id != 0 {
		if w := ss.watches[id]; w != nil {
			delete(ss.watches, id)
			delete(w.part.watches, w)
		}
		return
	}
	add := m.GetAdd()
	refuse := func(code dberr.Code, text string) {
		ss.mu.Lock()
		ended := &storagev1.WatchEnded{WatchId: add.GetWatchId(), Code: string(code), Message: text}
		if code == dberr.NotLeader && s.leader != nil {
			ended.Fields = map[string]string{dberr.FieldLeader: s.leader.addr}
		}
		ss.refused = append(ss.refused, ended)
		ss.mu.Unlock()
		ss.signal()
	}
	t := s.tables[add.GetTableId()]
	switch {
	case !s.leads(ss.node):
		refuse(dberr.NotLeader, "another node leads")
	case s.refuse:
		refuse(dberr.Unavailable, "the shard moves")
	case t == nil:
		refuse(dberr.NotFound, "no such table")
	case t.Kind.PerUser() && add.GetUserId() != add.GetIdentity().GetUserId():
		refuse(dberr.PermissionDenied, "another user's partition")
	default:
		s.add(ss, add, refuse)
	}
}

func (s *Storage) add(ss *session, add *storagev1.WatchAdd, refuse func(dberr.Code, string)) {
	p := s.partition(partitionKey{add.GetTableId(), add.GetUserId()})
	after := add.GetAfterSeq()
	if after == 0 {
		after = s.seq
	}
	if after < p.pruned {
		refuse(dberr.PositionGone, "pruned")
		return
	}
	w := &watch{id: add.GetWatchId(), session: ss, part: p, sent: after}
	ss.watches[w.id] = w
	p.watches[w] = struct{}{}
	ss.touch(w)
}

// round sends what there is, then how far everything is.
func (s *Storage) round(ctx context.Context, ss *session, send func(*storagev1.WatchResponse) error) error {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	position, leads, broken := s.seq, s.leads(ss.node), ss.broken
	s.mu.Unlock()
	if broken {
		return dberr.New(dberr.Unavailable, "the stream was cut")
	}
	ss.mu.Lock()
	dirty, refused := ss.dirty, ss.refused
	ss.dirty, ss.refused = nil, nil
	ss.mu.Unlock()
	for _, e := range refused {
		if err := send(&storagev1.WatchResponse{Event: &storagev1.WatchResponse_Ended{Ended: e}}); err != nil {
			return err
		}
	}
	for _, w := range dirty {
		for more := true; more; {
			var out []*storagev1.WatchResponse
			out, more = s.take(w)
			for _, m := range out {
				if err := send(m); err != nil {
					return err
				}
			}
		}
	}
	s.mu.Lock()
	broken = ss.broken // then what was not sent above is not covered by position
	s.mu.Unlock()
	if !leads || broken {
		return nil
	}
	return send(&storagev1.WatchResponse{Event: &storagev1.WatchResponse_Progress{Progress: &storagev1.Progress{Position: position}}})
}

// take returns the next messages of a watch.
func (s *Storage) take(w *watch) (out []*storagev1.WatchResponse, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.session.watches[w.id] != w {
		return nil, false
	}
	if !w.started {
		w.started = true
		out = append(out, &storagev1.WatchResponse{Event: &storagev1.WatchResponse_Started{
			Started: &storagev1.WatchStarted{WatchId: w.id, Position: w.sent}}})
	}
	log := w.part.log
	i := sort.Search(len(log), func(i int) bool { return log[i].GetSeq() > w.sent })
	if n := min(len(log)-i, batchRows); n > 0 {
		batch := append([]*storagev1.Change(nil), log[i:i+n]...)
		w.sent = batch[n-1].GetSeq()
		more = i+n < len(log)
		out = append(out, &storagev1.WatchResponse{Event: &storagev1.WatchResponse_Changes{
			Changes: &storagev1.ChangeBatch{WatchId: w.id, Changes: batch}}})
	}
	if w.fail != nil && !more {
		delete(w.session.watches, w.id)
		delete(w.part.watches, w)
		out = append(out, &storagev1.WatchResponse{Event: &storagev1.WatchResponse_Ended{
			Ended: &storagev1.WatchEnded{WatchId: w.id, Code: string(dberr.CodeOf(w.fail)), Message: w.fail.Error(),
				Fields: map[string]string{dberr.FieldLeader: dberr.FieldOf(w.fail, dberr.FieldLeader)}}}})
	}
	return out, more
}

// Table makes a table for tests: the first column is the key.
func Table(id uint32, name string, kind catalog.TableKind, columns ...catalog.Column) *catalog.Table {
	t := &catalog.Table{ID: id, Namespace: "app", Name: name, Kind: kind, SchemaVersion: 1, Access: catalog.AccessOpen}
	for i, c := range columns {
		c.ID = uint32(i + 1)
		if i == 0 {
			c.PrimaryKey, c.NotNull = true, true
		}
		t.Columns = append(t.Columns, c)
	}
	return t.Index()
}
