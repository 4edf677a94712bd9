package sqltest

import (
	"fmt"
	"sync"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

// TestAlterUnderLoad: statements that meet an ALTER TABLE are bound again. None fails otherwise, none is done twice or by halves, and
// no row is lost or read as what it is not, whichever version it was written with and wherever it is.
func TestAlterUnderLoad(t *testing.T) {
	c := cluster.Start(t)
	run(t, c, root, "CREATE NAMESPACE app; CREATE USER TABLE app.t (id INT PRIMARY KEY, n INT, kept TEXT)")
	run(t, c, alice, "INSERT INTO t VALUES (0, 0, 'k')")
	const writers, rounds = 3, 40
	done := make(chan struct{}, writers*rounds) // as many as there are, so that writers never wait for a change
	var wg sync.WaitGroup
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range rounds {
				id := 1 + w*rounds + i
				for _, sql := range []string{fmt.Sprintf("INSERT INTO t (id, n, kept) VALUES (%d, 1, 'k')", id), "UPDATE t SET n = n + 1 WHERE id = 0",
					fmt.Sprintf("BEGIN; UPDATE t SET n = n + 1 WHERE id = %d; SELECT n FROM t WHERE id = %d; COMMIT", id, id),
					fmt.Sprintf("SELECT n, kept FROM t WHERE id = %d", id)} {
					if err := execute(t, c, alice, sql); err != nil {
						t.Errorf("%s: %v", sql, err)
					}
				}
				done <- struct{}{}
			}
		}()
	}
	for i := range writers * rounds / 2 { // changes fall among all the writes
		<-done
		<-done
		run(t, c, root, fmt.Sprintf("ALTER TABLE app.t ADD COLUMN x INT NOT NULL DEFAULT %d", i))
		if i%3 == 0 {
			flush(t, c)
		}
		const want = "wrong:BIGINT\n0\n"
		if got := resultText(t, run(t, c, alice, fmt.Sprintf("SELECT count(*) AS wrong FROM t WHERE x IS NULL OR x <> %d", i))); got != want {
			t.Errorf("rows that show another column's values: %q", got)
		}
		run(t, c, root, "ALTER TABLE app.t RENAME COLUMN x TO y; ALTER TABLE app.t DROP COLUMN y")
	}
	wg.Wait()
	want := fmt.Sprintf("c:BIGINT | lost:BIGINT\n%d | 0\n", writers*rounds)
	if got := resultText(t, run(t, c, alice, "SELECT count(*) AS c, count(*) FILTER (WHERE n <> 2 OR kept IS NULL) AS lost FROM t WHERE id > 0")); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := resultText(t, run(t, c, alice, "SELECT n FROM t WHERE id = 0")), fmt.Sprintf("n:INT\n%d\n", writers*rounds); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// execute runs a text again while the server gives up on it: rows are contended here, and the table never rests.
func execute(t *testing.T, c *cluster.Cluster, id catalog.Identity, sql string) error {
	for {
		resp, err := c.Query().Execute(t.Context(), &queryv1.ExecuteRequest{Identity: catalog.IdentityToProto(id), Sql: sql, Namespace: "app"})
		if err == nil && resp.GetError() != nil {
			err = dberr.FromMessage(resp.GetError())
		}
		if !dberr.Is(err, dberr.Conflict) && !dberr.Is(err, dberr.SchemaChanged) {
			return err
		}
	}
}
