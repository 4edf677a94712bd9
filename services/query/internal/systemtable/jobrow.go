package systemtable

import (
	"context"
	"fmt"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// jobs pages through the catalog: query nodes have no copy of its jobs.
func (t *Tables) jobs(catalog.Identity) pager {
	after, more := "", true
	return func(ctx context.Context) ([][]datum.Datum, error) {
		if !more {
			return nil, nil
		}
		resp, err := t.cfg.Catalog.Client().ListJobs(ctx, &catalogv1.ListJobsRequest{AfterJobId: after, Limit: pageRows})
		if err != nil {
			return nil, err
		}
		jobs := resp.GetJobs()
		more = resp.GetHasMore() && len(jobs) > 0
		out := make([][]datum.Datum, 0, len(jobs))
		for _, j := range jobs {
			out = append(out, jobRow(j))
			after = j.GetJobId()
		}
		return out, nil
	}
}

// jobRow is a job's row. Jobs run on the leader of the catalog, so who runs one is its leader. There are no queues and
// priorities, and nobody counts what a job uses.
func jobRow(j *catalogv1.Job) []datum.Datum {
	message, result, leader := j.GetMessage(), datum.Null, datum.Null
	if p := j.GetProgress(); j.GetStatus() == catalogv1.JobStatus_JOB_STATUS_RUNNING && p.GetUnitsTotal() > 0 {
		message = fmt.Sprintf("%d of %d shards done, %d rows so far", p.GetUnitsDone(), p.GetUnitsTotal(), p.GetRows())
		if catalog.JobErases(j.GetType()) {
			message = fmt.Sprintf("%d of %d nodes have removed the user's bytes", p.GetUnitsDone(), p.GetUnitsTotal())
		}
	}
	if catalog.JobEnded(j.GetStatus()) {
		result = datum.TextOrNull(message)
	}
	if j.GetStartedAtUs() != 0 {
		leader = datum.Int(int64(j.GetNodeId()))
	}
	return []datum.Datum{datum.Text(j.GetJobId()), datum.Text(j.GetType()), datum.Text(catalog.JobStatusName(j.GetStatus())),
		datum.Null, datum.TextOrNull(j.GetParameters()), datum.TextOrNull(message), datum.TextOrNull(j.GetError()),
		datum.TextOrNull(j.GetIdempotencyKey()), datum.Null, datum.Null, datum.Int(int64(j.GetRetryCount())),
		datum.Int(int64(j.GetMaxRetries())), datum.Null, datum.Null, datum.Timestamp(j.GetCreatedAtUs()),
		datum.Timestamp(j.GetUpdatedAtUs()), moment(j.GetStartedAtUs()), moment(j.GetFinishedAtUs()),
		datum.Int(int64(j.GetNodeId())), leader, result, moment(j.GetFinishedAtUs())}
}
