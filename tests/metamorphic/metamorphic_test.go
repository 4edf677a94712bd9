package metamorphic

import (
	"flag"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/storage"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

var (
	statements = flag.Int("statements", 400, "statements of each seed")
	seeds      = flag.Int("seeds", 2, "how many seeds, from -seed on")
	seed       = flag.Uint64("seed", 20261124, "the first seed")
)

// configuration is how one cluster is made, and what happens behind statement number n.
type configuration struct {
	name   string
	tables func(sql string) string
	start  []cluster.Option
	behind func(t *testing.T, c *cluster.Cluster, n int)
}

func nothing(*testing.T, *cluster.Cluster, int) {}

func flushEvery(times int) func(*testing.T, *cluster.Cluster, int) {
	return func(t *testing.T, c *cluster.Cluster, n int) {
		if n%times == 0 {
			c.Flush(t)
		}
	}
}

func segmentRows(n int) cluster.Option {
	return cluster.Storage(func(cfg *storage.Config) { cfg.SegmentRows = n })
}

// withPolicy adds a clause to every CREATE TABLE.
func withPolicy(clause string) func(string) string {
	return func(sql string) string {
		if strings.Contains(sql, " TABLE ") {
			return sql + clause
		}
		return sql
	}
}

func asIs(sql string) string { return sql }

// configurations: the first one is what the others are compared with.
var configurations = []configuration{
	{"hot", asIs, nil, nothing},
	{"flush after each statement", asIs, nil, flushEvery(1)},
	{"flush now and then", asIs, nil, flushEvery(13)},
	{"segments of two rows", asIs, []cluster.Option{segmentRows(2)}, flushEvery(3)},
	{"a policy of one row", withPolicy(" FLUSH ROW_THRESHOLD 1"), []cluster.Option{quickly}, nothing},
	{"a policy of five rows", withPolicy(" FLUSH ROW_THRESHOLD 5"), []cluster.Option{quickly}, nothing},
	{"no memory for row groups", asIs, []cluster.Option{cluster.Storage(func(cfg *storage.Config) { cfg.SegmentCacheBytes = 1 })}, flushEvery(2)},
	{"three nodes", asIs, []cluster.Option{cluster.Nodes(3)}, nothing},
	{"three nodes, flush after every other statement", asIs, []cluster.Option{cluster.Nodes(3)}, flushEvery(2)},
	{"in a storage, with a cache of one file", inStorage, []cluster.Option{smallCache}, flushEvery(5)},
	{"from one storage to the next", inStorage, []cluster.Option{cluster.Nodes(3)}, moveEvery(20)},
}

// smallCache keeps no more than the file that was fetched last.
var smallCache = cluster.Storage(func(cfg *storage.Config) { cfg.RemoteCacheBytes = 1 })

// inStorage has all segments go to a storage besides local. There is another.
func inStorage(sql string) string {
	switch {
	case strings.HasPrefix(sql, "CREATE NAMESPACE"):
		return sql + "; CREATE STORAGE x TYPE filesystem PATH '$DIR/x'; CREATE STORAGE y TYPE filesystem PATH '$DIR/y/${namespace}/by-${user_id}'"
	case strings.Contains(sql, " TABLE "):
		return sql + " STORAGE x"
	}
	return sql
}

// moveEvery flushes, and has the tables' segments go from place to place.
func moveEvery(times int) func(*testing.T, *cluster.Cluster, int) {
	return func(t *testing.T, c *cluster.Cluster, n int) {
		if n%3 == 0 {
			c.Flush(t)
		}
		if n%times != 0 {
			return
		}
		to := []string{"y", "local", "x"}[n/times%3]
		for _, table := range []string{"notes", "pairs", "rooms", "wide"} {
			if answer := execute(t, c, Statement{User: "root", SQL: "ALTER TABLE app." + table + " SET STORAGE " + to}); strings.HasPrefix(answer, "error") {
				t.Fatal(answer)
			}
		}
	}
}

// quickly looks at policies all the time.
var quickly = cluster.Storage(func(cfg *storage.Config) { cfg.FlushCheckInterval = 1_000_000 })

func TestAnswersDoNotDependOnWhereRowsAre(t *testing.T) {
	for n := range *seeds {
		s := *seed + uint64(n)
		t.Run(fmt.Sprint(s), func(t *testing.T) { compare(t, s) })
	}
}

func compare(t *testing.T, seed uint64) {
	clusters := make([]*cluster.Cluster, len(configurations))
	for i, cfg := range configurations {
		clusters[i] = cluster.Start(t, cfg.start...)
		dir := t.TempDir()
		for _, sql := range tables {
			sql = strings.ReplaceAll(cfg.tables(sql), "$DIR", dir)
			if answer := execute(t, clusters[i], Statement{User: "root", SQL: sql}); strings.Contains(answer, "error") {
				t.Fatalf("%s: %s", sql, answer)
			}
		}
	}
	g, fine := newGenerator(seed), 0
	for n := range *statements {
		s := g.next()
		want := execute(t, clusters[0], s)
		if !strings.Contains(want, "error") {
			fine++
		}
		for i := 1; i < len(configurations); i++ {
			if got := execute(t, clusters[i], s); got != want {
				t.Fatalf("seed %d, statement %d of %s: %s\n%s:\n%s\n%s:\n%s", seed, n, s.User, s.SQL, configurations[i].name, got, configurations[0].name, want)
			}
			configurations[i].behind(t, clusters[i], n)
		}
	}
	if fine < *statements/2 {
		t.Errorf("only %d of %d statements succeeded", fine, *statements)
	}
}

// numbers are what may differ: a _seq in a message.
var numbers = regexp.MustCompile(`\b\d{15,}\b`)

// execute runs a statement and returns all it answers: a table row by row, a message, or the error.
func execute(t *testing.T, c *cluster.Cluster, s Statement) string {
	t.Helper()
	id := catalog.Identity{UserID: s.User, Role: catalog.RoleUser}
	if s.User == "root" {
		id.Role = catalog.RoleSystem
	}
	resp, err := c.Query().Execute(t.Context(), &queryv1.ExecuteRequest{Identity: catalog.IdentityToProto(id), Sql: s.SQL, Namespace: "app"})
	if err != nil {
		return numbers.ReplaceAllString(fmt.Sprintf("error %s: %v", dberr.CodeOf(err), err), "…")
	}
	var out strings.Builder
	for _, r := range resp.GetResults() {
		fmt.Fprintf(&out, "%s %d\n", r.GetMessage(), r.GetRowCount())
		writeRows(t, &out, r.GetArrowIpc())
	}
	if e := resp.GetError(); e != nil {
		fmt.Fprintf(&out, "error %s: %s", e.GetCode(), e.GetMessage())
	}
	return numbers.ReplaceAllString(out.String(), "…")
}

func writeRows(t *testing.T, out *strings.Builder, data []byte) {
	t.Helper()
	if len(data) == 0 {
		return
	}
	schema, batches, err := rowbatch.Decode(memory.DefaultAllocator, data, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	columns := rowbatch.ColumnsOf(schema)
	for _, b := range batches {
		for i := range int(b.NumRows()) {
			for c := range columns {
				if columns[c].Name == catalog.SeqColumn || columns[c].Name == catalog.UpdatedColumn {
					continue // of the time
				}
				fmt.Fprintf(out, "%s=%s ", columns[c].Name, text(rowbatch.DatumAt(b.Column(c), i, columns[c].Type), columns[c].Type))
			}
			out.WriteByte('\n')
		}
		b.Release()
	}
}

func text(d datum.Datum, t catalog.Type) string {
	if d.IsNull() {
		return "NULL"
	}
	return datum.FormatText(d, t)
}
