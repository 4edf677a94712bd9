package job

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	"github.com/kalamdb/kalamdb-go/internal/pause"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
)

const (
	// recordTimeout bounds one command of the catalog.
	recordTimeout = 5 * time.Second
	// progressEvery is how often progress is recorded at most: each record is an entry of the catalog's log.
	progressEvery = time.Second
	// shardTimeout bounds what one shard may take: it has one partition after the other written and made durable.
	shardTimeout = 10 * time.Minute
)

// execute runs one attempt of a job and records what came of it. A job that was cancelled, or whose runner no longer
// leads, is left as the catalog has it.
func (t *term) execute(ctx context.Context, j *catalogv1.Job) {
	progress := &catalogv1.JobProgress{}
	if j.GetProgress() != nil {
		progress = proto.CloneOf(j.GetProgress())
		progress.UnitsDone = 0 // of this attempt
	}
	if !t.insist(ctx, &catalogv1.UpdateJob{JobId: j.GetJobId(), Status: catalogv1.JobStatus_JOB_STATUS_RUNNING,
		NodeId: t.cfg.NodeID, Progress: proto.CloneOf(progress)}) {
		return
	}
	end, err := t.do(ctx, j, progress)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		end = failure(j, err)
	}
	end.JobId, end.Progress = j.GetJobId(), progress
	if t.insist(ctx, end) {
		j.Status = end.GetStatus()
		t.cfg.Logger.InfoContext(ctx, "job", append(what(j), "message", end.GetMessage(), "error", end.GetError())...)
	}
}

// insist records, again and again until the catalog takes it: doing the work anew would take longer, and not know what was
// done. It returns false when the job was cancelled meanwhile, which is why the catalog refuses what is said of it, or ctx
// has ended.
func (t *term) insist(ctx context.Context, u *catalogv1.UpdateJob) bool {
	for {
		err := t.record(ctx, u)
		if err == nil {
			return true
		}
		if dberr.Is(err, dberr.InvalidOperation) || dberr.Is(err, dberr.NotFound) || ctx.Err() != nil {
			return false
		}
		t.cfg.Logger.WarnContext(ctx, "record what a job does", "job", u.GetJobId(), "error", err)
		if pause.For(ctx, lookAgain) != nil {
			return false
		}
	}
}

// failure is what an error makes of a job.
func failure(j *catalogv1.Job, err error) *catalogv1.UpdateJob {
	text := err.Error()
	text = strings.ToValidUTF8(text[:min(len(text), catalogstate.JobTextMax)], "")
	if endless(j) || transient(err) && j.GetRetryCount() < j.GetMaxRetries() {
		return &catalogv1.UpdateJob{Status: catalogv1.JobStatus_JOB_STATUS_RETRYING, Error: text}
	}
	return &catalogv1.UpdateJob{Status: catalogv1.JobStatus_JOB_STATUS_FAILED, Error: text}
}

// transient reports whether another attempt may succeed without anybody doing anything.
func transient(err error) bool {
	switch dberr.CodeOf(err) {
	case dberr.Unavailable, dberr.NotLeader, dberr.Timeout:
		return true
	}
	return false
}

// record tells the catalog.
func (t *term) record(ctx context.Context, u *catalogv1.UpdateJob) error {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	_, err := t.cfg.Commands.Apply(ctx, &catalogv1.ApplyRequest{Command: &catalogv1.Command{TimeUs: t.cfg.Now().UnixMicro(),
		Command: &catalogv1.Command_UpdateJob{UpdateJob: u}}})
	return err
}

// do does the work of a job: it asks every shard that can hold rows of the table, one after the other. Jobs of other tables run
// beside it. p is told how far it is.
func (t *term) do(ctx context.Context, j *catalogv1.Job, p *catalogv1.JobProgress) (*catalogv1.UpdateJob, error) {
	if catalog.JobErases(j.GetType()) {
		return t.erase(ctx, j, p)
	}
	if w, ok := t.cfg.Whole[j.GetType()]; ok {
		return t.whole(ctx, w, j, p)
	}
	k, ok := kinds[j.GetType()]
	if !ok {
		return nil, dberr.New(dberr.Unsupported, "node %d, which leads the catalog, knows no jobs of type %q", t.cfg.NodeID, j.GetType())
	}
	table, ok := t.cfg.Catalog.Table(j.GetTableId())
	if !ok {
		return nil, dberr.New(dberr.TableNotFound, "table %s.%s does not exist any more", j.GetNamespace(), j.GetTableName())
	}
	_, n := t.cfg.Catalog.Cluster()
	shards := partition.Shards(shardmap.Even(n), table)
	p.UnitsTotal = uint32(len(shards))
	tell := t.teller(ctx, j, p)
	for _, shard := range shards {
		tell()
		if err := t.ask(ctx, k, shard, table.ID, p); err != nil {
			return nil, dberr.New(dberr.CodeOf(err), "%s shard %d: %w", j.GetType(), shard, err)
		}
	}
	if !k.worked(p) {
		return &catalogv1.UpdateJob{Status: catalogv1.JobStatus_JOB_STATUS_SKIPPED, Message: k.idle}, nil
	}
	return &catalogv1.UpdateJob{Status: catalogv1.JobStatus_JOB_STATUS_COMPLETED, Message: k.result(p)}, nil
}

// teller records progress, at most every progressEvery. What it cannot record now it records the next time, or at the end.
func (t *term) teller(ctx context.Context, j *catalogv1.Job, p *catalogv1.JobProgress) func() {
	told := t.cfg.Now()
	return func() {
		if now := t.cfg.Now(); now.Sub(told) >= progressEvery {
			told = now
			_ = t.record(ctx, &catalogv1.UpdateJob{JobId: j.GetJobId(), Status: catalogv1.JobStatus_JOB_STATUS_RUNNING,
				NodeId: t.cfg.NodeID, Progress: proto.CloneOf(p)})
		}
	}
}

// whole does the work of a job that knows by itself whom to ask.
func (t *term) whole(ctx context.Context, w Whole, j *catalogv1.Job, p *catalogv1.JobProgress) (*catalogv1.UpdateJob, error) {
	message, err := w(ctx, j, p, t.teller(ctx, j, p))
	if err != nil {
		return nil, err
	}
	return &catalogv1.UpdateJob{Status: catalogv1.JobStatus_JOB_STATUS_COMPLETED, Message: message}, nil
}

// ask asks one shard and adds what it did.
func (t *term) ask(ctx context.Context, k kind, shard, table uint32, p *catalogv1.JobProgress) error {
	if !k.slices {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, shardTimeout)
		defer cancel()
	}
	if err := k.ask(ctx, &t.cfg, shard, table, p); err != nil {
		return err
	}
	p.UnitsDone++
	return nil
}
