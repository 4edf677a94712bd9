package sqltest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/query"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

// stream runs a statement over Flight and counts its rows.
func stream(ctx context.Context, c *cluster.Cluster, id catalog.Identity, sql string, params ...*queryv1.Param) (columns string, rows int64, err error) {
	ticket, err := proto.Marshal(&queryv1.StatementTicket{Identity: catalog.IdentityToProto(id), Sql: sql, Params: params, Namespace: "app"})
	if err != nil {
		return "", 0, err
	}
	s, err := flight.NewFlightServiceClient(c.QueryConn()).DoGet(ctx, &flight.Ticket{Ticket: ticket})
	if err != nil {
		return "", 0, dberr.FromStatus(err)
	}
	kept := &lastError{FlightService_DoGetClient: s}
	r, err := flight.NewRecordReader(kept)
	if kept.err != nil {
		return "", 0, kept.err
	}
	if err != nil {
		return "", 0, err
	}
	defer r.Release()
	for i, column := range rowbatch.ColumnsOf(r.Schema()) {
		columns += separator(i) + column.Name + ":" + column.Type.String()
	}
	for r.Next() {
		rows += r.RecordBatch().NumRows()
	}
	return columns, rows, kept.err
}

// lastError keeps what ended a stream: Arrow's reader wraps it beyond recognition.
type lastError struct {
	flight.FlightService_DoGetClient
	err error
}

func (l *lastError) Recv() (*flight.FlightData, error) {
	m, err := l.FlightService_DoGetClient.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		l.err = dberr.FromStatus(err)
	}
	return m, err
}

