package live

import (
	"context"
	"errors"
	"io"
	"strconv"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/group"
)

// service is the role's gRPC service.
type service struct {
	livev1.UnimplementedLiveServiceServer
	l *Live
}

type connectStream = grpc.BidiStreamingServer[livev1.ConnectRequest, livev1.ConnectResponse]

// Connect serves one gateway.
func (s *service) Connect(stream connectStream) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	st, err := s.l.hub.Open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	sent, received := make(chan error, 1), make(chan error, 1)
	v := &voice{stream: stream, wanted: make(chan struct{})}
	s.l.calls.Go(func() { sent <- v.send(ctx, st) })
	s.l.calls.Go(func() { received <- s.receive(ctx, stream, st, v) })
	select {
	case err := <-sent:
		return err
	case err := <-received:
		st.Close()
		select {
		case <-sent: // nothing may be sent once the handler has returned
		case <-ctx.Done():
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// receive takes requests until the gateway has no more.
func (s *service) receive(ctx context.Context, stream connectStream, st *group.Stream, v *voice) error {
	planned := &planned{l: s.l, stream: st, waiting: map[uint64]context.CancelFunc{}}
	defer planned.wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if m.GetAlive() {
			v.want()
		}
		switch r := m.GetRequest().(type) {
		case *livev1.ConnectRequest_Subscribe:
			if err := planned.subscribe(ctx, r.Subscribe); err != nil {
				return err
			}
		case *livev1.ConnectRequest_NextBatch:
			st.NextBatch(r.NextBatch)
		case *livev1.ConnectRequest_Unsubscribe:
			if !planned.forget(r.Unsubscribe) {
				st.Unsubscribe(r.Unsubscribe)
			}
		default:
			return dberr.New(dberr.InvalidArgument, "connect: request of an unknown kind")
		}
	}
}

// List returns the subscriptions of this node.
func (s *service) List(context.Context, *livev1.ListRequest) (*livev1.ListResponse, error) {
	return &livev1.ListResponse{Queries: s.l.hub.List()}, nil
}

// Kill ends one subscription.
func (s *service) Kill(_ context.Context, r *livev1.KillRequest) (*livev1.KillResponse, error) {
	if err := s.l.hub.Kill(r.GetLiveId()); err != nil {
		return nil, err
	}
	return &livev1.KillResponse{}, nil
}

// NodeStats returns this role's lines of system.stats.
func (s *service) NodeStats(context.Context, *livev1.NodeStatsRequest) (*livev1.NodeStatsResponse, error) {
	st, c := s.l.hub.Stats(), s.l.hub.Counts()
	return &livev1.NodeStatsResponse{Metrics: map[string]string{
		"active_subscriptions":   strconv.Itoa(st.Subscriptions),
		"total_live_queries":     strconv.Itoa(st.Subscriptions),
		"live_partitions":        strconv.Itoa(st.Partitions),
		"live_groups":            strconv.Itoa(st.Groups),
		"live_gateways":          strconv.Itoa(st.Streams),
		"live_queue_messages":    strconv.Itoa(st.QueueMessages),
		"live_queue_bytes":       strconv.Itoa(st.QueueBytes),
		"live_buffer_bytes":      strconv.Itoa(st.BufferBytes),
		"live_changes_read":      strconv.FormatUint(c.Changes.Load(), 10),
		"live_changes_matched":   strconv.FormatUint(c.Matched.Load(), 10),
		"live_changes_delivered": strconv.FormatUint(c.Delivered.Load(), 10),
		"live_lagged":            strconv.FormatUint(c.Lagged.Load(), 10),
		"live_resumed":           strconv.FormatUint(c.Resumed.Load(), 10),
		"live_reset":             strconv.FormatUint(c.Reset.Load(), 10),
	}}, nil
}
