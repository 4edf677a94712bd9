package job

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	// backoffFirst is the pause before a job is tried again; it grows fourfold up to backoffMax. Calls to shards try for
	// seconds themselves, so what failed is not over in a moment.
	backoffFirst = time.Second
	backoffMax   = time.Minute
	// endlessPause is the longest pause before a job is tried again that nothing but success ends.
	endlessPause = 10 * time.Second
	// lookAgain is the pause after the catalog could not be read or written.
	lookAgain = time.Second
)

// term is what runs while this node leads. Its loop alone touches it.
type term struct {
	cfg     Config
	count   *atomic.Int64
	running map[string]context.CancelFunc
	// ended are ids of jobs that run no longer. It has room for all that run: nobody waits to say so.
	ended chan string
	work  sync.WaitGroup
}

func (t *term) run(ctx context.Context) {
	defer t.work.Wait() // ctx ends them
	for {
		var again <-chan time.Time
		if wait := t.round(ctx); wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-t.cfg.Catalog.JobsMoved():
		case id := <-t.ended:
			t.running[id]() // frees its context
			delete(t.running, id)
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// round begins what can begin and ends what shall not run any more. It returns when to look again though nothing has
// moved; 0 is never.
//
// The oldest job comes first. That is fair between tables, as each has one job of a type at a time, and one that waits to
// be tried again takes no place.
func (t *term) round(ctx context.Context) (wait time.Duration) {
	open, err := t.cfg.Catalog.OpenJobs()
	if err != nil {
		t.cfg.Logger.WarnContext(ctx, "list jobs", "error", err)
		return lookAgain
	}
	t.cancelEnded(open)
	now := t.cfg.Now()
	for _, j := range open {
		id := j.GetJobId()
		if _, runs := t.running[id]; runs {
			continue
		}
		pause := pauseOf(j, now)
		if pause <= 0 && len(t.running) == jobsRunningMax {
			pause = t.queue(ctx, j)
		} else if pause <= 0 {
			t.begin(ctx, j)
		}
		if pause > 0 && (wait == 0 || pause < wait) {
			wait = pause
		}
	}
	return wait
}

// cancelEnded cuts short what was cancelled while it ran.
func (t *term) cancelEnded(open []*catalogv1.Job) {
	has := make(map[string]bool, len(open))
	for _, j := range open {
		has[j.GetJobId()] = true
	}
	for id, cancel := range t.running {
		if !has[id] {
			cancel()
		}
	}
}

// pauseOf is how long a job still has to wait before it is tried again. The catalog says when it failed, by the clock of who
// led then, so no more than the whole pause is believed.
func pauseOf(j *catalogv1.Job, now time.Time) time.Duration {
	if j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_RETRYING {
		return 0
	}
	whole := backoff(j.GetRetryCount())
	if endless(j) { // a node that comes back is not to be waited for much longer
		whole = min(whole, endlessPause)
	}
	return min(whole-now.Sub(time.UnixMicro(j.GetUpdatedAtUs())), whole)
}

func backoff(retry uint32) time.Duration {
	d := backoffFirst
	for i := uint32(1); i < retry; i++ {
		if d *= 4; d >= backoffMax {
			return backoffMax
		}
	}
	return d
}

// queue tells of a new job that there is no place for it, once.
func (t *term) queue(ctx context.Context, j *catalogv1.Job) (again time.Duration) {
	if j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_NEW {
		return 0
	}
	err := t.record(ctx, &catalogv1.UpdateJob{JobId: j.GetJobId(), Status: catalogv1.JobStatus_JOB_STATUS_QUEUED})
	if err != nil && ctx.Err() == nil {
		t.cfg.Logger.WarnContext(ctx, "record that a job waits", "job", j.GetJobId(), "error", err)
		return lookAgain
	}
	return 0
}

func (t *term) begin(ctx context.Context, j *catalogv1.Job) {
	ctx, t.running[j.GetJobId()] = context.WithCancel(ctx)
	t.count.Add(1)
	t.work.Go(func() {
		defer t.count.Add(-1)
		t.execute(ctx, j)
		t.ended <- j.GetJobId()
	})
}

// what names a job in the log of the node.
func what(j *catalogv1.Job) []any {
	return []any{"job", j.GetJobId(), "type", j.GetType(), "table", j.GetNamespace() + "." + j.GetTableName(),
		"status", catalog.JobStatusName(j.GetStatus())}
}