func TestStream(t *testing.T) {
	c := cluster.Start(t, cluster.Query(func(q *query.Config) { q.RowsMax = 5 }))
	run(t, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.t (id INT PRIMARY KEY, v TEXT)")
	run(t, c, alice, "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10000) AS g(i)")
	for _, tc := range []struct {
		sql     string
		params  []*queryv1.Param
		columns string
		rows    int64
		code    dberr.Code
	}{
		{sql: "SELECT id, v FROM t", columns: "id:INT | v:TEXT", rows: 10000},
		{sql: "SELECT id AS n FROM t WHERE id > $1 LIMIT 7000", params: []*queryv1.Param{integer(1000)}, columns: "n:INT", rows: 7000},
		{sql: "SELECT id + 1 AS n FROM t", columns: "n:INT", rows: 10000},
		{sql: "SELECT id FROM t WHERE id < 0", columns: "id:INT"},
		{sql: "EXECUTE AS USER 'alice' (SELECT id FROM t)", columns: "id:INT", rows: 10000},
		{sql: "SHOW NAMESPACES", columns: "namespace_id:TEXT | name:TEXT | created_at:TIMESTAMP | options:JSON | table_count:INT", rows: 2},
		{sql: "SELECT id FROM nosuch", code: dberr.TableNotFound},
		{sql: "SELECT user_id FROM system.users", code: dberr.PermissionDenied},
		{sql: "SELECT 1; SELECT 2", code: dberr.InvalidArgument},
		{sql: "INSERT INTO t VALUES (0, 'y')", code: dberr.InvalidOperation},
		{sql: "SELEC 1", code: dberr.InvalidSQL},
	} {
		columns, rows, err := stream(t.Context(), c, alice, tc.sql, tc.params...)
		if dberr.CodeOf(err) != tc.code || columns != tc.columns || rows != tc.rows {
			t.Errorf("%s: %q, %d rows, %v; want %q, %d rows, %s", tc.sql, columns, rows, err, tc.columns, tc.rows, tc.code)
		}
	}
	if got := resultText(t, run(t, c, alice, "SELECT count(*) AS n FROM t WHERE id = 0")); got != "n:BIGINT\n0\n" {
		t.Errorf("an INSERT was run by a stream: %q", got)
	}
}

func TestMalformedTicket(t *testing.T) {
	c := cluster.Start(t)
	s, err := flight.NewFlightServiceClient(c.QueryConn()).DoGet(t.Context(), &flight.Ticket{Ticket: []byte("\xff\xff")})
	if err == nil {
		_, err = s.Recv()
	}
	if !dberr.Is(dberr.FromStatus(err), dberr.InvalidArgument) {
		t.Errorf("got %v", err)
	}
	if _, _, err := stream(t.Context(), c, catalog.Identity{}, "SELECT 1"); !dberr.Is(err, dberr.Unauthenticated) {
		t.Errorf("without an identity: %v", err)
	}
}

func TestDescribe(t *testing.T) {
	c := cluster.Start(t)
	run(t, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.t (id INT PRIMARY KEY, v TEXT)")
	for sql, want := range map[string]string{
		"SELECT v, id FROM t": "v:TEXT | id:INT",
		"SELECT id * 2 AS d, count(*) AS n FROM t GROUP BY 1": "d:INT | n:BIGINT",
		"INSERT INTO t VALUES (1, 'x')":                       "",
		"SHOW USERS":                                          "user_id:TEXT | role:TEXT | email:TEXT | created_at:TIMESTAMP",
	} {
		resp, err := c.Query().Describe(t.Context(), &queryv1.DescribeRequest{Statement: &queryv1.StatementTicket{
			Identity: catalog.IdentityToProto(root), Sql: sql, Namespace: "app"}})
		if err != nil {
			t.Errorf("%s: %v", sql, err)
			continue
		}
		schema, _, err := rowbatch.Decode(memory.DefaultAllocator, resp.GetSchemaIpc(), answerBytesMax)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for i, column := range rowbatch.ColumnsOf(schema) {
			got += separator(i) + column.Name + ":" + column.Type.String()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", sql, got, want)
		}
	}
}

// TestRunawayStatements: what never ends is ended, and others are served meanwhile.
func TestRunawayStatements(t *testing.T) {
	c := cluster.Start(t, cluster.Query(func(q *query.Config) { q.StatementTimeout = config.Duration(500e6) }))
	const endless = "SELECT count(*) FROM generate_series(1, 1000000) a(i), generate_series(1, 1000000) b(i), generate_series(1, 1000000) d(i)"
	ended := make(chan error, 1)
	go func() {
		_, err := c.Query().Execute(t.Context(), &queryv1.ExecuteRequest{Identity: catalog.IdentityToProto(alice), Sql: endless})
		ended <- err
	}()
	for i := range 5 {
		if got, want := resultText(t, run(t, c, alice, fmt.Sprintf("SELECT %d AS n", i))), fmt.Sprintf("n:INT\n%d\n", i); got != want {
			t.Errorf("got %q", got)
		}
	}
	if err := <-ended; !dberr.Is(err, dberr.Timeout) {
		t.Errorf("the endless statement ended with %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _, err := stream(ctx, c, alice, endless)
		ended <- err
	}()
	cancel()
	if err := <-ended; err == nil {
		t.Error("a canceled statement succeeded")
	}
}

// TestWriteStream writes batches without SQL to the real storage role.
func TestWriteStream(t *testing.T) {
	c := cluster.Start(t)
	run(t, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.t (id INT PRIMARY KEY, v TEXT DEFAULT 'none')")
	s, err := c.Query().WriteStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const batches, rows = 50, 20
	for b := range int64(batches) {
		set := &queryv1.RowSet{Columns: []string{"ID"}}
		for r := range int64(rows) {
			set.Rows = append(set.Rows, &queryv1.RowValues{Values: []*queryv1.Param{integer(b*rows + r)}})
		}
		req := &queryv1.WriteStreamRequest{Namespace: "app", Table: "t", Rows: &queryv1.WriteStreamRequest_RowSet{RowSet: set}}
		if b == 0 {
			req.Identity = catalog.IdentityToProto(alice)
		}
		if b == batches-1 { // a key that exists: this batch alone is refused, whole
			set.Rows[rows-1].Values[0] = integer(0)
		}
		if err := s.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for b := range batches {
		resp, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if refused := resp.GetError().GetCode() == string(dberr.PrimaryKeyViolation); refused != (b == batches-1) || !refused && resp.GetRows() != rows {
			t.Errorf("batch %d: %v", b, resp)
		}
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: %v", err)
	}
	want := fmt.Sprintf("n:BIGINT | v:TEXT\n%d | none\n", (batches-1)*rows)
	if got := resultText(t, run(t, c, alice, "SELECT count(*) AS n, min(v) AS v FROM t")); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
