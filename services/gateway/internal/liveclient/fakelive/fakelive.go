// Package fakelive is a live role for tests: it shows what clients ask and says what the test tells it
// to. It serves the real service over a real network, one stream at a time.
package fakelive

import (
	"context"
	"testing"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// requestsMax is more than any test sends without looking.
const requestsMax = 100_000

// Role is the fake.
type Role struct {
	livev1.UnimplementedLiveServiceServer
	// Requests are what clients sent, over all streams.
	Requests chan *livev1.ConnectRequest
	events   chan *livev1.ConnectResponse
	cut      chan error
	server   *rpcnet.Server
}

// Serve starts a fake as "live" on the network, until the test ends.
func Serve(t testing.TB, network rpcnet.Network) *Role {
	t.Helper()
	return ServeAt(t, network, "live")
}

// ServeAt starts a fake at an address, until the test ends or Stop is called.
func ServeAt(t testing.TB, network rpcnet.Network, addr string) *Role {
	t.Helper()
	srv, err := rpcnet.NewServer(network, addr, rpcnet.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := &Role{Requests: make(chan *livev1.ConnectRequest, requestsMax),
		events: make(chan *livev1.ConnectResponse), cut: make(chan error), server: srv}
	livev1.RegisterLiveServiceServer(srv.Registrar(), r)
	srv.Serve()
	t.Cleanup(r.Stop)
	return r
}

// Stop cuts the streams and serves no longer.
func (r *Role) Stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nothing is waited for
	r.server.Stop(ctx)
}

// Connect implements the service.
func (r *Role) Connect(s grpc.BidiStreamingServer[livev1.ConnectRequest, livev1.ConnectResponse]) error {
	left := make(chan struct{})
	go func() {
		defer close(left)
		for {
			m, err := s.Recv()
			if err != nil {
				return
			}
			select {
			case r.Requests <- m:
			case <-s.Context().Done():
				return
			}
		}
	}()
	for {
		select {
		case ev := <-r.events:
			if err := s.Send(ev); err != nil {
				return err
			}
		case err := <-r.cut:
			return err
		case <-left:
			return nil
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// Next waits for the next request.
func (r *Role) Next(t testing.TB) *livev1.ConnectRequest {
	t.Helper()
	select {
	case m := <-r.Requests:
		return m
	case <-t.Context().Done():
		t.Fatal("no request came")
		return nil
	}
}

// Subscribe waits for the next request, which must be a Subscribe.
func (r *Role) Subscribe(t testing.TB) *livev1.Subscribe {
	t.Helper()
	m := r.Next(t)
	if m.GetSubscribe() == nil {
		t.Fatalf("got %v, want a Subscribe", m)
	}
	return m.GetSubscribe()
}

// Break ends the stream with an error.
func (r *Role) Break(t testing.TB) {
	t.Helper()
	select {
	case r.cut <- dberr.New(dberr.Unavailable, "cut by the test"):
	case <-t.Context().Done():
		t.Fatal("no stream to cut")
	}
}

func (r *Role) send(t testing.TB, ev *livev1.ConnectResponse) {
	t.Helper()
	select {
	case r.events <- ev:
	case <-t.Context().Done():
		t.Fatal("no stream to send on")
	}
}

// Subscribed sends one event.
func (r *Role) Subscribed(t testing.TB, m *livev1.Subscribed) {
	t.Helper()
	r.send(t, &livev1.ConnectResponse{Event: &livev1.ConnectResponse_Subscribed{Subscribed: m}})
}

// InitialRows sends one event.
func (r *Role) InitialRows(t testing.TB, m *livev1.InitialRows) {
	t.Helper()
	r.send(t, &livev1.ConnectResponse{Event: &livev1.ConnectResponse_InitialRows{InitialRows: m}})
}

// Changed sends one event.
func (r *Role) Changed(t testing.TB, m *livev1.Changed) {
	t.Helper()
	r.send(t, &livev1.ConnectResponse{Event: &livev1.ConnectResponse_Changed{Changed: m}})
}

// Progress sends one event.
func (r *Role) Progress(t testing.TB, m *livev1.Progress) {
	t.Helper()
	r.send(t, &livev1.ConnectResponse{Event: &livev1.ConnectResponse_Progress{Progress: m}})
}

// Ended sends one event.
func (r *Role) Ended(t testing.TB, m *livev1.Ended) {
	t.Helper()
	r.send(t, &livev1.ConnectResponse{Event: &livev1.ConnectResponse_Ended{Ended: m}})
}

// Alive sends a sign of life.
func (r *Role) Alive(t testing.TB) {
	t.Helper()
	r.send(t, &livev1.ConnectResponse{Event: &livev1.ConnectResponse_Alive{Alive: &livev1.Alive{}}})
}
