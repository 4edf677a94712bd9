package exec

import (
	"fmt"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/services/query/internal/engine"
)

// Every keyword of the engine works as a name of a table, a column and a result.
func TestKeywordsOfTheEngineAreNames(t *testing.T) {
	f := chat(t, memory.DefaultAllocator)
	list, err := f.Engine.Query(t.Context(), engine.Statement{SQL: "SELECT DISTINCT keyword_name FROM duckdb_keywords()"})
	if err != nil {
		t.Fatal(err)
	}
	defer list.Release()
	words, err := readAll(t.Context(), list)
	if err != nil || len(words) < 100 {
		t.Fatalf("%d keywords, %v", len(words), err)
	}
	for _, w := range words {
		sql := fmt.Sprintf(`WITH "%[1]s" AS (SELECT id AS "%[1]s", 1 AS one FROM messages "%[1]s")
			SELECT "%[1]s"."%[1]s" + 1, "%[1]s"."%[1]s" AS "%[1]s", sum(one) OVER (PARTITION BY "%[1]s"."%[1]s") FROM "%[1]s" JOIN (SELECT 1 AS y) AS "x" ON true
			WHERE "%[1]s"."%[1]s" = 1 ORDER BY "%[1]s"`, w)
		if got, err := f.query(t, sql); err != nil || len(got) != 1 || got[0] != "2|1|1" {
			t.Errorf("%s: %q, %v", w, got, err)
		}
	}
}
