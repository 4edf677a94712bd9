package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/flight/flightsql"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/gatewaytest"
)

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

// flightClient is Arrow's own client.
func (b *bench) flightClient() *flightsql.Client {
	c, err := flightsql.NewClient(b.gateway.GRPCAddr().String(), nil, nil, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c
}

// login does the handshake and returns a context with the token.
func (b *bench) login(c *flightsql.Client, user string) context.Context {
	b.t.Helper()
	ctx, err := c.Client.AuthenticateBasicToken(b.t.Context(), user, user+" secret")
	if err != nil {
		b.t.Fatal(err)
	}
	return ctx
}

func (b *bench) scriptSelect(batches ...arrow.RecordBatch) {
	b.query.OnDescribe = func(s *queryv1.StatementTicket) (*queryv1.DescribeResponse, error) {
		if s.GetSql() == "bad" {
			return nil, dberr.New(dberr.InvalidSQL, "syntax error")
		}
		stream, err := rowbatch.Encode(memory.DefaultAllocator, batches[0].Schema(), nil, 1<<20)
		return &queryv1.DescribeResponse{SchemaIpc: stream}, err
	}
	b.query.OnGet = func(s *queryv1.StatementTicket, stream flight.FlightService_DoGetServer) error {
		return gatewaytest.SendBatches(stream, batches...)
	}
}

func TestFlightSQLQuery(t *testing.T) {
	b := newBench(t)
	rec := gatewaytest.Batch(t, columns, row(1, "a"), row(2, "b"))
	defer rec.Release()
	b.scriptSelect(rec, rec)
	c := b.flightClient()
	ctx := b.login(c, "alice")
	info, err := c.Execute(ctx, "SELECT")
	if err != nil {
		t.Fatal(err)
	}
	schema, err := flight.DeserializeSchema(info.GetSchema(), memory.DefaultAllocator)
	if err != nil || !schema.Equal(rec.Schema()) {
		t.Fatalf("schema %v, %v", schema, err)
	}
	r, err := c.DoGet(ctx, info.GetEndpoint()[0].GetTicket())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	n := 0
	for r.Next() {
		if !array.RecordEqual(r.RecordBatch(), rec) {
			t.Error("a batch differs")
		}
		n++
	}
	if n != 2 || r.Err() != nil {
		t.Errorf("%d batches, %v", n, r.Err())
	}
	if s, err := c.GetExecuteSchema(ctx, "SELECT"); err != nil || len(s.GetSchema()) == 0 {
		t.Errorf("schema: %v", err)
	}
	_, err = c.Execute(ctx, "bad")
	wantCode(t, "bad SQL", err, dberr.InvalidSQL)
	_, err = c.Execute(t.Context(), "SELECT")
	wantCode(t, "without a credential", err, dberr.Unauthenticated)
}

// TestFlightTickets: another user's, changed, old and invented tickets give nothing.
func TestFlightTickets(t *testing.T) {
	b := newBench(t)
	rec := gatewaytest.Batch(t, columns, row(1, "bob's"))
	defer rec.Release()
	b.scriptSelect(rec)
	c := b.flightClient()
	bob, alice := b.login(c, "bob"), b.login(c, "alice")
	info, err := c.Execute(bob, "SELECT")
	if err != nil {
		t.Fatal(err)
	}
	ticket := info.GetEndpoint()[0].GetTicket().GetTicket()
	try := func(what string, ctx context.Context, raw []byte, want dberr.Code) {
		t.Helper()
		stream, err := c.Client.DoGet(ctx, &flight.Ticket{Ticket: raw})
		if err == nil {
			_, err = stream.Recv()
		}
		wantCode(t, what, err, want)
	}
	try("bob's by bob", bob, ticket, "")
	try("bob's by alice", alice, ticket, dberr.PermissionDenied)
	try("empty", bob, nil, dberr.PermissionDenied)
	// The first bytes are the host of a protobuf type URL, which protobuf itself ignores.
	typeName := bytes.Index(ticket, []byte("arrow.flight"))
	for i := typeName; i < len(ticket); i++ {
		changed := append([]byte(nil), ticket...)
		changed[i] ^= 1
		stream, err := c.Client.DoGet(bob, &flight.Ticket{Ticket: changed})
		if err == nil {
			_, err = stream.Recv()
		}
		if !dberr.Is(dberr.FromStatus(err), dberr.PermissionDenied) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
}

func TestFlightSQLUpdateAndIngest(t *testing.T) {
	b := newBench(t)
	b.query.OnExecute = func(r *queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
		if r.GetSql() == "bad" {
			return &queryv1.ExecuteResponse{Error: &storagev1.Error{Code: string(dberr.TableNotFound), Message: "no"}}, nil
		}
		return &queryv1.ExecuteResponse{Results: []*queryv1.StatementResult{{RowCount: 3}}}, nil
	}
	batches := 0
	b.query.OnWrite = func(r *queryv1.WriteStreamRequest) *queryv1.WriteStreamResponse {
		_, recs, err := rowbatch.Decode(memory.DefaultAllocator, r.GetArrowIpc(), 1<<20)
		if err != nil || len(recs) != 1 || r.GetTable() != "t" || r.GetNamespace() != "app" || (r.GetIdentity() != nil) != (batches == 0) {
			t.Errorf("batch %d: %v, %v", batches, r, err)
			return &queryv1.WriteStreamResponse{}
		}
		defer recs[0].Release()
		if batches++; recs[0].NumRows() == 1 {
			return &queryv1.WriteStreamResponse{Error: &storagev1.Error{Code: string(dberr.PrimaryKeyViolation), Message: "taken"}}
		}
		return &queryv1.WriteStreamResponse{Rows: uint64(recs[0].NumRows())}
	}
	c := b.flightClient()
	ctx := b.login(c, "alice")
	if n, err := c.ExecuteUpdate(ctx, "UPDATE"); n != 3 || err != nil {
		t.Errorf("update: %d, %v", n, err)
	}
	_, err := c.ExecuteUpdate(ctx, "bad")
	wantCode(t, "a failed update", err, dberr.TableNotFound)

	two := gatewaytest.Batch(t, columns, row(1, "a"), row(2, "b"))
	defer two.Release()
	one := gatewaytest.Batch(t, columns, row(1, "a"))
	defer one.Release()
	ingest := func(opts *flightsql.ExecuteIngestOpts, recs ...arrow.RecordBatch) (int64, error) {
		r, err := array.NewRecordReader(two.Schema(), recs)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Release()
		return c.ExecuteIngest(ctx, r, opts)
	}
	opts := func(exists flightsql.TableDefinitionOptionsTableExistsOption) *flightsql.ExecuteIngestOpts {
		schema := "app"
		return &flightsql.ExecuteIngestOpts{Table: "t", Schema: &schema, TableDefinitionOptions: &flightsql.TableDefinitionOptions{
			IfNotExist: flightsql.TableDefinitionOptionsTableNotExistOptionFail, IfExists: exists}}
	}
	if n, err := ingest(opts(flightsql.TableDefinitionOptionsTableExistsOptionAppend), two, two, two); n != 6 || err != nil || batches != 3 {
		t.Errorf("ingest: %d rows, %d batches, %v", n, batches, err)
	}
	batches = 0
	_, err = ingest(opts(flightsql.TableDefinitionOptionsTableExistsOptionAppend), two, one)
	wantCode(t, "a refused batch", err, dberr.PrimaryKeyViolation)
	_, err = ingest(opts(flightsql.TableDefinitionOptionsTableExistsOptionReplace), two)
	wantCode(t, "replace", err, dberr.Unsupported)
}

func TestFlightSQLUnsupported(t *testing.T) {
	b := newBench(t)
	c := b.flightClient()
	ctx := b.login(c, "alice")
	_, err := c.Prepare(ctx, "SELECT")
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("prepare: %v", err)
	}
	_, err = c.GetTableTypes(ctx)
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("table types: %v", err)
	}
	_, err = c.Client.GetFlightInfo(ctx, &flight.FlightDescriptor{Type: flight.DescriptorPATH, Path: []string{"t"}})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a path: %v", err)
	}
	_, err = c.Client.GetFlightInfo(ctx, &flight.FlightDescriptor{Type: flight.DescriptorCMD, Cmd: []byte("\xff\xff")})
	wantCode(t, "a malformed command", err, dberr.InvalidArgument)
	if _, err := c.Client.AuthenticateBasicToken(t.Context(), "alice", "wrong"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a wrong password: %v", err)
	}
	bad := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer abc")
	_, err = c.Execute(bad, "SELECT")
	wantCode(t, "a wrong token", err, dberr.Unauthenticated)
}
