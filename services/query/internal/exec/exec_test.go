package exec

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch/rowbatchtest"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// many fills alice's messages with n rows.
func many(t testing.TB, f *fixture, messages *catalog.Table, n int) {
	t.Helper()
	for i := range n {
		f.put(t, messages, "alice", datum.Int(int64(i)), datum.Text("room"), datum.Text("body"), datum.Null, datum.Int(int64(i%7)),
			datum.Null, datum.Null, datum.Null, datum.Null, datum.Null)
	}
}

const (
	fastSQL   = "SELECT id, body AS text FROM messages WHERE n = 3"
	engineSQL = "SELECT id, upper(body) AS text FROM messages WHERE n = 3"
	countSQL  = "SELECT count(*) FROM messages"
)

// What fails before a row is out is done again: a role that is just starting, a table that changed.
func TestReadingIsRepeatedBeforeTheFirstRow(t *testing.T) {
	messages := messagesTable()
	f := start(t, memory.DefaultAllocator, messages)
	many(t, f, messages, 700)
	for _, code := range []dberr.Code{dberr.Unavailable, dberr.SchemaChanged} {
		for _, sql := range []string{fastSQL, engineSQL, countSQL} {
			left := 2
			f.storage.fail = func(*storagev1.ScanRequest) error {
				if left--; left >= 0 {
					return dberr.New(code, "not now")
				}
				return nil
			}
			if rows, err := f.query(t, sql); err != nil || len(rows) == 0 {
				t.Errorf("%s after %s twice: %d rows, %v", sql, code, len(rows), err)
			}
			f.storage.fail = func(*storagev1.ScanRequest) error { return dberr.New(code, "never") }
			if _, err := f.query(t, sql); !dberr.Is(err, code) {
				t.Errorf("%s after %s for ever: %v", sql, code, err)
			}
		}
	}
}

func TestOtherErrorsOfStorageAreNotRepeated(t *testing.T) {
	messages := messagesTable()
	f := start(t, memory.DefaultAllocator, messages)
	f.storage.fail = func(*storagev1.ScanRequest) error { return dberr.New(dberr.Corrupt, "bad block") }
	for _, sql := range []string{fastSQL, engineSQL, countSQL} {
		f.lastScans()
		if _, err := f.query(t, sql); !dberr.Is(err, dberr.Corrupt) {
			t.Errorf("%s: %v", sql, err)
		}
		if n := len(f.lastScans()); n != 1 {
			t.Errorf("%s: scanned %d times", sql, n)
		}
	}
}

