package catalogview

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/silence"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// fakeStorage says on its watches what the test tells it to.
type fakeStorage struct {
	catalogv1.UnimplementedCatalogServiceServer
	watches chan *catalogv1.WatchRequest
	events  chan *catalogv1.WatchResponse
	asked   chan struct{} // of the newest version
	newest  chan uint64
}

func (f *fakeStorage) Watch(req *catalogv1.WatchRequest, stream grpc.ServerStreamingServer[catalogv1.WatchResponse]) error {
	f.watches <- req
	for {
		select {
		case m := <-f.events:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (f *fakeStorage) snapshot(version uint64) {
	f.events <- &catalogv1.WatchResponse{Version: version, Event: &catalogv1.WatchResponse_Snapshot{
		Snapshot: &catalogv1.Snapshot{ClusterId: "c", Shards: 1}}}
}

func (f *fakeStorage) user(version uint64, id string) {
	f.events <- &catalogv1.WatchResponse{Version: version, Event: &catalogv1.WatchResponse_UserChanged{UserChanged: id}}
}

func (f *fakeStorage) alive() {
	f.events <- &catalogv1.WatchResponse{Event: &catalogv1.WatchResponse_Alive{Alive: &catalogv1.Alive{}}}
}

// inTurn opens each stream to the next node, as the router does.
type inTurn struct {
	grpc.ClientConnInterface
	conns []*rpcnet.Conn
	turn  atomic.Uint64
}

func (c *inTurn) NewStream(ctx context.Context, d *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.conns[(c.turn.Add(1)-1)%uint64(len(c.conns))].NewStream(ctx, d, method, opts...)
}

// setUp starts a view over two nodes; the first has sent its snapshot, version 10. The test drives the clock.
func setUp(t *testing.T) (v *View, a, b *fakeStorage, events chan Event, tick func(n int)) {
	t.Helper()
	network, conn := rpcnet.NewLocal(), &inTurn{}
	serve := func(addr string) *fakeStorage {
		f := &fakeStorage{watches: make(chan *catalogv1.WatchRequest, 100), events: make(chan *catalogv1.WatchResponse),
			asked: make(chan struct{}, 100), newest: make(chan uint64)}
		s, err := rpcnet.NewServer(network, addr, rpcnet.ServerOptions{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		catalogv1.RegisterCatalogServiceServer(s.Registrar(), f)
		s.Serve()
		t.Cleanup(func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel() // nothing is waited for
			s.Stop(ctx)
		})
		c, err := rpcnet.Dial(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.conns = append(conn.conns, c)
		return f
	}
	a, b = serve("a"), serve("b")
	v, events = New(conn, slog.New(slog.DiscardHandler)), make(chan Event, 100)
	ticks := make(chan time.Time)
	v.ticker = func() (<-chan time.Time, func()) { return ticks, func() {} }
	v.OnChange(func(e Event) { events <- e })
	go a.snapshot(10)
	if err := v.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Stop)
	if !(<-events).Reset || !(<-a.watches).GetAlive() {
		t.Fatal("not a snapshot first, or signs of life were not asked for")
	}
	return v, a, b, events, func(n int) {
		for range n {
			ticks <- time.Time{}
		}
	}
}

func TestASilentStorageNodeIsLeft(t *testing.T) {
	v, a, b, events, tick := setUp(t)
	a.alive()
	a.user(11, "u1")
	if e := <-events; e.UserChanged != "u1" {
		t.Fatalf("got %+v", e)
	}
	tick(silence.Ticks) // it says nothing, and closes nothing
	<-b.watches
	b.snapshot(12)
	b.user(13, "u2")
	if e := <-events; !e.Reset {
		t.Fatalf("got %+v, want the catalog as it is elsewhere", e)
	}
	if e := <-events; e.UserChanged != "u2" {
		t.Fatalf("got %+v", e)
	}
	if err := v.WaitVersion(t.Context(), 13); err != nil || v.State().Version != 13 {
		t.Errorf("version %d, %v", v.State().Version, err)
	}
}

func TestWhoSpeaksIsNotLeft(t *testing.T) {
	v, a, b, events, tick := setUp(t)
	tick(3 * silence.Ticks) // an older node, which gives no signs of life
	a.alive()
	for version := uint64(11); version < 20; version++ {
		a.alive()
		a.user(version, "u")
		if e := <-events; e.UserChanged != "u" {
			t.Fatalf("got %+v", e)
		}
		tick(silence.Ticks - 2) // the last of a round may count in the next one
	}
	if err := v.WaitVersion(t.Context(), 19); err != nil || v.State().Version != 19 || len(b.watches) != 0 {
		t.Errorf("version %d, %v; the other node was asked %d times", v.State().Version, err, len(b.watches))
	}
}
