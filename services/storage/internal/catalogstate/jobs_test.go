package catalogstate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

func jobCommand(t testing.TB, i int) *catalogv1.Command {
	return text(t, fmt.Sprintf(`create_job { job { job_id: "FL-%012x" type: "flush" } }`, i), 1)
}

func cancelCommand(t testing.TB, i int) *catalogv1.Command {
	return text(t, fmt.Sprintf(`update_job { job_id: "FL-%012x" status: JOB_STATUS_CANCELLED }`, i), 1)
}

// mustAll applies commands as one batch and expects them to be done.
func (a *applier) mustAll(cmds ...*catalogv1.Command) {
	a.t.Helper()
	logs := make([]*raft.Log, 0, len(cmds))
	for _, c := range cmds {
		logs = append(logs, a.log(c))
	}
	for i, r := range a.state.Apply(logs) {
		if err := r.(*Result).Err; err != nil {
			a.t.Fatal(i, err)
		}
	}
}

func TestTheOldestEndedJobsAreForgotten(t *testing.T) {
	a := openState(t)
	var cmds []*catalogv1.Command
	for i := range jobsEndedMax + 2 {
		cmds = append(cmds, jobCommand(t, i))
	}
	cmds = append(cmds, cancelCommand(t, 5)) // the first to end, though not the lowest
	for i := range jobsEndedMax + 1 {
		if i != 5 {
			cmds = append(cmds, cancelCommand(t, i))
		}
	}
	a.mustAll(cmds...)
	jobs, more, err := a.state.Jobs("", 2*jobsEndedMax)
	if err != nil || more || len(jobs) != jobsEndedMax+1 {
		t.Fatalf("%d jobs, want %d and one that has not ended; %v", len(jobs), jobsEndedMax, err)
	}
	for _, j := range jobs {
		if j.GetJobId() == "FL-000000000005" {
			t.Error("the one that ended first is still there")
		}
	}
	open, err := a.state.OpenJobs()
	if err != nil || len(open) != 1 || open[0].GetJobId() != fmt.Sprintf("FL-%012x", jobsEndedMax+1) {
		t.Errorf("open %v, %v", open, err)
	}
}

func TestJobsThatWaitAreBounded(t *testing.T) {
	a := openState(t)
	var cmds []*catalogv1.Command
	for i := range jobsOpenMax {
		cmds = append(cmds, jobCommand(t, i))
	}
	a.mustAll(cmds...)
	if _, err := a.apply(jobCommand(t, jobsOpenMax)); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("one more: %v", err)
	}
	a.must(cancelCommand(t, 1))
	a.must(jobCommand(t, jobsOpenMax))
}

func TestTextsOfJobsAreBounded(t *testing.T) {
	a := openState(t)
	long := strings.Repeat("x", JobTextMax+1)
	c := jobCommand(t, 1)
	c.GetCreateJob().GetJob().Parameters = long
	if _, err := a.apply(c); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("long parameters: %v", err)
	}
	a.must(jobCommand(t, 1))
	c = cancelCommand(t, 1)
	c.GetUpdateJob().Message = long
	if _, err := a.apply(c); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("a long message: %v", err)
	}
}

// A program from before jobs computes its sum over the buckets it finds.
func TestACatalogThatHadNoJobHasNoBucketsOfThem(t *testing.T) {
	a := openState(t)
	if _, err := a.apply(cancelCommand(t, 1)); !dberr.Is(err, dberr.NotFound) {
		t.Fatal(err)
	}
	found := func() (n int) {
		err := a.state.view(func(tx *bbolt.Tx) error {
			for _, name := range [][]byte{bucketJobs, bucketJobsOpen, bucketJobsEnded} {
				if tx.Bucket(name) != nil {
					n++
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := found(); n != 0 {
		t.Errorf("%d buckets before the first job", n)
	}
	a.must(jobCommand(t, 1))
	if n := found(); n != 3 {
		t.Errorf("%d buckets after it", n)
	}
}

func TestASumCoversJobs(t *testing.T) {
	sum := func(cmds ...*catalogv1.Command) string {
		a := openState(t)
		a.mustAll(cmds...)
		a.must(text(t, `verify {}`, 9))
		s, err := a.state.Checksum(t.Context(), a.index)
		if err != nil {
			t.Fatal(err)
		}
		return s.Hash
	}
	first := sum(jobCommand(t, 1), cancelCommand(t, 1))
	if again := sum(jobCommand(t, 1), cancelCommand(t, 1)); again != first {
		t.Errorf("equal jobs: %s and %s", first, again)
	}
	cancel := cancelCommand(t, 1)
	cancel.GetUpdateJob().Message = "by root"
	if other := sum(jobCommand(t, 1), cancel); other == first {
		t.Error("a job's message is not part of the sum")
	}
}

func TestListJobsPagesAsOfNow(t *testing.T) {
	a := openState(t)
	s := NewService(a.state, catchingUp{barrier: func() error {
		if a.index == 0 {
			a.mustAll(jobCommand(t, 1), jobCommand(t, 2), jobCommand(t, 3))
		}
		return nil
	}}, nil, nil)
	var ids []string
	after, more := "", true
	for more {
		resp, err := s.ListJobs(t.Context(), &catalogv1.ListJobsRequest{AfterJobId: after, Limit: 2})
		if err != nil || len(resp.GetJobs()) == 0 {
			t.Fatal(resp, err)
		}
		for _, j := range resp.GetJobs() {
			ids, after = append(ids, j.GetJobId()), j.GetJobId()
		}
		more = resp.GetHasMore()
	}
	if got := strings.Join(ids, " "); got != "FL-000000000001 FL-000000000002 FL-000000000003" {
		t.Errorf("got %s", got)
	}
	s = NewService(a.state, catchingUp{barrier: func() error { return dberr.New(dberr.NotLeader, "elsewhere") }}, nil, nil)
	if got, err := s.ListJobs(t.Context(), &catalogv1.ListJobsRequest{}); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("of a node that does not lead: %v, %v", got, err)
	}
}
