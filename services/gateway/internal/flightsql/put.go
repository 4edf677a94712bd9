package flightsql

import (
	"context"
	"errors"
	"io"

	"github.com/apache/arrow-go/v18/arrow/flight"
	pb "github.com/apache/arrow-go/v18/arrow/flight/gen/flight"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/auth"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/grpcapi"
)

// DoPut runs an update, or appends batches to a table.
func (s *Server) DoPut(stream flight.FlightService_DoPutServer) error {
	sess, err := auth.FromContext(stream.Context())
	if err != nil {
		return err
	}
	ctx, stop := s.cfg.Auth.Bind(stream.Context(), sess)
	defer stop()
	first, err := stream.Recv()
	if err != nil {
		return dberr.New(dberr.InvalidArgument, "DoPut needs a first message with a descriptor: %w", err)
	}
	m, err := command(first.GetFlightDescriptor())
	if err != nil {
		return err
	}
	var rows uint64
	switch cmd := m.(type) {
	case *pb.CommandStatementUpdate:
		rows, err = s.update(ctx, sess, cmd)
	case *pb.CommandStatementIngest:
		rows, err = s.ingest(ctx, sess, cmd, first, stream)
	default:
		return unsupported(m)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	result, err := proto.Marshal(&pb.DoPutUpdateResult{RecordCount: int64(rows)})
	if err != nil {
		return dberr.New(dberr.Internal, "encode a result: %w", err)
	}
	return stream.Send(&flight.PutResult{AppMetadata: result})
}

func (s *Server) update(ctx context.Context, sess auth.Session, cmd *pb.CommandStatementUpdate) (rows uint64, err error) {
	if len(cmd.GetTransactionId()) > 0 {
		return 0, errTransaction
	}
	if err := s.cfg.PerUser.Take(sess.Identity.UserID); err != nil {
		return 0, err
	}
	id, err := edge.StatementID(sess.Identity.UserID, "") // Flight SQL has no place for a client's key
	if err != nil {
		return 0, err
	}
	resp, err := s.query.Execute(ctx, &queryv1.ExecuteRequest{Identity: catalog.IdentityToProto(sess.Identity), Sql: cmd.GetQuery(), RequestId: id})
	if err != nil {
		return 0, err
	}
	for _, r := range resp.GetResults() {
		rows += r.GetRowCount()
	}
	return rows, dberr.FromMessage(resp.GetError())
}

// ingestInFlightMax bounds the batches sent on and not yet acknowledged.
const ingestInFlightMax = 64

// ingest appends: each batch is atomic and durable by itself, as a write of kalam.v1 is. When one fails
// those before it stay.
func (s *Server) ingest(ctx context.Context, sess auth.Session, cmd *pb.CommandStatementIngest, first *flight.FlightData,
	stream flight.FlightService_DoPutServer) (uint64, error) {
	if err := checkIngest(cmd); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(context.Canceled)
	up, err := s.query.WriteStream(ctx)
	if err != nil {
		return 0, err
	}
	in := &ingestion{from: stream, up: up, slots: make(chan struct{}, ingestInFlightMax), schema: first.GetDataHeader(),
		next: &queryv1.WriteStreamRequest{Identity: catalog.IdentityToProto(sess.Identity), Namespace: cmd.GetSchema(), Table: cmd.GetTable()}}
	// Recv returns only when this handler does (or the client stops), so the receiver cannot be waited
	// for here; Wait does.
	s.receivers.Add(1)
	go func() {
		defer s.receivers.Done()
		if err := in.forward(ctx); err != nil {
			cancel(err)
		}
	}()
	rows, err := in.acknowledge()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return rows, err
}

func checkIngest(cmd *pb.CommandStatementIngest) error {
	opt := cmd.GetTableDefinitionOptions()
	switch {
	case len(cmd.GetTransactionId()) > 0:
		return errTransaction
	case cmd.GetTemporary():
		return dberr.New(dberr.Unsupported, "temporary tables are not supported")
	case cmd.GetCatalog() != "":
		return dberr.New(dberr.Unsupported, "there are no catalogs; name the namespace as the schema")
	case opt.GetIfNotExist() == pb.CommandStatementIngest_TableDefinitionOptions_TABLE_NOT_EXIST_OPTION_CREATE:
		return dberr.New(dberr.Unsupported, "ingestion does not create tables; use CREATE TABLE")
	case opt.GetIfExists() == pb.CommandStatementIngest_TableDefinitionOptions_TABLE_EXISTS_OPTION_FAIL,
		opt.GetIfExists() == pb.CommandStatementIngest_TableDefinitionOptions_TABLE_EXISTS_OPTION_REPLACE:
		return dberr.New(dberr.Unsupported, "ingestion appends only")
	}
	return nil
}

type ingestion struct {
	from   flight.FlightService_DoPutServer
	up     queryv1.QueryService_WriteStreamClient
	slots  chan struct{} // one element per batch not yet acknowledged
	schema []byte        // the IPC metadata of the schema
	next   *queryv1.WriteStreamRequest
}

// forward makes a stream of its own of every batch: the schema and that batch, byte for byte.
func (in *ingestion) forward(ctx context.Context) error {
	for {
		data, err := in.from.Recv()
		if errors.Is(err, io.EOF) {
			return in.up.CloseSend()
		}
		if err != nil {
			return err
		}
		if len(data.GetDataHeader()) == 0 {
			continue // only metadata
		}
		if len(in.schema) == 0 {
			in.schema = data.GetDataHeader() // the descriptor came alone
			continue
		}
		select {
		case in.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := in.up.Send(in.request(data)); err != nil && !errors.Is(err, io.EOF) {
			return err // io.EOF: acknowledge learns why
		}
	}
}

func (in *ingestion) request(data *flight.FlightData) *queryv1.WriteStreamRequest {
	size := len(in.schema) + len(data.GetDataHeader()) + len(data.GetDataBody())
	stream := grpcapi.AppendMessageHead(make([]byte, 0, size+64), in.schema)
	stream = grpcapi.AppendMessageHead(stream, data.GetDataHeader())
	stream = append(append(stream, data.GetDataBody()...), endOfStream...)
	req := in.next
	in.next = &queryv1.WriteStreamRequest{Namespace: req.Namespace, Table: req.Table} // the identity goes once
	req.Rows = &queryv1.WriteStreamRequest_ArrowIpc{ArrowIpc: stream}
	return req
}

// acknowledge counts until the other side ends. The first batch refused ends it.
func (in *ingestion) acknowledge() (rows uint64, err error) {
	for {
		resp, err := in.up.Recv()
		if errors.Is(err, io.EOF) {
			if len(in.slots) > 0 {
				return rows, dberr.New(dberr.Unavailable, "the ingestion ended before every batch was acknowledged; %d rows are stored", rows)
			}
			return rows, nil
		}
		if err != nil {
			return rows, dberr.New(dberr.CodeOf(err), "the ingestion broke after %d rows were acknowledged: %w", rows, err)
		}
		if err := dberr.FromMessage(resp.GetError()); err != nil {
			return rows, dberr.New(dberr.CodeOf(err), "a batch was refused after %d rows: %w", rows, err)
		}
		rows += resp.GetRows()
		<-in.slots
	}
}
