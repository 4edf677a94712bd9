package sqltest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

// attempt runs a text and returns the error of whatever statement failed.
func attempt(t *testing.T, c *cluster.Cluster, req *queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
	t.Helper()
	req.Identity, req.Namespace = catalog.IdentityToProto(alice), "app"
	resp, err := c.Query().Execute(t.Context(), req)
	if err == nil {
		err = dberr.FromMessage(resp.GetError())
	}
	return resp, err
}

// TestTransactionsAreSerializable: money is moved between accounts, and each transfer looks at both first; the sum never
// changes, seen by transactions and by statements, and no account that must not is overdrawn. Two transfers that
// each read what the other writes (write skew) could do that under snapshot isolation.
func TestTransactionsAreSerializable(t *testing.T) {
	c := cluster.Start(t)
	run(t, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.accounts (id INT PRIMARY KEY, v INT); CREATE USER TABLE app.moves (id BIGINT PRIMARY KEY, v INT)")
	run(t, c, alice, "INSERT INTO accounts VALUES (1, 50), (2, 50)")
	const workers, rounds = 4, 8
	var moved, gaveUp atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				// Each takes 10 from its own account if both together have 60 or more: the sum never gets below 50.
				text := fmt.Sprintf(`BEGIN;
					UPDATE accounts SET v = v - 10 WHERE id = %d AND (SELECT sum(v) FROM accounts) >= 60;
					INSERT INTO moves SELECT %d, -10 FROM accounts WHERE id = 1 AND (SELECT sum(v) FROM accounts) >= 50;
					SELECT (SELECT sum(v) FROM accounts) + 0 * count(*) FROM moves;
					COMMIT`, 1+w%2, w*1000+i)
				_, err := attempt(t, c, &queryv1.ExecuteRequest{Sql: text})
				switch {
				case err == nil:
					moved.Add(1)
				case dberr.Is(err, dberr.Conflict): // giving up is allowed
					gaveUp.Add(1)
				default:
					t.Errorf("worker %d: %v", w, err)
				}
			}
		})
	}
	wg.Wait()
	if got := resultText(t, run(t, c, alice, "SELECT sum(v) FROM accounts")); got != "sum:BIGINT\n50\n" {
		t.Errorf("%d transactions, %d gave up: %s", moved.Load(), gaveUp.Load(), got)
	}
	want := fmt.Sprintf("count:BIGINT\n%d\n", moved.Load())
	if got := resultText(t, run(t, c, alice, "SELECT count(*) FROM moves")); got != want {
		t.Errorf("%d transactions were committed, and wrote %s", moved.Load(), got)
	}
	if moved.Load() == 0 {
		t.Error("no transaction succeeded")
	}
}

// TestATransactionIsCommittedOnce: a request that is sent again is answered as the attempt that committed; what that one
// had read nobody knows any more.
func TestATransactionIsCommittedOnce(t *testing.T) {
	c := cluster.Start(t)
	run(t, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.t (id INT PRIMARY KEY, v INT)")
	run(t, c, alice, "INSERT INTO t VALUES (1, 0)")
	id := requestid.New()
	send := func(text string, repetition bool) (*queryv1.ExecuteResponse, error) {
		return attempt(t, c, &queryv1.ExecuteRequest{Sql: text, RequestId: id[:], Repetition: repetition})
	}
	text := "BEGIN; UPDATE t SET v = v + 1 WHERE id = 1 RETURNING v; INSERT INTO t VALUES (2, 7); DELETE FROM t WHERE id = 9; COMMIT"
	first, err := send(text, false)
	if err != nil {
		t.Fatal(err)
	}
	again, err := send(text, true)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range first.GetResults() {
		if got, want := resultText(t, again.GetResults()[i]), resultText(t, r); got != want || r.GetPosition() != again.GetResults()[i].GetPosition() {
			t.Errorf("statement %d: %q, then %q", i+1, want, got)
		}
	}
	if got := resultText(t, run(t, c, alice, "SELECT id, v FROM t")); got != "id:INT | v:INT\n1 | 1\n2 | 7\n" {
		t.Error(got)
	}
	id = requestid.New()
	text = "BEGIN; SELECT v FROM t WHERE id = 1; UPDATE t SET v = v + 1 WHERE id = 1; COMMIT"
	if _, err := send(text, false); err != nil {
		t.Fatal(err)
	}
	if _, err := send(text, true); !dberr.Is(err, dberr.ResultLost) {
		t.Errorf("what it read was lost: %v", err)
	}
	id = requestid.New()
	if _, err := send(text, true); err != nil {
		t.Errorf("a repetition whose first attempt never arrived: %v", err)
	}
	if got := resultText(t, run(t, c, alice, "SELECT v FROM t WHERE id = 1")); got != "v:INT\n3\n" {
		t.Error(got)
	}
}

// TestATransactionSeesNoHalf: a transaction that reads twice sees one moment, also when it writes nothing.
func TestATransactionSeesNoHalf(t *testing.T) {
	c := cluster.Start(t)
	run(t, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.a (id INT PRIMARY KEY, v INT); CREATE USER TABLE app.b (id INT PRIMARY KEY, v INT)")
	run(t, c, alice, "INSERT INTO a VALUES (1, 0); INSERT INTO b VALUES (1, 0)")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := attempt(t, c, &queryv1.ExecuteRequest{Sql: "BEGIN; UPDATE a SET v = v + 1 WHERE id = 1; UPDATE b SET v = v + 1 WHERE id = 1; COMMIT"}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	seen := 0
	for range 30 {
		resp, err := attempt(t, c, &queryv1.ExecuteRequest{Sql: "BEGIN; SELECT v FROM a; SELECT v FROM b; ROLLBACK"})
		if dberr.Is(err, dberr.Conflict) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		seen++
		if a, b := resultText(t, resp.GetResults()[1]), resultText(t, resp.GetResults()[2]); a != b {
			t.Errorf("a has %q and b %q", a, b)
		}
	}
	close(stop)
	wg.Wait()
	if seen == 0 {
		t.Error("no reading succeeded")
	}
}

// BenchmarkTransaction is two statements in one request, alone and as a transaction.
func BenchmarkTransaction(b *testing.B) {
	for _, c := range []struct{ name, begin, commit string }{{"two statements", "", ""}, {"transaction", "BEGIN; ", "; COMMIT"}} {
		b.Run(c.name, func(b *testing.B) {
			cl := cluster.Start(b)
			run(b, cl, root, "CREATE NAMESPACE app; CREATE USER TABLE app.t (id BIGINT PRIMARY KEY, v INT); CREATE USER TABLE app.u (id BIGINT PRIMARY KEY, v INT)")
			run(b, cl, alice, "INSERT INTO t VALUES (1, 0)")
			n := 0
			for b.Loop() {
				n++
				run(b, cl, alice, fmt.Sprintf("%sUPDATE t SET v = v + 1 WHERE id = 1; INSERT INTO u VALUES (%d, 1)%s", c.begin, n, c.commit))
			}
		})
	}
}
