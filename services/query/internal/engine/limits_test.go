package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// endless are statements that would run for hours.
var endless = map[string]string{
	"cross join":    "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range + b.range = -1",
	"like":          "SELECT count(*) FROM range(1000000) t(i) WHERE kalam_like(kalam_repeat('a', 200000) || i, '%a%' || kalam_repeat('a_', 400) || 'b', '')",
	"recursive CTE": "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i % 7 FROM t) SELECT count(*) FROM t",
	"series":        "SELECT count(*) FROM generate_series(1, 9000000000000)",
}

func TestCanceledStatementsStopAndOthersGoOn(t *testing.T) {
	e := newEngine(t, Config{})
	for name, sql := range endless {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				rows, err := e.Query(ctx, Statement{SQL: sql})
				if err == nil {
					_, err = drain(t, rows)
					rows.Release()
				}
				done <- err
			}()
			for range 20 {
				if got, err := collect(t, e, Statement{SQL: "SELECT 42"}); err != nil || got[0] != "42" {
					t.Fatalf("beside it: %q, %v", got, err)
				}
			}
			cancel()
			if err := <-done; !dberr.Is(err, dberr.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestTheStatementTimeoutStopsStatements(t *testing.T) {
	e := newEngine(t, Config{StatementTimeout: 20 * time.Millisecond})
	_, err := collect(t, e, Statement{SQL: endless["cross join"]})
	if !dberr.Is(err, dberr.Timeout) {
		t.Errorf("got %v", err)
	}
}

// A table whose reader never ends is stopped through the reader's context or between two batches.
func TestAnEndlessTableIsStopped(t *testing.T) {
	e := newEngine(t, Config{StatementTimeout: 20 * time.Millisecond})
	m := everyType(t, memory.DefaultAllocator)
	m.endless = true
	_, err := collect(t, e, Statement{SQL: "SELECT sum(cc) FROM kalam_scan(0)", Tables: []Table{m.table()}})
	if !dberr.Is(err, dberr.Timeout) || m.open != 0 {
		t.Errorf("got %v, %d readers open", err, m.open)
	}
}

func TestAResultThatNobodyReadsToTheEndIsReleased(t *testing.T) {
	alloc := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer alloc.AssertSize(t, 0)
	e := newEngine(t, Config{})
	m := everyType(t, alloc)
	defer m.batches[0].Release()
	m.endless = true
	rows, err := e.Query(t.Context(), Statement{SQL: "SELECT * FROM kalam_scan(0)", Tables: []Table{m.table()}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b, err := rows.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	rows.Release()
	rows.Release() // a second time does nothing
	if m.open != 0 {
		t.Errorf("%d readers open", m.open)
	}
}

// What a statement built up before its reader left must not stay with its prepared form: a connection
// keeps many of those.
func TestAnUnreadStatementLeavesNoMemoryBehind(t *testing.T) {
	e := newEngine(t, Config{MemoryBytes: 96 << 20, Connections: 1})
	for i := range 20 {
		rows, err := e.Query(t.Context(), Statement{SQL: fmt.Sprintf(
			"SELECT a.x, b.y FROM range(%d) a(x) JOIN range(%d) b(y) ON a.x = b.y", 300_000+i, 200_000+i)})
		if err != nil {
			t.Fatalf("join %d: %v", i, err)
		}
		b, err := rows.Next(t.Context())
		if err != nil {
			t.Fatalf("join %d: %v", i, err)
		}
		b.Release()
		rows.Release()
	}
	// One that fails keeps nothing either.
	if _, err := collect(t, e, Statement{SQL: "SELECT i::VARCHAR || repeat('x', 100) s FROM range(10000000) t(i) ORDER BY s DESC"}); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("a sort beyond the limit: %v", err)
	}
	got, err := collect(t, e, Statement{SQL: "SELECT count(*) FROM (SELECT i % 500000 g, count(*) FROM range(1000000) t(i) GROUP BY g)"})
	if err != nil || got[0] != "500000" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	e := newEngine(t, Config{MemoryBytes: 64 << 20})
	for name, sql := range map[string]string{
		"sort":        "SELECT i::VARCHAR || repeat('x', 100) s FROM range(10000000) t(i) ORDER BY s DESC",
		"aggregation": "SELECT count(*) FROM (SELECT i::VARCHAR || 'abcdefghijklmnop' s FROM range(100000000) t(i) GROUP BY 1)",
		"string_agg":  "SELECT length(string_agg(kalam_repeat('x', 30000), '')) FROM range(100000)",
		"array_agg":   "SELECT array_agg(kalam_repeat('x', 30000) || i) FROM range(100000) t(i)",
		"json_agg":    "SELECT json_group_array(kalam_repeat('x', 30000) || i) FROM range(100000) t(i)",
		"doubling":    "WITH RECURSIVE t(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM t) SELECT max(length(s)) FROM t",
	} {
		if _, err := collect(t, e, Statement{SQL: sql}); !dberr.Is(err, dberr.LimitExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := collect(t, e, Statement{SQL: "SELECT 42"}); err != nil || got[0] != "42" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

func TestMoreStatementsThanConnectionsWait(t *testing.T) {
	e := newEngine(t, Config{Connections: 2})
	a, err := e.Query(t.Context(), Statement{SQL: "SELECT 1"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.Query(t.Context(), Statement{SQL: "SELECT 2"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Query(ctx, Statement{SQL: "SELECT 3"}); !dberr.Is(err, dberr.Canceled) {
		t.Errorf("a third: %v", err)
	}
	a.Release()
	if got, err := collect(t, e, Statement{SQL: "SELECT 3"}); err != nil || got[0] != "3" {
		t.Errorf("after one was given back: %q, %v", got, err)
	}
	b.Release()
}

// Everything the functions of one statement make counts together, also what the plan keeps as constants.
func TestTextOfAllFunctionsOfAStatementCountsTogether(t *testing.T) {
	e := newEngine(t, Config{})
	var columns, computed []string
	for i := range 10 {
		columns = append(columns, fmt.Sprintf("kalam_repeat('x', %d)", 10_000_000+i))
		computed = append(computed, fmt.Sprintf("kalam_repeat('x', %d + i)", 10_000_000+i))
	}
	for _, sql := range []string{
		"SELECT " + strings.Join(columns, ", "),
		"SELECT " + strings.Join(computed, ", ") + " FROM range(1) t(i)",
		"SELECT " + strings.Join(columns, ", ") + " FROM range(5) t(i)",
	} {
		if _, err := collect(t, e, Statement{SQL: sql}); !dberr.Is(err, dberr.LimitExceeded) {
			t.Errorf("%.60s: %v", sql, err)
		}
	}
	// What is gone does not count: 400 MB in all, a megabyte at a time.
	got, err := collect(t, e, Statement{SQL: "SELECT sum(length(kalam_concat(kalam_repeat('x', 400), i::VARCHAR))) FROM range(1000000) t(i)"})
	if err != nil || got[0] != "405888890" {
		t.Errorf("got %q, %v", got, err)
	}
}

// One long text may stand in a result many times. DuckDB keeps it once, the batches do not.
func TestBatchesOfTheResultAreBounded(t *testing.T) {
	e := newEngine(t, Config{})
	rows, err := e.Query(t.Context(), Statement{SQL: "SELECT kalam_repeat('x', 1000000) || 'y' s, i, [1.5, i]::FLOAT[2] l, CASE WHEN i % 2 = 0 THEN i::VARCHAR END n FROM range(200) t(i)"})
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Release()
	batches, next := 0, int64(0)
	for {
		b, err := rows.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		batches++
		var bytes int
		for i := range int(b.NumRows()) {
			bytes += len(b.Column(0).(*array.String).Value(i))
			if got := b.Column(1).(*array.Int64).Value(i); got != next {
				t.Fatalf("row %d is %d", next, got)
			}
			if want := fmt.Sprintf("[1.5,%d]", next); b.Column(2).ValueStr(i) != want || b.Column(3).IsValid(i) != (next%2 == 0) {
				t.Fatalf("row %d holds %s", next, b.Column(2).ValueStr(i))
			}
			next++
		}
		if bytes > batchBytesMax {
			t.Errorf("a batch holds %d bytes of text", bytes)
		}
		b.Release()
	}
	if batches < 3 || next != 200 {
		t.Errorf("%d rows in %d batches", next, batches)
	}
}

// Chunks of a result that wait to be read hold text that DuckDB does not count.
func TestFewChunksOfAResultAreComputedAhead(t *testing.T) {
	e := newEngine(t, Config{Threads: 1, SnowflakeID: func() func() int64 {
		var n atomic.Int64
		return func() int64 { return n.Add(1) }
	}()})
	rows, err := e.Query(t.Context(), Statement{SQL: "SELECT i FROM range(1000000) t(i) WHERE kalam_snowflake_id() > 0"})
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Release()
	b, err := rows.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
	if n := e.cfg.SnowflakeID(); n > 16*vectorRows {
		t.Errorf("%d rows were computed before the second chunk was asked for", n)
	}
}

func TestARowThatIsTooLongIsRefused(t *testing.T) {
	e := newEngine(t, Config{})
	var columns []string
	for i := range 10 {
		columns = append(columns, fmt.Sprintf("s AS c%d", i))
	}
	sql := "SELECT " + strings.Join(columns, ", ") + " FROM (SELECT kalam_repeat('x', 10000000 + i) s FROM range(1) t(i))"
	if _, err := collect(t, e, Statement{SQL: sql}); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestAPreparedStatementWithLongConstantsIsNotKept(t *testing.T) {
	e := newEngine(t, Config{Connections: 1})
	for _, c := range []struct {
		sql  string
		kept int
	}{{"SELECT length(kalam_repeat('x', 10))", 1}, {"SELECT i, kalam_repeat('x', 1000000) FROM range(1) t(i)", 1}} {
		if _, err := collect(t, e, Statement{SQL: c.sql}); err != nil {
			t.Fatal(err)
		}
		if got := len(e.current.idle[0].prepared); got != c.kept {
			t.Errorf("%s: %d statements are kept, not %d", c.sql, got, c.kept)
		}
	}
}

// After a fault DuckDB refuses every statement; the next one finds a new DuckDB, while those that run
// end with the old one.
func TestABrokenEngineIsReplaced(t *testing.T) {
	e := newEngine(t, Config{Logger: slog.New(slog.DiscardHandler)})
	running, err := e.Query(t.Context(), Statement{SQL: "SELECT i FROM range(100000) t(i)"})
	if err != nil {
		t.Fatal(err)
	}
	broken, err := e.Query(t.Context(), Statement{SQL: "SELECT 1"})
	if err != nil {
		t.Fatal(err)
	}
	broken.err = classify("INTERNAL Error: Attempted to dereference unique_ptr that is NULL!")
	if !dberr.Is(broken.err, dberr.Internal) {
		t.Errorf("a fault is %v", broken.err)
	}
	old := e.current
	broken.Release()
	if e.current == old {
		t.Fatal("the engine was not replaced")
	}
	if got, err := collect(t, e, Statement{SQL: "SELECT 42"}); err != nil || got[0] != "42" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
	if rows, err := drain(t, running); err != nil || len(rows) != 100000 {
		t.Errorf("what was running: %d rows, %v", len(rows), err)
	}
	running.Release()
	<-old.closed
}

// forbidden reach out of the process, or change the engine. Each must fail even if the planner let it
// through.
var forbidden = []string{
	"SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM read_text('/etc/passwd')", "SELECT * FROM read_blob('/etc/passwd')",
	"SELECT * FROM read_parquet('/tmp/x.parquet')", "SELECT * FROM read_json('/tmp/x.json')", "SELECT * FROM '/etc/passwd'",
	"SELECT * FROM glob('/etc/*')", "SELECT getenv('HOME')", "SELECT * FROM sniff_csv('/etc/passwd')",
	"COPY (SELECT 1) TO '/tmp/kalam_engine_test'", "COPY x FROM '/etc/passwd'", "ATTACH '/tmp/kalam.db'",
	"ATTACH ':memory:' AS m", "DETACH memory", "INSTALL httpfs", "LOAD httpfs", "PRAGMA threads=9",
	"SET memory_limit='9GB'", "SET lock_configuration=false", "RESET memory_limit", "CREATE TABLE t (a INT)",
	"CREATE MACRO m(a) AS a", "CREATE VIEW v AS SELECT 1", "CREATE SECRET s (TYPE s3)", "DROP SCHEMA main CASCADE",
	"CALL pragma_version()", "CHECKPOINT", "EXPORT DATABASE '/tmp/kalam'", "IMPORT DATABASE '/tmp/kalam'", "BEGIN", "VACUUM",
	"EXPLAIN ANALYZE SELECT 1", "PREPARE p AS SELECT 1", "EXECUTE p", "INSERT INTO x VALUES (1)", "UPDATE x SET a = 1",
	"SELECT * FROM kalam_scan(0)", "SELECT * FROM kalam_scan(-1)", "SELECT * FROM kalam_scan(99)",
	"SELECT 1; SELECT 2",
}

func TestNothingReachesOutOfTheEngine(t *testing.T) {
	e := newEngine(t, Config{})
	for _, sql := range forbidden {
		if got, err := collect(t, e, Statement{SQL: sql}); err == nil {
			t.Errorf("%s: ran, and returned %.80q", sql, got)
		}
	}
	if got, err := collect(t, e, Statement{SQL: "SELECT current_setting('lock_configuration'), current_setting('enable_external_access'), current_setting('temp_directory')"}); err != nil || got[0] != "true|false|" {
		t.Errorf("settings: %q, %v", got, err)
	}
}

func TestFreshIdsForEachRow(t *testing.T) {
	var n int64
	e := newEngine(t, Config{SnowflakeID: func() int64 { n++; return n }})
	for _, f := range []string{SnowflakeID, UUIDv7, ULID} {
		got, err := collect(t, e, Statement{SQL: "SELECT " + f + "() FROM range(5000)"})
		if err != nil || len(got) != 5000 {
			t.Fatalf("%s: %d rows, %v", f, len(got), err)
		}
		seen := map[string]bool{}
		for _, v := range got {
			seen[v] = true
		}
		if len(seen) != 5000 {
			t.Errorf("%s: %d different values in 5000", f, len(seen))
		}
	}
	e = newEngine(t, Config{})
	if _, err := collect(t, e, Statement{SQL: "SELECT kalam_snowflake_id()"}); !dberr.Is(err, dberr.Unsupported) {
		t.Errorf("without a generator: %v", err)
	}
}

// The order of the rows a reader hands over survives filters, projections and limits.
func TestAnOrderedTableKeepsItsOrder(t *testing.T) {
	e := newEngine(t, Config{Threads: 4})
	m := numbers(t, memory.DefaultAllocator, 100_000, 1000)
	got, err := collect(t, e, Statement{SQL: "SELECT i FROM kalam_scan(0) WHERE i % 3 = 0", Tables: []Table{m.table()}})
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range got {
		if v != fmt.Sprint(3*i) {
			t.Fatalf("row %d is %s, not %d", i, v, 3*i)
		}
	}
	got, err = collect(t, e, Statement{SQL: "SELECT i FROM kalam_scan(0) LIMIT 3 OFFSET 70000", Tables: []Table{m.table()}})
	if err != nil || strings.Join(got, ",") != "70000,70001,70002" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestManyStatementsAtOnce(t *testing.T) {
	alloc := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer alloc.AssertSize(t, 0)
	e := newEngine(t, Config{Connections: 4})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			m := numbers(t, alloc, 10_000, 3000)
			defer func() {
				for _, b := range m.batches {
					b.Release()
				}
			}()
			table := m.table()
			table.Ordered, table.Signature = false, "numbers"
			for range 20 {
				got, err := collect(t, e, Statement{SQL: "SELECT g, count(*), sum(i) FROM kalam_scan(0) GROUP BY g ORDER BY g LIMIT 2", Tables: []Table{table}})
				if err != nil || strings.Join(got, ";") != "0|1000|4995000;1|1000|4996000" {
					t.Errorf("worker %d: %q, %v", w, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// numbers is a table (i, g = i mod 10).
func numbers(t testing.TB, alloc memory.Allocator, n, batch int) *memoryTable {
	t.Helper()
	m := &memoryTable{columns: []Column{{"i", catalog.Type{Kind: catalog.BigInt}}, {"g", catalog.Type{Kind: catalog.Int}}}}
	schema := arrow.NewSchema([]arrow.Field{{Name: "i", Type: arrow.PrimitiveTypes.Int64}, {Name: "g", Type: arrow.PrimitiveTypes.Int32}}, nil)
	for from := 0; from < n; from += batch {
		b := array.NewRecordBuilder(alloc, schema)
		for i := from; i < min(from+batch, n); i++ {
			b.Field(0).(*array.Int64Builder).Append(int64(i))
			b.Field(1).(*array.Int32Builder).Append(int32(i % 10))
		}
		m.batches = append(m.batches, b.NewRecordBatch())
		b.Release()
	}
	return m
}

func BenchmarkTrivialStatement(b *testing.B) {
	e := newEngine(b, Config{})
	for b.Loop() {
		if _, err := collect(b, e, Statement{SQL: "SELECT 42"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGroupByOfAMillionRows(b *testing.B) {
	e := newEngine(b, Config{})
	m := numbers(b, memory.DefaultAllocator, 1_000_000, 4096)
	for b.Loop() {
		table := m.table()
		table.Ordered = false
		if _, err := collect(b, e, Statement{SQL: "SELECT g, count(*), sum(i) FROM kalam_scan(0) GROUP BY g", Tables: []Table{table}}); err != nil {
			b.Fatal(err)
		}
	}
}
