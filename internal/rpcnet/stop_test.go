package rpcnet

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// flood sends until it cannot, whoever reads.
type flood struct {
	livev1.UnimplementedLiveServiceServer
	sent  chan struct{} // one for each message
	ended chan error
}

func (f *flood) Connect(s grpc.BidiStreamingServer[livev1.ConnectRequest, livev1.ConnectResponse]) error {
	for {
		if err := s.Send(&livev1.ConnectResponse{}); err != nil {
			f.ended <- err
			return err
		}
		select {
		case f.sent <- struct{}{}:
		default:
		}
	}
}

// floodedStream is a stream nobody reads, whose server has begun to send.
func floodedStream(ctx context.Context, t *testing.T) (*Server, *flood, livev1.LiveService_ConnectClient) {
	t.Helper()
	n := NewLocal()
	s, err := NewServer(n, "live", ServerOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	f := &flood{sent: make(chan struct{}, 1), ended: make(chan error, 1)}
	livev1.RegisterLiveServiceServer(s.Registrar(), f)
	s.Serve()
	conn, err := Dial(n, "live")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := livev1.NewLiveServiceClient(conn).Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	<-f.sent
	return s, f, stream
}

// A client in the same process that stopped reading, and will not end its context, holds nobody up.
func TestStopCutsAStreamThatNobodyReads(t *testing.T) {
	s, f, stream := floodedStream(t.Context(), t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	s.Stop(ctx) // hangs unless the blocked Send is cut
	if err := <-f.ended; err == nil {
		t.Fatal("the handler ended by itself")
	}
	for {
		if _, err := stream.Recv(); err != nil {
			if !dberr.Is(err, dberr.Unavailable) {
				t.Fatalf("the client sees %v", err)
			}
			return
		}
	}
}

// A caller that ended before the server did is told of its own end.
func TestACallersEndBeforeTheServers(t *testing.T) {
	caller, cancel := context.WithCancel(t.Context())
	s, f, stream := floodedStream(caller, t)
	cancel()
	<-f.ended
	stopNow(s)
	for {
		if _, err := stream.Recv(); err != nil {
			if !dberr.Is(err, dberr.Canceled) {
				t.Fatalf("the client sees %v", err)
			}
			return
		}
	}
}

// The caller's own end stays what it is.
func TestACallersEndIsItsOwn(t *testing.T) {
	overEach(t, func(t *testing.T, _ *Server, _ *liveFake, c livev1.LiveServiceClient) {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := c.Connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := stream.Recv(); err == nil || err == io.EOF || dberr.Is(err, dberr.Unavailable) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestADeadListenerIsLogged(t *testing.T) {
	var out bytes.Buffer
	s, err := NewServer(&loopback{}, "live", ServerOptions{Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	s.Serve()
	if err := s.listener.Close(); err != nil {
		t.Fatal(err)
	}
	s.serving.Wait()
	if !strings.Contains(out.String(), "no more connections are accepted") {
		t.Errorf("log: %q", &out)
	}
	out.Reset()
	s.Stop(t.Context())
	if out.Len() > 0 {
		t.Errorf("a stop is logged as a death: %s", &out)
	}
}
