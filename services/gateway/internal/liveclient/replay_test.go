package liveclient

import (
	"context"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// changeLog is numbers from 2 on that several nodes deliver.
type changeLog struct {
	mu    sync.Mutex
	grown chan struct{}
	end   uint64
}

func newChangeLog() *changeLog { return &changeLog{grown: make(chan struct{}), end: 1} }

func (l *changeLog) append() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end++
	close(l.grown)
	l.grown = make(chan struct{})
}

func (l *changeLog) last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

func (l *changeLog) now() (uint64, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end, l.grown
}

// replaying is a live node that delivers a log, each subscription from its position, now and then a change
// that was delivered before.
type replaying struct {
	livev1.UnimplementedLiveServiceServer
	log *changeLog

	mu      sync.Mutex
	streams map[*replay]struct{}
}

// replay is one stream.
type replay struct {
	cancel context.CancelFunc
	mu     sync.Mutex
	subs   map[uint64]uint64 // position by subscription
	acks   []*livev1.ConnectResponse
	ends   int // subscriptions to end
	wake   chan struct{}
}

func serveReplay(t *testing.T, network rpcnet.Network, addr string, log *changeLog) *replaying {
	srv, err := rpcnet.NewServer(network, addr, rpcnet.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := &replaying{log: log, streams: map[*replay]struct{}{}}
	livev1.RegisterLiveServiceServer(srv.Registrar(), r)
	srv.Serve()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		srv.Stop(ctx)
	})
	return r
}

func (r *replaying) cutAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.streams {
		s.cancel()
	}
}

func (r *replaying) endSome(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.streams {
		s.mu.Lock()
		s.ends += n
		s.mu.Unlock()
		s.signal()
	}
}

func (s *replay) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (r *replaying) Connect(stream grpc.BidiStreamingServer[livev1.ConnectRequest, livev1.ConnectResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	s := &replay{cancel: cancel, subs: map[uint64]uint64{}, wake: make(chan struct{}, 1)}
	r.mu.Lock()
	r.streams[s] = struct{}{}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.streams, s)
	}()
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			if sub := m.GetSubscribe(); sub != nil {
				s.mu.Lock()
				s.subs[sub.GetSubscription()] = sub.GetFromSeq()
				s.acks = append(s.acks, &livev1.ConnectResponse{Event: &livev1.ConnectResponse_Subscribed{
					Subscribed: &livev1.Subscribed{Subscription: sub.GetSubscription(), Position: sub.GetFromSeq()}}})
				s.mu.Unlock()
				s.signal()
			}
		}
	}()
	for {
		end, grown := r.log.now()
		for _, m := range s.due(end) {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		select {
		case <-grown:
		case <-s.wake:
		case <-ctx.Done():
			return dberr.New(dberr.Unavailable, "cut by the test")
		}
	}
}

// due is what to send now.
func (s *replay) due(end uint64) (out []*livev1.ConnectResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, s.acks = s.acks, nil
	for id, at := range s.subs {
		for seq := max(at, 2); seq <= end; seq++ { // the one at the position again
			out = append(out, &livev1.ConnectResponse{Event: &livev1.ConnectResponse_Changed{
				Changed: &livev1.Changed{Subscriptions: []uint64{id}, Seq: seq}}})
			if at < 2 {
				at = seq
			}
		}
		s.subs[id] = end + 1
		if s.ends > 0 {
			s.ends--
			delete(s.subs, id)
			out = append(out, &livev1.ConnectResponse{Event: &livev1.ConnectResponse_Ended{
				Ended: &livev1.Ended{Subscription: id, Code: string(dberr.Unavailable), Position: end}}})
		}
	}
	return out
}
