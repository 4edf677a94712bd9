package systemtable

import (
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

func TestJobRow(t *testing.T) {
	def, ok := (&Tables{}).Lookup(System, "jobs")
	if !ok {
		t.Fatal("there is no table jobs")
	}
	row := func(j *catalogv1.Job) map[string]string {
		values := jobRow(j)
		if len(values) != len(def.Columns) {
			t.Fatalf("%d values for %d columns", len(values), len(def.Columns))
		}
		out := map[string]string{}
		for i, c := range def.Columns {
			if !values[i].IsNull() {
				out[c.Name] = datum.FormatText(values[i], c.Type)
			} else if c.NotNull {
				t.Errorf("%s is NULL in %v", c.Name, j)
			}
		}
		return out
	}
	check := func(got map[string]string, want map[string]string) {
		t.Helper()
		for name, value := range want {
			if got[name] != value {
				t.Errorf("%s is %q, want %q", name, got[name], value)
			}
		}
	}
	check(row(&catalogv1.Job{JobId: "FL-1", Type: "flush", Status: catalogv1.JobStatus_JOB_STATUS_NEW}),
		map[string]string{"status": "new", "message": "", "leader_node_id": "", "started_at": "", "result": "", "completed_at": ""})
	running := &catalogv1.Job{JobId: "FL-1", Type: "flush", Status: catalogv1.JobStatus_JOB_STATUS_RUNNING, StartedAtUs: 1, NodeId: 3,
		Progress: &catalogv1.JobProgress{UnitsDone: 1, UnitsTotal: 8, Rows: 5}}
	check(row(running), map[string]string{"status": "running", "message": "1 of 8 shards done, 5 rows so far", "node_id": "3",
		"leader_node_id": "3", "result": "", "finished_at": ""})
	ended := &catalogv1.Job{JobId: "FL-1", Type: "flush", Status: catalogv1.JobStatus_JOB_STATUS_COMPLETED, StartedAtUs: 1, FinishedAtUs: 2,
		Message: "flushed", Error: "once", Progress: running.GetProgress()}
	got := row(ended)
	check(got, map[string]string{"status": "completed", "message": "flushed", "result": "flushed", "exception_trace": "once"})
	if got["completed_at"] == "" || got["completed_at"] != got["finished_at"] {
		t.Errorf("completed at %q, finished at %q", got["completed_at"], got["finished_at"])
	}
}
