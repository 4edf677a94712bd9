package gatewaytest

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/flight"
	pb "github.com/apache/arrow-go/v18/arrow/flight/gen/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
)

// Query is a query role whose answers a test scripts. A function left nil answers Unsupported.
type Query struct {
	queryv1.UnimplementedQueryServiceServer
	flight.BaseFlightServer
	OnExecute   func(*queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error)
	OnDescribe  func(*queryv1.StatementTicket) (*queryv1.DescribeResponse, error)
	OnGet       func(*queryv1.StatementTicket, flight.FlightService_DoGetServer) error
	OnWrite     func(*queryv1.WriteStreamRequest) *queryv1.WriteStreamResponse
	OnSubscribe func(*queryv1.PlanSubscriptionRequest) (*queryv1.PlanSubscriptionResponse, error)
}

// Serve serves the role at "query" until the test ends. Set the functions before the first call.
func (q *Query) Serve(t testing.TB, net rpcnet.Network) {
	srv, err := rpcnet.NewServer(net, "query", rpcnet.ServerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	queryv1.RegisterQueryServiceServer(srv.Registrar(), q)
	pb.RegisterFlightServiceServer(srv.Registrar(), q)
	srv.Serve()
	t.Cleanup(func() { stop(srv) })
}

var errUnscripted = dberr.New(dberr.Unsupported, "the test did not script this call")

// Execute implements the contract.
func (q *Query) Execute(_ context.Context, req *queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
	if q.OnExecute == nil {
		return nil, errUnscripted
	}
	return q.OnExecute(req)
}

// Describe implements the contract.
func (q *Query) Describe(_ context.Context, req *queryv1.DescribeRequest) (*queryv1.DescribeResponse, error) {
	if q.OnDescribe == nil {
		return nil, errUnscripted
	}
	return q.OnDescribe(req.GetStatement())
}

// PlanSubscription implements the contract.
func (q *Query) PlanSubscription(_ context.Context, req *queryv1.PlanSubscriptionRequest) (*queryv1.PlanSubscriptionResponse, error) {
	if q.OnSubscribe == nil {
		return nil, errUnscripted
	}
	return q.OnSubscribe(req)
}

// WriteStream answers each batch in order; a nil answer ends it as when the node is gone.
func (q *Query) WriteStream(stream queryv1.QueryService_WriteStreamServer) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if q.OnWrite == nil {
			return errUnscripted
		}
		answer := q.OnWrite(req)
		if answer == nil {
			return dberr.New(dberr.Unavailable, "the query node is gone")
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

// DoGet implements the Flight side of the contract.
func (q *Query) DoGet(ticket *flight.Ticket, stream flight.FlightService_DoGetServer) error {
	t := &queryv1.StatementTicket{}
	if err := proto.Unmarshal(ticket.GetTicket(), t); err != nil {
		return dberr.New(dberr.InvalidArgument, "the ticket is malformed: %w", err)
	}
	if q.OnGet == nil {
		return errUnscripted
	}
	return q.OnGet(t, stream)
}

// Batch makes a record batch; the caller releases it.
func Batch(t testing.TB, columns []catalog.Column, rows ...[]datum.Datum) arrow.RecordBatch {
	schema, err := rowbatch.SchemaOf(columns)
	if err != nil {
		t.Fatal(err)
	}
	b := rowbatch.NewBuilder(memory.DefaultAllocator, schema, columns)
	defer b.Release()
	for _, row := range rows {
		for i, d := range row {
			if err := b.Append(i, d); err != nil {
				t.Fatal(err)
			}
		}
		b.EndRow()
	}
	return b.NewBatch()
}

const ipcBytesMax = 1 << 30

// IPC makes an Arrow IPC stream of one batch.
func IPC(t testing.TB, columns []catalog.Column, rows ...[]datum.Datum) []byte {
	rec := Batch(t, columns, rows...)
	defer rec.Release()
	stream, err := rowbatch.Encode(memory.DefaultAllocator, rec.Schema(), []arrow.RecordBatch{rec}, ipcBytesMax)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// SendBatches streams batches as a query role does.
func SendBatches(stream flight.FlightService_DoGetServer, batches ...arrow.RecordBatch) error {
	w := rowbatch.NewFlightWriter(stream, memory.DefaultAllocator)
	if err := w.Start(rowbatch.SchemaHeader(batches[0].Schema(), memory.DefaultAllocator), nil); err != nil {
		return err
	}
	for _, rec := range batches {
		if err := w.Write(rec); err != nil {
			return err
		}
	}
	return nil
}
