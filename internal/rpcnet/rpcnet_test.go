package rpcnet

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// liveFake answers what the tests need of a real generated service.
type liveFake struct {
	livev1.UnimplementedLiveServiceServer
	entered chan struct{}
}

func (f *liveFake) List(ctx context.Context, _ *livev1.ListRequest) (*livev1.ListResponse, error) {
	close(f.entered)
	<-ctx.Done()
	return nil, ctx.Err()
}

func (f *liveFake) Kill(_ context.Context, r *livev1.KillRequest) (*livev1.KillResponse, error) {
	if r.GetLiveId() == "panic" {
		panic("on purpose")
	}
	return nil, dberr.New(dberr.Lagged, "too slow").With(dberr.FieldPosition, "7")
}

func (f *liveFake) Connect(s grpc.BidiStreamingServer[livev1.ConnectRequest, livev1.ConnectResponse]) error {
	for {
		m, err := s.Recv()
		if err == io.EOF {
			return dberr.New(dberr.Unavailable, "done")
		}
		if err != nil {
			return err
		}
		if err := s.Send(&livev1.ConnectResponse{Event: &livev1.ConnectResponse_Progress{
			Progress: &livev1.Progress{Position: m.GetNextBatch()}}}); err != nil {
			return err
		}
	}
}

// loopback is TCP on a port the kernel chooses.
type loopback struct {
	TCP
	addr string
}

func (l *loopback) Listen(string) (net.Listener, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		l.addr = ln.Addr().String()
	}
	return ln, err
}

func (l *loopback) DialContext(ctx context.Context, _ string) (net.Conn, error) {
	return l.TCP.DialContext(ctx, l.addr)
}

// overEach runs a test over every network: roles must not be able to tell.
func overEach(t *testing.T, test func(t *testing.T, s *Server, fake *liveFake, c livev1.LiveServiceClient)) {
	for name, n := range map[string]Network{"tcp": &loopback{}, "local": NewLocal(), "faults": NewFaults(NewLocal()).As("n1")} {
		t.Run(name, func(t *testing.T) {
			s, err := NewServer(n, "live", ServerOptions{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			fake := &liveFake{entered: make(chan struct{})}
			livev1.RegisterLiveServiceServer(s.Registrar(), fake)
			s.Serve()
			conn, err := Dial(n, "live")
			if err != nil {
				t.Fatal(err)
			}
			test(t, s, fake, livev1.NewLiveServiceClient(conn))
			_ = conn.Close()
			s.Stop(context.Background())
		})
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	overEach(t, func(t *testing.T, _ *Server, _ *liveFake, c livev1.LiveServiceClient) {
		_, err := c.Kill(context.Background(), &livev1.KillRequest{})
		if !dberr.Is(err, dberr.Lagged) || dberr.FieldOf(err, dberr.FieldPosition) != "7" {
			t.Fatalf("got %v", err)
		}
	})
}

func TestAPanicIsAnErrorAndTheServerLives(t *testing.T) {
	overEach(t, func(t *testing.T, _ *Server, _ *liveFake, c livev1.LiveServiceClient) {
		if _, err := c.Kill(context.Background(), &livev1.KillRequest{LiveId: "panic"}); !dberr.Is(err, dberr.Internal) {
			t.Fatalf("got %v", err)
		}
		if _, err := c.Kill(context.Background(), &livev1.KillRequest{}); !dberr.Is(err, dberr.Lagged) {
			t.Fatalf("after the panic: %v", err)
		}
	})
}

func TestStreams(t *testing.T) {
	overEach(t, func(t *testing.T, _ *Server, _ *liveFake, c livev1.LiveServiceClient) {
		s, err := c.Connect(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for i := uint64(1); i <= 100; i++ {
			if err := s.Send(&livev1.ConnectRequest{Request: &livev1.ConnectRequest_NextBatch{NextBatch: i}}); err != nil {
				t.Fatal(err)
			}
			m, err := s.Recv()
			if err != nil || m.GetProgress().GetPosition() != i {
				t.Fatalf("got %v, %v", m, err)
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); !dberr.Is(err, dberr.Unavailable) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestStopCutsWhatWillNotFinish(t *testing.T) {
	overEach(t, func(t *testing.T, s *Server, fake *liveFake, c livev1.LiveServiceClient) {
		failed := make(chan error, 1)
		go func() {
			_, err := c.List(context.Background(), &livev1.ListRequest{})
			failed <- err
		}()
		<-fake.entered
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		s.Stop(ctx)
		if err := <-failed; err == nil {
			t.Fatal("the call succeeded")
		}
		if _, err := c.Kill(context.Background(), &livev1.KillRequest{}); !dberr.Is(err, dberr.Unavailable) {
			t.Fatalf("after Stop: %v", err)
		}
	})
}

func TestFaultsCutOneWay(t *testing.T) {
	f := NewFaults(NewLocal())
	l, err := f.As("b").Listen("b-port")
	if err != nil {
		t.Fatal(err)
	}
	go func() { // a pipe's dial waits for its accept
		for {
			if _, err := l.Accept(); err != nil {
				return
			}
		}
	}()
	defer l.Close()
	a := f.As("a")
	conn, err := a.DialContext(context.Background(), "b-port")
	if err != nil {
		t.Fatal(err)
	}
	f.Cut("a", "b")
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("an open connection still writes")
	}
	if _, err := a.DialContext(context.Background(), "b-port"); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("dial through the cut: %v", err)
	}
	if _, err := f.As("c").DialContext(context.Background(), "b-port"); err != nil {
		t.Errorf("another node is cut too: %v", err)
	}
	f.Heal()
	if _, err := a.DialContext(context.Background(), "b-port"); err != nil {
		t.Errorf("after healing: %v", err)
	}
}
