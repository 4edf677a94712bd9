package sqltest

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

// asRoot runs statements and returns what they answer.
func asRoot(t *testing.T, c *cluster.Cluster, sql string) string {
	t.Helper()
	resp, err := c.Query().Execute(t.Context(), &queryv1.ExecuteRequest{Sql: sql,
		Identity: &catalogv1.Identity{UserId: "root", Role: catalogv1.Role_ROLE_SYSTEM}})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, r := range resp.GetResults() {
		if len(r.GetArrowIpc()) > 0 {
			out.WriteString(rowsText(t, r.GetArrowIpc()))
		} else {
			out.WriteString(r.GetMessage() + "\n")
		}
	}
	return out.String()
}

// endOf asks until a job has ended and returns its status.
func endOf(t *testing.T, c *cluster.Cluster, id string) string {
	t.Helper()
	for {
		rows := asRoot(t, c, "SELECT status FROM system.jobs WHERE job_id = '"+id+"' AND finished_at IS NOT NULL AND completed_at = finished_at")
		if _, status, found := strings.Cut(strings.TrimSpace(rows), "\n"); found {
			return status
		}
	}
}

// fileBytes depends on how well Parquet compresses.
var fileBytes = regexp.MustCompile(`[0-9]+ bytes`)

// jobs runs statements that start jobs, waits for each, and shows what came of them in the order they were started.
func jobs(t *testing.T, c *cluster.Cluster, d *datadriven.TestData) string {
	answer := asRoot(t, c, d.Input)
	var out strings.Builder
	out.WriteString(jobID.ReplaceAllString(answer, "$1-…"))
	for _, id := range jobID.FindAllString(answer, -1) {
		status := endOf(t, c, id)
		_, result, _ := strings.Cut(strings.TrimSpace(asRoot(t, c, "SELECT message FROM system.jobs WHERE job_id = '"+id+"'")), "\n")
		fmt.Fprintf(&out, "%s: %s\n", status, fileBytes.ReplaceAllString(result, "… bytes"))
	}
	return out.String()
}

func TestAFlushMovesRowsAndMayBeginAgain(t *testing.T) {
	c := cluster.Start(t)
	asRoot(t, c, "CREATE NAMESPACE app; CREATE USER TABLE app.a (id INT PRIMARY KEY); CREATE TABLE app.b (id INT PRIMARY KEY) WITH (TYPE = 'SHARED')")
	asRoot(t, c, "INSERT INTO app.a VALUES (1), (2), (3); INSERT INTO app.b VALUES (4)")
	for _, want := range []string{"completed", "skipped"} {
		ids := jobID.FindAllString(asRoot(t, c, "STORAGE FLUSH ALL IN app"), -1)
		if len(ids) != 2 {
			t.Fatalf("jobs %v", ids)
		}
		for _, id := range ids {
			if status := endOf(t, c, id); status != want {
				t.Errorf("job %s is %s, want %s: %s", id, status, want, asRoot(t, c, "SHOW JOBS"))
			}
		}
		answer := asRoot(t, c, "SELECT count(*) AS n FROM system.jobs WHERE started_at IS NULL OR leader_node_id <> node_id")
		if answer != "n:BIGINT\n0\n" {
			t.Errorf("jobs that ended and were never begun: %s", answer)
		}
		if rows := asRoot(t, c, "SELECT id FROM app.a UNION ALL SELECT id FROM app.b ORDER BY id"); rows != "id:INT\n1\n2\n3\n4\n" {
			t.Errorf("rows after the flush: %s", rows)
		}
	}
	messages := asRoot(t, c, "SELECT regexp_replace(result, '\\(.*\\)', '(…)') AS r FROM system.jobs ORDER BY r")
	want := "r:TEXT\nflushed 1 rows of 1 partitions into 1 segments (…)\nflushed 3 rows of 1 partitions into 1 segments (…)\nno pending writes\nno pending writes\n"
	if messages != want {
		t.Errorf("got %s, want %s", messages, want)
	}
}
