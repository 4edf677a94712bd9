package scan_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/flight"
	flightv1 "github.com/apache/arrow-go/v18/arrow/flight/gen/flight"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch/rowbatchtest"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/scan"
)

// TestScan runs testdata. Commands:
//
//	put table=… [user=…]     rows as column=value, one a line
//	del table=… [user=…]     the same
//	scan table=… [user=…] [as=…] [columns=(…)] [where=(column,op,value)]… [order=(column[ desc][ first],…)]
//	     [limit= offset= after= deleted schema=] [all role=…]
//
// The answers are the same wherever the rows are.
func TestScan(t *testing.T) {
	for name, flush := range flushing {
		t.Run(name, func(t *testing.T) { scanFiles(t, flush) })
	}
}

// flushing says behind which writes rows move to segments.
var flushing = map[string]func(step int) bool{
	"hot":   func(int) bool { return false },
	"cold":  func(int) bool { return true },
	"mixed": func(step int) bool { return step%3 == 1 },
	// What is written behind the sixth row, to the same rows, is hot.
	"above": func(step int) bool { return step == 6 },
}

func scanFiles(t *testing.T, flush func(step int) bool) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		n, step := newNode(t), 0
		server, err := scan.NewServer(n, scan.Config{Cold: n.cold, Allocator: rowbatchtest.Allocator(t), SortBytesMax: 4096})
		if err != nil {
			t.Fatal(err)
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			table := n.named(t, d)
			switch d.Cmd {
			case "put", "del":
				for line := range strings.SplitSeq(d.Input, "\n") {
					n.put(t, table, arg(d, "user"), parseRow(t, table, line), d.Cmd == "del")
					if step++; flush(step) {
						n.flush(t)
					}
				}
				return ""
			case "scan":
				var out sink
				if err := server.Scan(t.Context(), request(t, table, d), &out); err != nil {
					return fmt.Sprintf("%s: %v\n", dberr.CodeOf(err), err)
				}
				return show(t, &out)
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

func (n *node) put(t *testing.T, table *catalog.Table, user string, row rowcodec.Row, deleted bool) {
	t.Helper()
	if table.Kind != catalog.StreamTable {
		n.write(t, table, user, row, deleted)
		return
	}
	op := storagev1.Operation_OPERATION_INSERT
	if deleted {
		op = storagev1.Operation_OPERATION_DELETE
	}
	if _, err := n.store.Write(t.Context(), table, user, &storagev1.TableWrite{TableId: table.ID, SchemaVersion: table.SchemaVersion,
		Operation: op, Rows: [][]byte{rowcodec.Append(nil, table, &row)}}, false); err != nil {
		t.Fatal(err)
	}
}

func (n *node) named(t *testing.T, d *datadriven.TestData) *catalog.Table {
	t.Helper()
	for _, table := range n.tables {
		if table.Name == arg(d, "table") {
			return table
		}
	}
	d.Fatalf(t, "no table %q", arg(d, "table"))
	return nil
}

func arg(d *datadriven.TestData, key string) string {
	for _, a := range d.CmdArgs {
		if a.Key == key && len(a.Vals) == 1 {
			return a.Vals[0]
		}
	}
	return ""
}

func number(t *testing.T, d *datadriven.TestData, key string) uint64 {
	t.Helper()
	s := arg(d, key)
	if s == "" {
		return 0
	}
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func parseValue(t *testing.T, c *catalog.Column, s string) datum.Datum {
	t.Helper()
	if s == "null" {
		return datum.Null
	}
	v, err := datum.ParseText(c.Type, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func parseRow(t *testing.T, table *catalog.Table, line string) rowcodec.Row {
	t.Helper()
	row := rowcodec.NewRow(table)
	for _, field := range strings.Fields(line) {
		name, value, _ := strings.Cut(field, "=")
		for i := range table.Columns {
			if table.Columns[i].Name == name {
				row.Put(i, parseValue(t, &table.Columns[i], value))
			}
		}
	}
	return row
}

func column(t *testing.T, table *catalog.Table, name string) *catalog.Column {
	t.Helper()
	if c, ok := table.Column(name); ok {
		return c
	}
	if c, ok := catalog.SystemColumn(name); ok {
		return c
	}
	if name == "_user_id" {
		c, _ := table.AnyColumn(catalog.UserIDColumnID)
		return c
	}
	return &catalog.Column{ID: 99, Name: name, Type: catalog.Type{Kind: catalog.Text}}
}

func request(t *testing.T, table *catalog.Table, d *datadriven.TestData) *storagev1.ScanRequest {
	t.Helper()
	user := arg(d, "user")
	req := &storagev1.ScanRequest{Shard: shard, TableId: table.ID, SchemaVersion: table.SchemaVersion, UserId: user,
		Identity: &catalogv1.Identity{UserId: user, Role: catalogv1.Role_ROLE_SYSTEM}, IncludeDeleted: d.HasArg("deleted"),
		Limit: number(t, d, "limit"), Offset: number(t, d, "offset"), AfterSeq: number(t, d, "after") * seqStep}
	if as := arg(d, "as"); as != "" {
		req.Identity.UserId = as
	}
	if d.HasArg("all") {
		req.AllUsers = true
		role, _ := catalog.ParseRole(arg(d, "role"))
		req.Identity.Role = catalogv1.Role(role)
	}
	if d.HasArg("schema") {
		req.SchemaVersion = uint32(number(t, d, "schema"))
	}
	var where []*exprv1.Expr
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "columns":
			for _, name := range a.Vals {
				req.ColumnIds = append(req.ColumnIds, column(t, table, name).ID)
			}
		case "where":
			where = append(where, condition(t, table, a.Vals))
		case "order":
			for _, key := range a.Vals {
				f := strings.Fields(key)
				req.Order = append(req.Order, &exprv1.OrderBy{ColumnId: column(t, table, f[0]).ID,
					Descending: strings.Contains(key, " desc"), NullsFirst: strings.Contains(key, " first")})
			}
		}
	}
	req.Filter = predicate.And(where...)
	return req
}

func condition(t *testing.T, table *catalog.Table, vals []string) *exprv1.Expr {
	t.Helper()
	c := column(t, table, vals[0])
	args := []*exprv1.Expr{predicate.Column(c.ID)}
	for _, v := range vals[2:] {
		args = append(args, predicate.Literal(parseValue(t, c, v)))
	}
	return predicate.Call(vals[1], args...)
}

// show prints what a scan sent: position in steps, batches, rows.
func show(t *testing.T, in *sink) string {
	t.Helper()
	r, err := flight.NewRecordReader(in, ipc.WithAllocator(rowbatchtest.Allocator(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	var header storagev1.ScanHeader
	if err := proto.Unmarshal(r.LatestAppMetadata(), &header); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	rows := int64(0)
	for r.Next() {
		rec := r.RecordBatch()
		rows += rec.NumRows()
		cells := make([]string, rec.NumCols())
		for i := range int(rec.NumRows()) {
			for c := range int(rec.NumCols()) {
				f := rec.Schema().Field(c)
				v := rowbatch.DatumAt(rec.Column(c), i, rowbatch.TypeOf(f))
				s := "null"
				switch {
				case f.Name == "_seq":
					s = fmt.Sprint(v.AsInt() / seqStep)
				case !v.IsNull():
					s = datum.FormatText(v, rowbatch.TypeOf(f))
				}
				cells[c] = f.Name + "=" + s
			}
			if len(cells) > 0 {
				out.WriteString(strings.Join(cells, " ") + "\n")
			}
		}
	}
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	fmt.Fprintf(&out, "%d rows at %d\n", rows, header.GetPosition()/seqStep)
	return out.String()
}

func TestBatchesAreBounded(t *testing.T) {
	n := filled(t, 10_000, 1)
	var out sink
	if err := newServer(t, n).Scan(t.Context(), ask(1), &out); err != nil {
		t.Fatal(err)
	}
	r, err := flight.NewRecordReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	var sizes []int64
	for r.Next() {
		sizes = append(sizes, r.RecordBatch().NumRows())
	}
	if fmt.Sprint(sizes) != "[256 4096 4096 1552]" {
		t.Errorf("batches of %v rows", sizes)
	}
	if err := newServer(t, n).Scan(t.Context(), ask(), &out); err != nil || len(out.sent) != 2 {
		t.Errorf("counting sent %d messages, %v", len(out.sent), err)
	}
}

// The heap and the sort of everything agree with each other and with what is asked.
func TestOrdersAgree(t *testing.T) {
	n := filled(t, 12_000, 3)
	server := newServer(t, n)
	order := []*exprv1.OrderBy{{ColumnId: 2, Descending: true}, {ColumnId: 3}}
	read := func(limit, offset uint64) []float64 {
		req := ask(3)
		req.Order, req.Limit, req.Offset = order, limit, offset
		var out sink
		if err := server.Scan(t.Context(), req, &out); err != nil {
			t.Fatal(err)
		}
		r, err := flight.NewRecordReader(&out)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Release()
		var got []float64
		for r.Next() {
			for i := range int(r.RecordBatch().NumRows()) {
				got = append(got, rowbatch.DatumAt(r.RecordBatch().Column(0), i, catalog.Type{Kind: catalog.Double}).AsFloat())
			}
		}
		return got
	}
	all := read(0, 0)
	if len(all) != 12_000 {
		t.Fatalf("%d rows", len(all))
	}
	for i := 1; i < 4000; i++ { // the first room's third
		if all[i-1] >= all[i] {
			t.Fatalf("row %d: %v after %v", i, all[i], all[i-1])
		}
	}
	for _, c := range [][2]uint64{{10, 0}, {10, 3990}, {9_000, 1_000}, {11_000, 500}, {5, 11_998}, {5, 20_000}} {
		from := min(c[1], uint64(len(all)))
		want := all[from:min(from+c[0], uint64(len(all)))]
		if got := read(c[0], c[1]); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("limit %d offset %d: %d rows, want %d", c[0], c[1], len(got), len(want))
		}
	}
}

// Rows that are equal in the order come in the order of the key, from the heap too.
func TestTiesAreInKeyOrder(t *testing.T) {
	n := filled(t, 3_000, 3)
	for _, limit := range []uint64{0, 500} {
		req := ask(1)
		req.Order, req.Limit = []*exprv1.OrderBy{{ColumnId: 2}}, limit
		var out sink
		if err := newServer(t, n).Scan(t.Context(), req, &out); err != nil {
			t.Fatal(err)
		}
		r, err := flight.NewRecordReader(&out)
		if err != nil {
			t.Fatal(err)
		}
		want := int64(0) // room-0 has the ids 0, 3, 6, …
		for r.Next() {
			for i := range int(r.RecordBatch().NumRows()) {
				got := rowbatch.DatumAt(r.RecordBatch().Column(0), i, catalog.Type{Kind: catalog.BigInt}).AsInt()
				if want < 1500 && got != want {
					t.Fatalf("limit %d: id %d, want %d", limit, got, want)
				}
				want += 3
			}
		}
		r.Release()
	}
}

func TestCancelStopsAScan(t *testing.T) {
	n := filled(t, 2_000, 1)
	ctx, cancel := context.WithCancel(t.Context())
	req := ask(1)
	req.Filter = predicate.Call("=", predicate.Column(2), predicate.Literal(datum.Text("nowhere")))
	reader := func() { cancel() } // confirmed leadership, and then the caller goes away
	server, err := scan.NewServer(cancelling{n, reader}, scan.Config{Allocator: rowbatchtest.Allocator(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Scan(ctx, req, &sink{}); !dberr.Is(dberr.FromStatus(err), dberr.Canceled) {
		t.Fatalf("got %v", err)
	}
}

type cancelling struct {
	*node
	cancel func()
}

func (c cancelling) Reader(ctx context.Context, s uint32, want storagev1.Consistency, maxAge time.Duration) (pebble.Reader, error) {
	r, err := c.node.Reader(ctx, s, want, maxAge)
	c.cancel()
	return r, err
}

// A reader that is gone ends the scan, and everything is released.
func TestSendFailure(t *testing.T) {
	n := filled(t, 1_000, 1)
	server, err := scan.NewServer(n, scan.Config{Cold: n.cold, Allocator: rowbatchtest.Allocator(t)})
	if err != nil {
		t.Fatal(err)
	}
	gone := dberr.New(dberr.Canceled, "gone")
	if err := server.Scan(t.Context(), ask(1, 2), &sink{fail: gone}); !dberr.Is(err, dberr.Canceled) {
		t.Fatalf("got %v", err)
	}
}

// One scan's rows and its position are of one moment, whatever is written meanwhile.
func TestPositionMatchesRows(t *testing.T) {
	n := newNode(t)
	server := newServer(t, n)
	table := n.tables[1]
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 300 {
			row := rowcodec.NewRow(table)
			row.Put(0, datum.Int(int64(i)))
			n.write(t, table, "alice", row, false)
		}
	}()
	defer func() { <-done }()
	for rows := int64(0); rows < 300; {
		var out sink
		if err := server.Scan(t.Context(), ask(1), &out); err != nil {
			t.Fatal(err)
		}
		var header storagev1.ScanHeader
		if err := proto.Unmarshal(out.sent[0].GetAppMetadata(), &header); err != nil {
			t.Fatal(err)
		}
		r, err := flight.NewRecordReader(&out)
		if err != nil {
			t.Fatal(err)
		}
		rows = 0
		for r.Next() {
			rows += r.RecordBatch().NumRows()
		}
		r.Release()
		if header.GetPosition() != max(uint64(rows)*seqStep, changelog.Beginning) {
			t.Fatalf("%d rows at %d", rows, header.GetPosition()/seqStep)
		}
	}
}

// Over both networks, with the client everybody uses.
func TestDoGet(t *testing.T) {
	n := filled(t, 600, 2)
	for name, network := range map[string]rpcnet.Network{"local": rpcnet.NewLocal(), "tcp": rpcnet.TCP{}} {
		t.Run(name, func(t *testing.T) {
			addr := map[string]string{"local": "storage", "tcp": "127.0.0.1:0"}[name]
			srv, err := rpcnet.NewServer(network, addr, rpcnet.ServerOptions{})
			if err != nil {
				t.Fatal(err)
			}
			flightv1.RegisterFlightServiceServer(srv.Registrar(), newServer(t, n))
			srv.Serve()
			defer srv.Stop(t.Context())
			if name == "tcp" {
				addr = srv.Addr().String()
			}
			conn, err := rpcnet.Dial(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			client := flight.NewFlightServiceClient(conn)
			checkDoGet(t, client)
		})
	}
}

func checkDoGet(t *testing.T, client flight.FlightServiceClient) {
	t.Helper()
	get := func(ticket []byte) (rows int64, err error) {
		st, err := client.DoGet(t.Context(), &flight.Ticket{Ticket: ticket})
		if err != nil {
			return 0, err
		}
		r, err := flight.NewRecordReader(st)
		if err != nil {
			return 0, err
		}
		defer r.Release()
		for r.Next() {
			rows += r.RecordBatch().NumRows()
		}
		return rows, r.Err()
	}
	ticket, err := proto.Marshal(ask(1, 2, 3, 6))
	if err != nil {
		t.Fatal(err)
	}
	if rows, err := get(ticket); rows != 600 || err != nil {
		t.Errorf("%d rows, %v", rows, err)
	}
	if _, err := get([]byte("no ticket")); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("a bad ticket: %v", err)
	}
}

func FuzzTicket(f *testing.F) {
	n := filled(f, 20, 2)
	server := newServer(f, n)
	for _, req := range []*storagev1.ScanRequest{ask(1, 2), ask(), {Shard: shard, TableId: 3, SchemaVersion: 7}} {
		req.Filter = predicate.Call("=", predicate.Column(2), predicate.Literal(datum.Text("room-1")))
		req.Order = []*exprv1.OrderBy{{ColumnId: 3, Descending: true}}
		req.Limit = 5
		b, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, ticket []byte) {
		err := server.DoGet(&flight.Ticket{Ticket: ticket}, nobody{ctx: t.Context()})
		if dberr.Is(err, dberr.Internal) {
			t.Fatalf("not the caller's fault? %v", err)
		}
	})
}

// nobody is the server's side of a DoGet that nobody reads.
type nobody struct {
	grpc.ServerStream
	ctx context.Context
}

func (s nobody) Context() context.Context      { return s.ctx }
func (s nobody) Send(*flight.FlightData) error { return nil }
