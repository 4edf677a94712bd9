package feed

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// script is storage nodes that send exactly what the test says, and routes that say what it says.
type script struct {
	t       *testing.T
	network *rpcnet.Local
	pool    *rpcnet.Pool
	feed    *Feed

	told    bell // by the feed: Progress, Learn
	mu      sync.Mutex
	leaders map[uint32]string
	learned []string
	reports []uint64
}

func newScript(t *testing.T, leader string) *script {
	s := &script{t: t, network: rpcnet.NewLocal(), leaders: map[uint32]string{1: leader}}
	s.pool = rpcnet.NewPool(s.network)
	s.feed = New(s, Config{Log: slog.New(slog.DiscardHandler), Progress: func(_ uint32, p uint64) {
		defer s.told.ring()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reports = append(s.reports, p)
	}})
	s.feed.Start(t.Context())
	t.Cleanup(func() {
		s.feed.Stop()
		s.pool.Close()
	})
	return s
}

func (s *script) Leader(group uint32) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	addr := s.leaders[group]
	return addr, addr != ""
}

// Learn follows a hint as the router does; server ids are addresses here.
func (s *script) Learn(group uint32, addr string, err error) {
	defer s.told.ring()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learned = append(s.learned, fmt.Sprintf("%s:%s", addr, dberr.CodeOf(err)))
	if hint := dberr.FieldOf(err, dberr.FieldLeader); hint != "" {
		s.leaders[group] = hint
	}
}

func (s *script) Conn(addr string) (*rpcnet.Conn, error) { return s.pool.Get(addr) }

func (s *script) lead(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaders[1] = addr
}

// reported waits until the feed has passed on a report of a position.
func (s *script) reported(position uint64) {
	s.t.Helper()
	s.told.until(s.t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.Contains(s.reports, position)
	})
}

// scripted is a storage node.
type scripted struct {
	storagev1.UnimplementedStorageServiceServer
	t       *testing.T
	server  *rpcnet.Server
	streams chan *dialogue
}

// dialogue is one Watch call.
type dialogue struct {
	t        *testing.T
	requests chan *storagev1.WatchRequest
	events   chan *storagev1.WatchResponse
	cut      chan error
	gone     <-chan struct{}
}

func (s *script) node(addr string) *scripted {
	server, err := rpcnet.NewServer(s.network, addr, rpcnet.ServerOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	n := &scripted{t: s.t, server: server, streams: make(chan *dialogue, 16)}
	storagev1.RegisterStorageServiceServer(server.Registrar(), n)
	server.Serve()
	s.t.Cleanup(n.stop)
	return n
}

func (n *scripted) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.server.Stop(ctx)
}

func (n *scripted) Watch(stream grpc.BidiStreamingServer[storagev1.WatchRequest, storagev1.WatchResponse]) error {
	d := &dialogue{t: n.t, requests: make(chan *storagev1.WatchRequest, 1024), events: make(chan *storagev1.WatchResponse),
		cut: make(chan error), gone: stream.Context().Done()}
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			d.requests <- m
		}
	}()
	n.streams <- d
	for {
		select {
		case m := <-d.events:
			if err := stream.Send(m); err != nil {
				return err
			}
		case err := <-d.cut:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing came", what)
		panic("unreachable")
	}
}

func (n *scripted) opened() *dialogue { n.t.Helper(); return receive(n.t, n.streams, "a stream") }

func (d *dialogue) added() *storagev1.WatchAdd {
	d.t.Helper()
	for {
		if a := receive(d.t, d.requests, "a request").GetAdd(); a != nil {
			return a
		}
	}
}

func (d *dialogue) removed() uint64 {
	d.t.Helper()
	for {
		if r := receive(d.t, d.requests, "a request").GetRemove(); r != 0 {
			return r
		}
	}
}

func (d *dialogue) send(m *storagev1.WatchResponse) {
	d.t.Helper()
	select {
	case d.events <- m:
	case <-time.After(patience):
		d.t.Fatalf("nobody takes %v", m)
	}
}

func (d *dialogue) start(id, position uint64) {
	d.t.Helper()
	d.send(&storagev1.WatchResponse{Event: &storagev1.WatchResponse_Started{Started: &storagev1.WatchStarted{WatchId: id, Position: position}}})
}

func (d *dialogue) change(id uint64, seqs ...uint64) {
	d.t.Helper()
	b := &storagev1.ChangeBatch{WatchId: id}
	for _, seq := range seqs {
		b.Changes = append(b.Changes, &storagev1.Change{Seq: seq})
	}
	d.send(&storagev1.WatchResponse{Event: &storagev1.WatchResponse_Changes{Changes: b}})
}

func (d *dialogue) end(id uint64, code dberr.Code, leader string) {
	d.t.Helper()
	d.send(&storagev1.WatchResponse{Event: &storagev1.WatchResponse_Ended{Ended: &storagev1.WatchEnded{WatchId: id, Code: string(code),
		Message: "ended by the test", Fields: map[string]string{dberr.FieldLeader: leader}}}})
}

func (d *dialogue) progress(position uint64) {
	d.t.Helper()
	d.send(&storagev1.WatchResponse{Event: &storagev1.WatchResponse_Progress{Progress: &storagev1.Progress{Position: position}}})
}

func (d *dialogue) breakOff() {
	d.t.Helper()
	select {
	case d.cut <- dberr.New(dberr.Unavailable, "cut by the test"):
	case <-time.After(patience):
		d.t.Fatal("no stream to cut")
	}
}

// record is a sink that keeps what it gets.
type record struct {
	called bell

	mu    sync.Mutex
	start []uint64
	seqs  []uint64
	ends  []dberr.Code
	calls int // running now
	fault string
}

func (r *record) enter() func() {
	r.mu.Lock()
	if r.calls++; r.calls > 1 {
		r.fault = "two calls at the same time"
	}
	r.mu.Unlock()
	return func() {
		r.mu.Lock()
		r.calls--
		r.mu.Unlock()
		r.called.ring()
	}
}

func (r *record) Started(p uint64) {
	defer r.enter()()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.start = append(r.start, p)
}

func (r *record) Changes(changes []*storagev1.Change) {
	defer r.enter()()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ch := range changes {
		r.seqs = append(r.seqs, ch.GetSeq())
	}
}

func (r *record) Ended(code dberr.Code, _ string) {
	defer r.enter()()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ends = append(r.ends, code)
}

func (r *record) has(seqs ...uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Equal(r.seqs, seqs)
}

func (r *record) want(t *testing.T, seqs ...uint64) {
	t.Helper()
	r.called.until(t, func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.seqs) >= len(seqs) })
	if !r.has(seqs...) || r.fault != "" || len(r.ends) > 0 || len(r.start) > 1 {
		t.Fatalf("got %v instead of %v; starts %v, ends %v %s", r.seqs, seqs, r.start, r.ends, r.fault)
	}
}

// bell wakes a test when what it waits for may have come.
type bell struct {
	mu   sync.Mutex
	rung chan struct{} // nil while nobody listens
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung != nil {
		close(b.rung)
		b.rung = nil
	}
}

func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung == nil {
		b.rung = make(chan struct{})
	}
	return b.rung
}

// until waits for a condition, which it looks at whenever the bell rings.
func (b *bell) until(t *testing.T, ok func() bool) {
	t.Helper()
	for late := time.After(patience); ; {
		rung := b.next()
		if ok() {
			return
		}
		select {
		case <-rung:
		case <-late:
			t.Fatal("it never came to that")
		}
	}
}

var partition = Partition{Shard: 0, Table: 7, User: "ann"}
