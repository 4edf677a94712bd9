package plan

import (
	"context"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/engine"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// TestNamesOfCTEsMeanCTEs plans statements that name a table #. Either planning refuses to let it through,
// or the engine finds a CTE of that name: it must never look among its own tables and files.
func TestNamesOfCTEsMeanCTEs(t *testing.T) {
	e, err := engine.New(engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	for _, c := range []struct {
		sql  string
		runs bool
	}{
		{"WITH RECURSIVE # AS (SELECT * FROM #) SELECT * FROM #", false},
		{"WITH # AS (SELECT * FROM #) SELECT * FROM #", false},
		{"WITH RECURSIVE # AS (SELECT * FROM # UNION SELECT 1) SELECT * FROM #", false},
		{"WITH RECURSIVE # AS (SELECT * FROM # EXCEPT SELECT * FROM #) SELECT * FROM #", false},
		{"WITH RECURSIVE # AS (SELECT 1 INTERSECT SELECT * FROM #) SELECT * FROM #", false},
		{"WITH RECURSIVE # AS (SELECT 1 UNION SELECT * FROM # UNION SELECT * FROM #) SELECT * FROM #", false},
		{"WITH RECURSIVE # AS (SELECT 1 UNION SELECT 2 ORDER BY (SELECT count(*) FROM #)) SELECT * FROM #", false},
		{"WITH RECURSIVE # AS (SELECT 1 UNION SELECT 2 LIMIT (SELECT count(*) FROM #)) SELECT * FROM #", false},
		{"WITH RECURSIVE # AS (WITH x AS (SELECT * FROM #) SELECT 1 UNION SELECT * FROM x) SELECT * FROM #", false},
		{"WITH RECURSIVE # AS (SELECT * FROM (WITH # AS (SELECT * FROM #) SELECT * FROM #) q) SELECT 1", false},
		{"WITH RECURSIVE a AS (SELECT 1 UNION SELECT * FROM #), # AS (SELECT 2) SELECT * FROM a", false},
		{"WITH RECURSIVE # AS ((SELECT * FROM #)) SELECT * FROM #", false},
		{"WITH RECURSIVE # AS (SELECT 1 WHERE EXISTS (SELECT * FROM #)) SELECT * FROM #", false},
		{"WITH RECURSIVE # AS (SELECT * FROM (SELECT 1 UNION SELECT * FROM #) q) SELECT * FROM #", false},
		{"SELECT * FROM (WITH # AS (SELECT 1) SELECT * FROM #) q, #", false},
		{"SELECT 1 UNION (WITH # AS (SELECT 1) SELECT * FROM #) UNION SELECT * FROM #", false},
		{"WITH a AS (WITH # AS (SELECT 1) SELECT * FROM #) SELECT * FROM a, #", false},

		{"WITH # AS (SELECT 1) SELECT * FROM #", true},
		{"WITH RECURSIVE # AS (SELECT 1) SELECT * FROM #", true},
		{"WITH RECURSIVE #(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM # WHERE i < 3) SELECT * FROM #", true},
		{"WITH RECURSIVE #(i) AS (SELECT 1 UNION (WITH x AS (SELECT * FROM #) SELECT i FROM x)) SELECT * FROM #", true},
		{"WITH RECURSIVE #(i) AS (SELECT 1 UNION SELECT q.i FROM (SELECT i FROM #) q JOIN # m ON m.i = q.i) SELECT * FROM #", true},
		{"WITH RECURSIVE #(i) AS (SELECT 1 UNION SELECT i FROM # UNION ALL SELECT 2) SELECT * FROM #", false},
		{"WITH RECURSIVE #(i) AS (SELECT 1 UNION (SELECT i FROM # UNION SELECT i FROM #)) SELECT * FROM #", true},
		{"WITH RECURSIVE #(i) AS (SELECT 1 UNION SELECT i FROM #), m AS (SELECT * FROM #) SELECT * FROM m, #", true},
		{"WITH # AS (SELECT 1 AS i) SELECT (SELECT max(i) FROM #), i FROM # WHERE i IN (SELECT i FROM #) LIMIT (SELECT max(i) FROM #)", true},
		{"WITH # AS (SELECT 1 AS i) SELECT * FROM #, LATERAL (SELECT i FROM #) q ORDER BY (SELECT max(i) FROM #)", true},
		{"WITH # AS (SELECT 1 AS i) SELECT * FROM # UNION SELECT * FROM # ORDER BY 1", true},
		{"WITH # AS (SELECT 1 AS i), m AS (SELECT * FROM #) SELECT * FROM m JOIN # ON m.i = #.i", true},
	} {
		text := strings.ReplaceAll(c.sql, "#", "kalam_nowhere")
		err := planAndRun(t, e, text)
		switch {
		case c.runs && err != nil:
			t.Errorf("%s: %v", text, err)
		case !c.runs && !dberr.Is(err, dberr.TableNotFound):
			t.Errorf("%s: got %v, want that the table does not exist", text, err)
		case err != nil && strings.Contains(err.Error(), "Table with name"):
			t.Errorf("%s: the engine looked for a table: %v", text, err)
		}
	}
}

// TestAShadowedCTEIsNotATableOfTheEngine uses the name of a table the engine does have.
func TestAShadowedCTEIsNotATableOfTheEngine(t *testing.T) {
	e, err := engine.New(engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	for _, inner := range []string{
		"WITH RECURSIVE pg_settings AS (SELECT * FROM pg_settings) SELECT * FROM pg_settings",
		"WITH pg_settings AS (SELECT * FROM pg_settings) SELECT * FROM pg_settings",
		"WITH RECURSIVE pg_settings AS (SELECT * FROM pg_settings UNION SELECT * FROM pg_settings) SELECT * FROM pg_settings",
		"WITH RECURSIVE pg_settings AS (SELECT * FROM pg_settings EXCEPT SELECT 2) SELECT * FROM pg_settings",
	} {
		text := "WITH pg_settings AS (SELECT 1 AS name) SELECT name + 1 FROM (" + inner + ") q"
		if err := planAndRun(t, e, text); err != nil {
			t.Errorf("%s: %v", text, err) // name is text in the engine's table, and text plus 1 is an error
		}
	}
}

func planAndRun(t *testing.T, e *engine.Engine, text string) error {
	t.Helper()
	list, err := sqlfront.Parse(text, sqlfront.Limits{})
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	planner, err := NewPlanner(systemtable.New(systemtable.Config{}))
	if err != nil {
		t.Fatal(err)
	}
	p, err := planner.Plan(&catalogview.State{}, &Env{Namespace: "app"}, list[0].(*sqlfront.Select))
	if err != nil {
		return err
	}
	rows, err := e.Query(t.Context(), engine.Statement{SQL: p.SQL})
	if err != nil {
		return err
	}
	rows.Release()
	return nil
}
