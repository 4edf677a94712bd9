package query

import (
	"context"

	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/statement"
)

// service is QueryService.
type service struct {
	queryv1.UnimplementedQueryServiceServer
	q *Query
}

// Execute runs one or several statements.
func (s *service) Execute(ctx context.Context, req *queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
	return s.q.executor.Execute(ctx, req)
}

// WriteStream writes batches of rows.
func (s *service) WriteStream(stream grpc.BidiStreamingServer[queryv1.WriteStreamRequest, queryv1.WriteStreamResponse]) error {
	return s.q.streams.Serve(stream)
}

// Describe returns a statement's result schema.
func (s *service) Describe(ctx context.Context, req *queryv1.DescribeRequest) (*queryv1.DescribeResponse, error) {
	schema, err := s.q.executor.Describe(ctx, req.GetStatement())
	if err != nil {
		return nil, err
	}
	encoded, err := rowbatch.Encode(memory.DefaultAllocator, schema, nil, s.q.cfg.ResultBytesMax)
	return &queryv1.DescribeResponse{SchemaIpc: encoded}, err
}

// PlanSubscription binds a subscription's SQL.
func (s *service) PlanSubscription(ctx context.Context, req *queryv1.PlanSubscriptionRequest) (resp *queryv1.PlanSubscriptionResponse, err error) {
	namespace := req.GetNamespace()
	if namespace == "" {
		namespace = statement.DefaultNamespace
	}
	err = s.q.view.CatchUp(ctx, func() error {
		resp, err = s.q.subscriptions.Plan(catalog.IdentityFromProto(req.GetIdentity()), namespace, req.GetSql())
		return err
	})
	return resp, err
}

// flightService streams results without a row limit.
type flightService struct {
	flight.BaseFlightServer
	q *Query
}

// ticketBytesMax bounds a ticket: a text, its parameters and little more.
const ticketBytesMax = 32 << 20

// DoGet runs the statement of a query.v1.StatementTicket.
func (s *flightService) DoGet(ticket *flight.Ticket, stream flight.FlightService_DoGetServer) error {
	if len(ticket.GetTicket()) > ticketBytesMax {
		return dberr.New(dberr.LimitExceeded, "the ticket has %d bytes, at most %d are allowed", len(ticket.GetTicket()), ticketBytesMax)
	}
	var t queryv1.StatementTicket
	if err := proto.Unmarshal(ticket.GetTicket(), &t); err != nil {
		return dberr.New(dberr.InvalidArgument, "the ticket is malformed: %w", err)
	}
	return s.q.executor.Stream(stream.Context(), &t, stream)
}
