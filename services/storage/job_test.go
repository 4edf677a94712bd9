package storage

import (
	"context"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
)

// jobWait bounds waiting for a job, elections included.
const jobWait = time.Minute

// endOf waits until a node knows that a job has ended.
func endOf(t *testing.T, node *Storage, id string) *catalogv1.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), jobWait)
	defer cancel()
	for {
		moved := node.catalog.Moved()
		jobs, _, err := node.catalog.Jobs("", 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs {
			if j.GetJobId() == id && catalog.JobEnded(j.GetStatus()) {
				return j
			}
		}
		select {
		case <-moved:
		case <-ctx.Done():
			t.Fatalf("job %s has not ended: %v", id, jobs)
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
	if j := endOf(t, r.node, "FL-000000000001"); j.GetNodeId() != 3 || j.GetStatus() == catalogv1.JobStatus_JOB_STATUS_CANCELLED {
		t.Errorf("got %v", j)
	}
	r.node.jobs.Follow() // what another leader runs is not looked at here
	r.apply(createJob(table, "FL-000000000002"))
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_UpdateJob{UpdateJob: &catalogv1.UpdateJob{JobId: "FL-000000000002",
		Status: catalogv1.JobStatus_JOB_STATUS_RUNNING, NodeId: 9}}})
	r.stop()
	r = start(t, Config{Dir: dir, NodeID: 3})
	if j := endOf(t, r.node, "FL-000000000002"); j.GetNodeId() != 3 || j.GetStatus() == catalogv1.JobStatus_JOB_STATUS_CANCELLED {
		t.Errorf("got %v", j)
	}
	endOf(t, r.node, "FL-000000000001") // it is still told of
}

func TestTheNextLeaderOfTheCatalogRunsTheJobs(t *testing.T) {
	c := newCluster(t, 3)
	c.start(1, 2, 3)
	c.until("three voters in each group", spread(3))
	table := c.createTable("notes")
	leader := c.leaderOf(catalogGroup)
	c.nodes[leader].node.jobs.Follow() // it dies before it begins
	_, err := catalogv1.NewCatalogServiceClient(c.router.Catalog()).Apply(t.Context(), &catalogv1.ApplyRequest{Command: createJob(table, "FL-000000000001")})
	if err != nil {
		t.Fatal(err)
	}
	c.stop(leader)
	for _, id := range c.up() {
		j := endOf(t, c.nodes[id].node, "FL-000000000001")
		if j.GetNodeId() == uint32(leader) || j.GetNodeId() == 0 || j.GetStatus() == catalogv1.JobStatus_JOB_STATUS_CANCELLED {
			t.Errorf("node %d knows %v, and node %d was stopped", id, j, leader)
		}
	}
	c.start(leader)
	endOf(t, c.nodes[leader].node, "FL-000000000001")
	c.until("a sum of the catalog from every replica", func(*clusterv1.StatusResponse) bool { // who asks still has to find the node that came back
		verified, err := clusterv1.NewClusterServiceClient(c.router.Catalog()).Verify(t.Context(), &clusterv1.VerifyRequest{})
		sums := map[string]bool{}
		counted := 0
		for _, g := range verified.GetGroups() {
			for _, r := range g.GetReplicas() {
				if g.GetGroup() == catalogGroup && r.GetSum() != "" {
					sums[r.GetSum()] = true
					counted++
				}
			}
		}
		if len(sums) > 1 {
			t.Fatalf("the replicas of the catalog differ: %v", verified.GetGroups())
		}
		return err == nil && counted == 3
	})
}
