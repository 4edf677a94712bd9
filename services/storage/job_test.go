package storage

import (
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// ended waits until a job has ended and returns it as ListJobs has it.
func (r *role) ended(id string) *catalogv1.Job {
	r.t.Helper()
	for {
		moved := r.node.catalog.Moved()
		resp, err := r.catalog.ListJobs(r.t.Context(), &catalogv1.ListJobsRequest{})
		if err != nil {
			r.t.Fatal(err)
		}
		for _, j := range resp.GetJobs() {
			if j.GetJobId() == id && catalog.JobEnded(j.GetStatus()) {
				return j
			}
		}
		select {
		case <-moved:
		case <-r.t.Context().Done():
			r.t.Fatalf("job %s has not ended: %v", id, resp.GetJobs())
		}
	}
}

func createJob(t *catalog.Table, id string) *catalogv1.Command {
	return &catalogv1.Command{Command: &catalogv1.Command_CreateJob{CreateJob: &catalogv1.CreateJob{Job: &catalogv1.Job{
		JobId: id, Type: catalog.JobFlush, Namespace: t.Namespace, TableName: t.Name, TableId: t.ID,
		IdempotencyKey: catalog.FlushKey(t.ID)}}}}
}

func TestJobsOutliveTheNode(t *testing.T) {
	dir := t.TempDir()
	r := start(t, Config{Dir: dir, NodeID: 3})
	table := r.createTable("notes", catalog.SharedTable)
	r.apply(createJob(table, "FL-000000000001"))
	if j := r.ended("FL-000000000001"); j.GetNodeId() != 3 || j.GetStatus() == catalogv1.JobStatus_JOB_STATUS_CANCELLED {
		t.Errorf("got %v", j)
	}
	r.node.jobs.Follow() // what another leader runs is not looked at here
	r.apply(createJob(table, "FL-000000000002"))
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_UpdateJob{UpdateJob: &catalogv1.UpdateJob{JobId: "FL-000000000002",
		Status: catalogv1.JobStatus_JOB_STATUS_RUNNING, NodeId: 9}}})
	r.stop()
	r = start(t, Config{Dir: dir, NodeID: 3})
	if j := r.ended("FL-000000000002"); j.GetNodeId() != 3 || j.GetStatus() == catalogv1.JobStatus_JOB_STATUS_CANCELLED {
		t.Errorf("got %v", j)
	}
	r.ended("FL-000000000001") // it is still told of
}
