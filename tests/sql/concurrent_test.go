package sqltest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

var (
	root  = catalog.Identity{UserID: "root", Role: catalog.RoleSystem}
	alice = catalog.Identity{UserID: "alice", Role: catalog.RoleUser}
)

// run executes a text that must succeed and returns its last result.
func run(t testing.TB, c *cluster.Cluster, id catalog.Identity, sql string, params ...*queryv1.Param) *queryv1.StatementResult {
	t.Helper()
	resp, err := c.Query().Execute(t.Context(), &queryv1.ExecuteRequest{Identity: catalog.IdentityToProto(id), Sql: sql, Params: params, Namespace: "app"})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if resp.GetError() != nil {
		t.Fatalf("%s: %v", sql, resp.GetError())
	}
	return resp.GetResults()[len(resp.GetResults())-1]
}

func integer(n int64) *queryv1.Param {
	return &queryv1.Param{Value: &queryv1.Param_Integer{Integer: n}}
}

// TestConcurrentUpdatesLoseNothing: UPDATE reads, computes and writes; every increment must count,
// whichever of the two ways computed it.
func TestConcurrentUpdatesLoseNothing(t *testing.T) {
	c := cluster.Start(t)
	run(t, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.counters (id INT PRIMARY KEY, n INT)")
	run(t, c, alice, "INSERT INTO counters VALUES (1, 0)")
	const workers, rounds = 4, 10
	updates := []string{"UPDATE counters SET n = n + 1 WHERE id = 1",
		"UPDATE counters SET n = n + length(md5('x')) - 31 WHERE id IN (SELECT id FROM counters)"}
	var done atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range rounds {
				_, err := c.Query().Execute(t.Context(), &queryv1.ExecuteRequest{Identity: catalog.IdentityToProto(alice),
					Sql: updates[w%len(updates)], Namespace: "app"})
				switch {
				case err == nil:
					done.Add(1)
				case !dberr.Is(err, dberr.Conflict): // giving up is allowed, losing an update is not
					t.Errorf("worker %d: %v", w, err)
				}
			}
		}()
	}
	wg.Wait()
	want := fmt.Sprintf("n:INT\n%d\n", done.Load())
	if got := resultText(t, run(t, c, alice, "SELECT n FROM counters")); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if done.Load() == 0 {
		t.Error("no update succeeded")
	}
}

func TestOneOfManyEqualInsertsWins(t *testing.T) {
	c := cluster.Start(t)
	run(t, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.t (id INT PRIMARY KEY, v INT)")
	var won atomic.Int64
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, err := c.Query().Execute(t.Context(), &queryv1.ExecuteRequest{Identity: catalog.IdentityToProto(alice),
				Sql: "INSERT INTO t VALUES ($1, $2)", Params: []*queryv1.Param{integer(1), integer(int64(w))}, Namespace: "app"})
			switch {
			case err == nil:
				won.Add(1)
			case !dberr.Is(err, dberr.PrimaryKeyViolation):
				t.Errorf("worker %d: %v", w, err)
			}
		}()
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d inserts of one key won", won.Load())
	}
}

// TestPreparedInsertFollowsTheTable: a text that was bound to a table must not write to it, nor to its
// columns' positions, after it was dropped and made again.
func TestPreparedInsertFollowsTheTable(t *testing.T) {
	c := cluster.Start(t)
	run(t, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.t (id INT PRIMARY KEY, a TEXT, b INT)")
	const insert = "INSERT INTO t (id, b) VALUES ($1, $2)"
	for i := range int64(3) {
		r := run(t, c, alice, insert, integer(i), integer(10*i))
		if r.GetRowCount() != 1 || r.GetMessage() != "Inserted 1 row(s)" || r.GetAsUser() != "alice" || r.GetPosition() == 0 ||
			r.GetDurability() != storagev1.Durability_DURABILITY_QUORUM || r.GetCommand() != "INSERT" {
			t.Fatalf("result %v", r)
		}
	}
	run(t, c, root, "DROP TABLE app.t; CREATE USER TABLE app.t (b BIGINT, id INT PRIMARY KEY)")
	run(t, c, alice, insert, integer(7), integer(70))
	if got := resultText(t, run(t, c, alice, "SELECT id, b FROM t")); got != "id:INT | b:BIGINT\n7 | 70\n" {
		t.Errorf("got %q", got)
	}
}

// TestReturningParameter: a value of RETURNING belongs to one call, not to the text.
func TestReturningParameter(t *testing.T) {
	c := cluster.Start(t)
	run(t, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.t (id INT PRIMARY KEY)")
	for i := range int64(3) {
		got := resultText(t, run(t, c, alice, "INSERT INTO t VALUES ($1) RETURNING id, id + $2 AS s", integer(i), integer(100*i)))
		if want := fmt.Sprintf("id:INT | s:INT\n%d | %d\nInserted 1 row(s)\n", i, 101*i); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	c := cluster.Start(t, cluster.Query(func(q *query.Config) {
		q.RowsMax, q.ResultBytesMax, q.SQLBytesMax = 5, 64<<10, 128<<10
	}))
	run(t, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.t (id INT PRIMARY KEY, v TEXT)")
	run(t, c, alice, "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 20) AS g(i)")
	if r := run(t, c, alice, "SELECT id FROM t"); r.GetRowCount() != 5 || !r.GetTruncated() {
		t.Errorf("%d rows, truncated %t", r.GetRowCount(), r.GetTruncated())
	}
	if r := run(t, c, alice, "SELECT id FROM t WHERE id <= 5"); r.GetRowCount() != 5 || r.GetTruncated() {
		t.Errorf("%d rows, truncated %t", r.GetRowCount(), r.GetTruncated())
	}
	long := make([]byte, 129<<10)
	for i := range long {
		long[i] = ' '
	}
	for sql, want := range map[string]dberr.Code{
		"SELECT repeat('x', 100000)": dberr.LimitExceeded,
		"SELECT 1" + string(long):    dberr.LimitExceeded,
		"INSERT INTO t SELECT i, 'x' FROM generate_series(100, 200100) AS g(i)": dberr.LimitExceeded,
		"SELECT $1": dberr.InvalidArgument,
	} {
		_, err := c.Query().Execute(t.Context(), &queryv1.ExecuteRequest{Identity: catalog.IdentityToProto(alice), Sql: sql, Namespace: "app"})
		if !dberr.Is(err, want) {
			t.Errorf("%.60s: %v, want %s", sql, err, want)
		}
	}
}

func BenchmarkPreparedInsert(b *testing.B) {
	c := cluster.Start(b)
	run(b, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.t (id BIGINT PRIMARY KEY, v TEXT)")
	text := &queryv1.Param{Value: &queryv1.Param_Text{Text: "Hello there"}}
	n := int64(0)
	for b.Loop() {
		n++
		run(b, c, alice, "INSERT INTO t (id, v) VALUES ($1, $2)", integer(n), text)
	}
}

func BenchmarkLiteralInsert(b *testing.B) {
	c := cluster.Start(b)
	run(b, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.t (id BIGINT PRIMARY KEY, v TEXT)")
	n := 0
	for b.Loop() {
		n++
		run(b, c, alice, fmt.Sprintf("INSERT INTO t (id, v) VALUES (%d, 'Hello there')", n))
	}
}