// Scans ask for the caller's partition and nothing else, whatever the statement says.
func TestScansAreForTheCaller(t *testing.T) {
	f := chat(t, memory.DefaultAllocator)
	for _, sql := range []string{"SELECT * FROM messages", countSQL, "SELECT max(id) FROM messages m, log WHERE m.id > 0",
		"WITH a AS (SELECT * FROM messages) SELECT * FROM a UNION ALL SELECT * FROM a",
		"SELECT (SELECT count(*) FROM messages) FROM log WHERE line IN (SELECT body FROM messages)"} {
		f.lastScans()
		if _, err := f.query(t, sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
		for _, s := range f.lastScans() {
			if s.GetUserId() != "alice" || s.GetIdentity().GetUserId() != "alice" || s.GetNowUs() != nowUS ||
				s.GetShard() != f.Catalog.State().Shards.User("alice") {
				t.Errorf("%s: scanned %v", sql, s)
			}
		}
	}
}

// The engine reads the columns a statement needs, and no others.
func TestOnlyNeededColumnsAreScanned(t *testing.T) {
	f := chat(t, memory.DefaultAllocator)
	for sql, want := range map[string][]uint32{
		"SELECT id FROM messages": {1},
		countSQL:                  nil,
		"SELECT sum(n) FROM messages WHERE room = 'a'":                 {6},
		"SELECT room, max(id) FROM messages GROUP BY room":             {1, 2},
		"SELECT upper(body) FROM messages WHERE length(md5(body)) > n": {4, 6},
	} {
		f.lastScans()
		if _, err := f.query(t, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		scans := f.lastScans()
		got := slices.Sorted(slices.Values(scans[0].GetColumnIds()))
		if len(scans) != 1 || !slices.Equal(got, want) {
			t.Errorf("%s: scanned columns %v, needs %v", sql, got, want)
		}
	}
}

func TestPlansAreKeptAndFollowTheCatalog(t *testing.T) {
	f := chat(t, memory.DefaultAllocator)
	sel := parse(t, "SELECT id FROM messages WHERE id = $1")
	env := f.env
	plan := func(params ...datum.Datum) any {
		env.Params = params
		p, err := f.planner.Plan(f.Catalog.State(), &env, sel)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first := plan(datum.Int(1))
	if plan(datum.Int(2)) != first {
		t.Error("another value of a parameter made another plan")
	}
	if plan(datum.Text("1")) == first {
		t.Error("a parameter of another kind found the same plan")
	}
	// The same plan answers with each execution's own values and identity.
	for i, want := range map[int64]int{1: 1, 2: 1, 99: 0} {
		if rows, err := f.run(t.Context(), sel, datum.Int(i)); err != nil || len(rows) != want {
			t.Errorf("$1 = %d: %q, %v", i, rows, err)
		}
	}
	f.env.Identity.UserID = "bob"
	if rows, err := f.run(t.Context(), sel, datum.Int(2)); err != nil || len(rows) != 0 {
		t.Errorf("bob sees %q, %v", rows, err)
	}
}

func TestNothingIsLeaked(t *testing.T) {
	messages := messagesTable()
	f := start(t, rowbatchtest.Allocator(t), messages)
	many(t, f, messages, 1000)
	for _, sql := range []string{fastSQL, engineSQL, countSQL, "SELECT * FROM messages", "SELECT *, n + 1 FROM messages",
		"SELECT n, count(*) FROM messages GROUP BY n", "SELECT 1 / (id - 500) FROM messages"} {
		if _, err := f.query(t, sql); err != nil && !dberr.Is(err, dberr.ValueOutOfRange) {
			t.Errorf("%s: %v", sql, err)
		}
		// A reader that goes away early.
		rows, err := f.Select(t.Context(), f.env, parse(t, sql))
		if err != nil {
			continue
		}
		if b, err := rows.Next(t.Context()); err == nil {
			b.Release()
		}
		rows.Release()
	}
}

func TestACanceledStatementEnds(t *testing.T) {
	messages := messagesTable()
	f := start(t, memory.DefaultAllocator, messages)
	many(t, f, messages, 1000)
	for _, sql := range []string{"SELECT count(*) FROM messages a, messages b, messages c, messages d WHERE a.id + b.id + c.id + d.id < 0",
		"WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i % 5 + 1 FROM t) SELECT count(*) FROM t"} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := f.run(ctx, parse(t, sql))
			done <- err
		}()
		if rows, err := f.query(t, countSQL); err != nil || rows[0] != "1000" {
			t.Errorf("beside it: %q, %v", rows, err)
		}
		if rows, err := f.query(t, "SELECT max(id) FROM messages"); err != nil || rows[0] != "999" {
			t.Errorf("beside it: %q, %v", rows, err)
		}
		cancel()
		if err := <-done; !dberr.Is(err, dberr.Canceled) {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// messageSink collects a Flight stream.
type messageSink struct{ messages []*flight.FlightData }

func (s *messageSink) Send(m *flight.FlightData) error {
	s.messages = append(s.messages, m)
	return nil
}

func (s *messageSink) Recv() (*flight.FlightData, error) {
	m := s.messages[0]
	s.messages = s.messages[1:]
	return m, nil
}

// A Flight stream holds what Select returns, whether it is passed through or computed.
func TestFlightStreams(t *testing.T) {
	messages := messagesTable()
	f := start(t, memory.DefaultAllocator, messages)
	many(t, f, messages, 1000)
	for _, sql := range []string{"SELECT id AS a, body FROM messages", engineSQL, countSQL, "SELECT id FROM messages LIMIT 0"} {
		want, err := f.query(t, sql)
		if err != nil {
			t.Fatal(err)
		}
		sink := &messageSink{}
		if err := f.SelectFlight(t.Context(), f.env, parse(t, sql), sink); err != nil {
			t.Fatal(err)
		}
		batches := len(sink.messages) - 1
		r, err := flight.NewRecordReader(sink)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := f.Select(t.Context(), f.env, parse(t, sql))
		if err != nil {
			t.Fatal(err)
		}
		if !r.Schema().Equal(rows.Schema()) {
			t.Errorf("%s: schema\n%s\nnot\n%s", sql, r.Schema(), rows.Schema())
		}
		rows.Release()
		n := 0
		for range batches {
			if !r.Next() {
				t.Fatal(r.Err())
			}
			n += int(r.RecordBatch().NumRows())
		}
		r.Release()
		if n != len(want) {
			t.Errorf("%s: %d rows, not %d", sql, n, len(want))
		}
	}
}

func TestDescribe(t *testing.T) {
	f := chat(t, memory.DefaultAllocator)
	for _, sql := range []string{"SELECT * FROM messages", countSQL, "SELECT m.id, r.title, upper(body), n + 1 FROM messages m JOIN rooms r ON r.id = m.room",
		"SELECT sum(n) FROM messages", "VALUES (1, 'x')"} {
		got, err := f.Describe(t.Context(), f.env, parse(t, sql))
		if err != nil {
			t.Fatal(err)
		}
		rows, err := f.Select(t.Context(), f.env, parse(t, sql))
		if err != nil {
			t.Fatal(err)
		}
		if !got.Equal(rows.Schema()) {
			t.Errorf("%s: described\n%s\nreturned\n%s", sql, got, rows.Schema())
		}
		rows.Release()
	}
	f.lastScans()
	if _, err := f.Describe(t.Context(), f.env, parse(t, engineSQL)); err != nil {
		t.Fatal(err)
	}
	if n := len(f.lastScans()); n != 0 {
		t.Errorf("describing opened %d scans", n)
	}
	if _, err := f.Describe(t.Context(), f.env, parse(t, "SELECT nope FROM messages")); !dberr.Is(err, dberr.ColumnNotFound) {
		t.Errorf("an unknown column: %v", err)
	}
}

func TestLimit(t *testing.T) {
	messages := messagesTable()
	f := start(t, memory.DefaultAllocator, messages)
	many(t, f, messages, 1000)
	for _, c := range []struct {
		rows, bytes int64
		want        dberr.Code
	}{{0, 0, ""}, {1000, 0, ""}, {999, 0, dberr.LimitExceeded}, {0, 100, dberr.LimitExceeded}} {
		rows, err := f.Select(t.Context(), f.env, parse(t, "SELECT id FROM messages"))
		if err != nil {
			t.Fatal(err)
		}
		rows = Limit(rows, c.rows, c.bytes)
		_, err = readAll(t.Context(), rows)
		if dberr.CodeOf(err) != c.want {
			t.Errorf("%d rows, %d bytes: %v", c.rows, c.bytes, err)
		}
		rows.Release()
	}
}

func TestScanTable(t *testing.T) {
	f := chat(t, memory.DefaultAllocator)
	r, err := f.ScanTable(t.Context(), &f.env, f.storage.tables[1],
		&storagev1.ScanRequest{ColumnIds: []uint32{1, catalog.SeqColumnID}, Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	if rows, err := readAll(t.Context(), r); err != nil || strings.Join(rows, ";") != "1|1001;2|1002" {
		t.Errorf("got %q, %v", rows, err)
	}
	if _, err := f.ScanTable(t.Context(), &f.env, f.storage.tables[4], &storagev1.ScanRequest{}); !dberr.Is(err, dberr.PermissionDenied) {
		t.Errorf("somebody else's table: %v", err)
	}
}

func BenchmarkFastScanOf50Rows(b *testing.B) {
	messages := messagesTable()
	f := start(b, memory.DefaultAllocator, messages)
	many(b, f, messages, 300)
	benchmark(b, f, "SELECT id, room, body FROM messages WHERE room = $1 ORDER BY id DESC LIMIT 50", datum.Text("room"))
}

func BenchmarkEngineStatementOver300Rows(b *testing.B) {
	messages := messagesTable()
	f := start(b, memory.DefaultAllocator, messages)
	many(b, f, messages, 300)
	benchmark(b, f, "SELECT n, count(*) FROM messages WHERE room = $1 GROUP BY n", datum.Text("room"))
}

func benchmark(b *testing.B, f *fixture, sql string, params ...datum.Datum) {
	sel := parse(b, sql)
	env := f.env
	env.Params = params
	b.ReportAllocs()
	for b.Loop() {
		rows, err := f.Select(b.Context(), env, sel)
		if err != nil {
			b.Fatal(err)
		}
		for {
			batch, err := rows.Next(b.Context())
			if err != nil {
				break
			}
			batch.Release()
		}
		rows.Release()
	}
}
