// Package flightsql serves Arrow Flight SQL: queries, updates and bulk ingestion. Batches pass through
// as the bytes the query role made.
package flightsql

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow/flight"
	pb "github.com/apache/arrow-go/v18/arrow/flight/gen/flight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/auth"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/grpcapi"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/limit"
)

// HandshakeMethod authenticates by itself; every other method comes with a session.
const HandshakeMethod = "/arrow.flight.protocol.FlightService/Handshake"

// Config holds what the service stands on.
type Config struct {
	Auth    *auth.Service
	Query   grpc.ClientConnInterface
	Guard   *limit.Guard
	PerUser *limit.Rate
	// Secret seals tickets; every gateway of a cluster has the same.
	Secret []byte
	Logger *slog.Logger
	Now    func() time.Time
}

// Server implements the Flight service.
type Server struct {
	flight.BaseFlightServer
	cfg     Config
	query   queryv1.QueryServiceClient
	flights flight.FlightServiceClient
	tickets sealer

	// receivers are goroutines that read from clients; each ends when its call does.
	receivers sync.WaitGroup
}

// Wait returns when no goroutine of a call is left; call it after the calls have ended.
func (s *Server) Wait() { s.receivers.Wait() }

// New makes the server.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg: cfg, query: queryv1.NewQueryServiceClient(cfg.Query), flights: flight.NewFlightServiceClient(cfg.Query),
		tickets: newSealer(cfg.Secret, cfg.Now)}
}

// Handshake trades Basic credentials in the metadata for a Bearer token in the answer's metadata.
func (s *Server) Handshake(stream flight.FlightService_HandshakeServer) error {
	ctx := stream.Context()
	c, err := grpcapi.CredentialOf(ctx)
	if err != nil {
		return err
	}
	token := c.Token
	if token == "" {
		client := edge.Client(ctx)
		if err := s.cfg.Guard.Login(client); err != nil {
			return err
		}
		login, err := s.cfg.Auth.Login(ctx, c.User, c.Password, client)
		if err != nil {
			return err
		}
		token = login.AccessToken
	} else if _, err := s.cfg.Auth.Bearer(ctx, token, edge.Client(ctx)); err != nil {
		return err
	}
	return stream.SendHeader(metadata.Pairs("authorization", "Bearer "+token))
}

// command reads the command of a descriptor.
func command(d *flight.FlightDescriptor) (proto.Message, error) {
	if d.GetType() != flight.DescriptorCMD {
		return nil, dberr.New(dberr.Unsupported, "only Flight SQL commands are supported, not paths")
	}
	packed := &anypb.Any{}
	if err := proto.Unmarshal(d.GetCmd(), packed); err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "the command is malformed: %w", err)
	}
	m, err := packed.UnmarshalNew()
	if err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "the command is malformed or unknown: %w", err)
	}
	return m, nil
}

// planned is a statement of the caller's, with its schema.
func (s *Server) plan(ctx context.Context, d *flight.FlightDescriptor) (*queryv1.StatementTicket, []byte, error) {
	sess, err := auth.FromContext(ctx)
	if err != nil {
		return nil, nil, err
	}
	m, err := command(d)
	if err != nil {
		return nil, nil, err
	}
	q, ok := m.(*pb.CommandStatementQuery)
	if !ok {
		return nil, nil, unsupported(m)
	}
	if len(q.GetTransactionId()) > 0 {
		return nil, nil, errTransaction
	}
	if err := s.cfg.PerUser.Take(sess.Identity.UserID); err != nil {
		return nil, nil, err
	}
	t := &queryv1.StatementTicket{Identity: catalog.IdentityToProto(sess.Identity), Sql: q.GetQuery()}
	resp, err := s.query.Describe(ctx, &queryv1.DescribeRequest{Statement: t})
	if err != nil {
		return nil, nil, err
	}
	return t, bytes.TrimSuffix(resp.GetSchemaIpc(), endOfStream), nil
}

// endOfStream is not part of a schema message.
var endOfStream = []byte{0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0}

var errTransaction = dberr.New(dberr.Unsupported, "transactions over Flight SQL are not supported by this version")

func unsupported(m proto.Message) error {
	return dberr.New(dberr.Unsupported, "the Flight SQL command %s is not supported by this version", m.ProtoReflect().Descriptor().Name())
}

// GetFlightInfo plans a statement; its ticket fetches the rows.
func (s *Server) GetFlightInfo(ctx context.Context, d *flight.FlightDescriptor) (*flight.FlightInfo, error) {
	t, schema, err := s.plan(ctx, d)
	if err != nil {
		return nil, err
	}
	handle, err := s.tickets.seal(t)
	if err != nil {
		return nil, err
	}
	packed, err := anypb.New(&pb.TicketStatementQuery{StatementHandle: handle})
	if err != nil {
		return nil, dberr.New(dberr.Internal, "encode a ticket: %w", err)
	}
	ticket, err := proto.Marshal(packed)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "encode a ticket: %w", err)
	}
	const unknown = -1
	return &flight.FlightInfo{Schema: schema, FlightDescriptor: d, TotalRecords: unknown, TotalBytes: unknown,
		Endpoint: []*flight.FlightEndpoint{{Ticket: &flight.Ticket{Ticket: ticket}}}}, nil
}

// GetSchema returns a statement's schema.
func (s *Server) GetSchema(ctx context.Context, d *flight.FlightDescriptor) (*flight.SchemaResult, error) {
	_, schema, err := s.plan(ctx, d)
	if err != nil {
		return nil, err
	}
	return &flight.SchemaResult{Schema: schema}, nil
}

// DoGet streams a planned statement's rows.
func (s *Server) DoGet(ticket *flight.Ticket, stream flight.FlightService_DoGetServer) error {
	sess, err := auth.FromContext(stream.Context())
	if err != nil {
		return err
	}
	handle, err := handleOf(ticket)
	if err != nil {
		return err
	}
	t, err := s.tickets.open(handle, sess.Identity.UserID)
	if err != nil {
		return err
	}
	if err := s.cfg.PerUser.Take(sess.Identity.UserID); err != nil {
		return err
	}
	t.Identity = catalog.IdentityToProto(sess.Identity) // the role of now, not of when it was planned
	ctx, stop := s.cfg.Auth.Bind(stream.Context(), sess)
	defer stop()
	rows, err := grpcapi.OpenQuery(ctx, s.flights, t)
	if err != nil {
		return err
	}
	for {
		data, err := rows.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		}
		if err := stream.Send(data); err != nil {
			return err
		}
	}
}

func handleOf(ticket *flight.Ticket) ([]byte, error) {
	packed := &anypb.Any{}
	t := &pb.TicketStatementQuery{}
	if proto.Unmarshal(ticket.GetTicket(), packed) != nil || packed.UnmarshalTo(t) != nil {
		return nil, errTicket
	}
	return t.GetStatementHandle(), nil
}

// DoAction and ListActions refuse: prepared statements, transactions and sessions come later.
func (s *Server) DoAction(a *flight.Action, _ flight.FlightService_DoActionServer) error {
	return dberr.New(dberr.Unsupported, "the Flight SQL action %q is not supported by this version", a.GetType())
}

// ListActions answers that there are none.
func (s *Server) ListActions(*flight.Empty, flight.FlightService_ListActionsServer) error { return nil }
