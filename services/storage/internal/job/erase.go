package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/faultpoint"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
)

const (
	// scrubsAtOnce is how many nodes remove a user's bytes at a time: each rewrites parts of its stores.
	scrubsAtOnce = 4
	// eraseRoundsMax bounds how often one attempt erases what a leader that had not heard of it let through.
	eraseRoundsMax = 3
)

// Users erases users.
type Users struct {
	// Survey and Erase ask the leader of the user's shard, Scrub a node.
	Survey func(ctx context.Context, req *storagev1.SurveyUserRequest) (*catalogv1.ErasureSurvey, error)
	Erase  func(ctx context.Context, req *storagev1.EraseUserRequest) (*storagev1.EraseUserResponse, error)
	Scrub  func(ctx context.Context, server string, req *storagev1.ScrubUserRequest) (*storagev1.ScrubUserResponse, error)
	// Keys destroys the user's keys; nil where nothing is encrypted by them: then there are no backups either.
	Keys Keys
}

// Keys are the users' data keys, which backups need to be read.
type Keys interface {
	// DestroyKeys removes all keys of a user, and says of every backup there is whether it still has one. Asking again is harmless.
	DestroyKeys(ctx context.Context, user string) ([]*catalogv1.ErasedBackup, error)
}

// erasing is one attempt of a job that erases.
type erasing struct {
	*term
	job      *catalogv1.Job
	receipt  *catalogv1.Erasure
	user     string
	shard    uint32
	progress *catalogv1.JobProgress
	// recording guards receipt and progress while nodes answer.
	recording sync.Mutex
}

// erase does what is left of an erasure. What was done is in the receipt, so another attempt, by whoever leads then, goes on behind it.
func (t *term) erase(ctx context.Context, j *catalogv1.Job, p *catalogv1.JobProgress) (*catalogv1.UpdateJob, error) {
	receipt, err := t.cfg.Catalog.Erasure(j.GetJobId())
	if err != nil {
		return nil, err
	}
	if receipt == nil {
		return nil, dberr.New(dberr.Corrupt, "job %s erases a user, and the catalog does not know whom", j.GetJobId())
	}
	_, shards := t.cfg.Catalog.Cluster()
	e := &erasing{term: t, job: j, receipt: receipt, user: receipt.GetUserId(), shard: shardmap.Even(shards).User(receipt.GetUserId()), progress: p}
	if receipt.GetFinishedAtUs() == 0 {
		if err := e.run(ctx); err != nil {
			return nil, err
		}
	}
	return &catalogv1.UpdateJob{Status: catalogv1.JobStatus_JOB_STATUS_COMPLETED, Message: e.result()}, nil
}

func (e *erasing) run(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"survey", e.survey}, {"shard", e.eraseShard}, {"nodes", e.scrubAll}, {"keys", e.destroyKeys}, {"again", e.lookAgain}, {"finish", e.finish}} {
		err := faultpoint.Hit("erase/" + step.name)
		if err == nil {
			err = step.do(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// survey notes what the user has, before anything goes.
func (e *erasing) survey(ctx context.Context) error {
	if e.receipt.GetSurvey() != nil {
		return nil
	}
	s, err := e.look(ctx)
	if err != nil {
		return err
	}
	return e.note(ctx, &catalogv1.UpdateErasure{Survey: s})
}

func (e *erasing) look(ctx context.Context) (*catalogv1.ErasureSurvey, error) {
	ctx, cancel := context.WithTimeout(ctx, shardTimeout)
	defer cancel()
	s, err := e.cfg.Users.Survey(ctx, &storagev1.SurveyUserRequest{Shard: e.shard, UserId: e.user, JobId: e.job.GetJobId(),
		CatalogVersion: e.cfg.Catalog.Version()})
	if err == nil && s == nil {
		s = &catalogv1.ErasureSurvey{}
	}
	return s, err
}

func (e *erasing) eraseShard(ctx context.Context) error {
	if e.receipt.GetEraseIndex() != 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, shardTimeout)
	defer cancel()
	resp, err := e.cfg.Users.Erase(ctx, &storagev1.EraseUserRequest{Shard: e.shard, UserId: e.user, JobId: e.job.GetJobId(),
		CatalogVersion: e.cfg.Catalog.Version()})
	if err != nil {
		return err
	}
	return e.note(ctx, &catalogv1.UpdateErasure{EraseIndex: resp.GetIndex()})
}

// scrubAll has every storage node remove the bytes, whether it has a replica of the shard or not: it may have had one. It goes on behind
// nodes that do not answer, and fails if there are any: the next attempt asks those only.
func (e *erasing) scrubAll(ctx context.Context) error {
	nodes, index := e.storageNodes(), e.receipt.GetEraseIndex()
	var errs []error
	var g errgroup.Group
	g.SetLimit(scrubsAtOnce)
	e.progress.UnitsTotal, e.progress.UnitsDone = uint32(len(nodes)), 0
	for _, n := range nodes {
		if e.confirmed(n) {
			e.progressed()
			continue
		}
		g.Go(func() error {
			if err := e.scrub(ctx, n, index); err != nil {
				e.recording.Lock()
				defer e.recording.Unlock()
				errs = append(errs, dberr.New(dberr.Unavailable, "node %d has not removed the user's bytes: %w", n.GetNodeId(), err))
			}
			return nil
		})
	}
	_ = g.Wait() // errors are in errs
	if err := errors.Join(errs...); err != nil {
		return dberr.New(dberr.Unavailable, "waits for %d of %d nodes: %w", len(errs), len(nodes), err)
	}
	return nil
}

func (e *erasing) progressed() {
	e.recording.Lock()
	defer e.recording.Unlock()
	e.progress.UnitsDone++
}

func (e *erasing) storageNodes() []*catalogv1.Node {
	return slices.DeleteFunc(slices.Clone(e.cfg.Catalog.Nodes()), func(n *catalogv1.Node) bool { return !catalogstate.HoldsReplicas(n.GetRole()) })
}

func (e *erasing) confirmed(n *catalogv1.Node) bool {
	e.recording.Lock()
	defer e.recording.Unlock()
	return slices.ContainsFunc(e.receipt.GetNodes(), func(o *catalogv1.ErasedNode) bool { return o.GetServerId() == n.GetServerId() })
}

func (e *erasing) scrub(ctx context.Context, n *catalogv1.Node, index uint64) error {
	ctx, cancel := context.WithTimeout(ctx, shardTimeout)
	defer cancel()
	resp, err := e.cfg.Users.Scrub(ctx, n.GetServerId(), &storagev1.ScrubUserRequest{Shard: e.shard, UserId: e.user,
		JobId: e.job.GetJobId(), CatalogVersion: e.cfg.Catalog.Version(), EraseIndex: index})
	if err != nil {
		return err
	}
	err = e.note(ctx, &catalogv1.UpdateErasure{Nodes: []*catalogv1.ErasedNode{{NodeId: n.GetNodeId(), ServerId: n.GetServerId(),
		ConfirmedAtUs: e.cfg.Now().UnixMicro(), Files: resp.GetFiles(), ShardLogCut: resp.GetShardLogCut(), CatalogLogCut: resp.GetCatalogLogCut()}}})
	if err == nil {
		e.progressed()
	}
	return err
}

func (e *erasing) destroyKeys(ctx context.Context) error {
	if e.cfg.Users.Keys == nil {
		return nil
	}
	backups, err := e.cfg.Users.Keys.DestroyKeys(ctx, e.user)
	if err != nil || len(backups) == 0 {
		return err
	}
	return e.note(ctx, &catalogv1.UpdateErasure{Backups: backups})
}

// lookAgain looks whether a leader that had not heard of the erasure let something through. Now all nodes have: each has confirmed, and knew
// by then.
func (e *erasing) lookAgain(ctx context.Context) error {
	for range eraseRoundsMax {
		s, err := e.look(ctx)
		if err != nil {
			return err
		}
		if len(s.GetTables()) == 0 && e.allConfirmed() {
			return nil
		}
		if len(s.GetTables()) > 0 {
			e.receipt.EraseIndex = 0 // another entry, and all nodes anew
			if err := e.eraseShard(ctx); err != nil {
				return err
			}
		}
		if err := e.scrubAll(ctx); err != nil {
			return err
		}
	}
	return dberr.New(dberr.Unavailable, "rows were written, or nodes came, while user '%s' was erased", e.user)
}

// allConfirmed: no node has come meanwhile.
func (e *erasing) allConfirmed() bool {
	return !slices.ContainsFunc(e.storageNodes(), func(n *catalogv1.Node) bool { return !e.confirmed(n) })
}

func (e *erasing) finish(ctx context.Context) error {
	return e.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_FinishErase{FinishErase: &catalogv1.FinishErase{JobId: e.job.GetJobId()}}})
}

// note adds to the receipt.
func (e *erasing) note(ctx context.Context, u *catalogv1.UpdateErasure) error {
	e.recording.Lock()
	defer e.recording.Unlock()
	u.JobId = e.job.GetJobId()
	if err := e.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_UpdateErasure{UpdateErasure: u}}); err != nil {
		return err
	}
	receipt, err := e.cfg.Catalog.Erasure(e.job.GetJobId())
	if err == nil && receipt == nil {
		err = dberr.New(dberr.Corrupt, "the receipt of job %s is gone", e.job.GetJobId())
	}
	if err == nil {
		e.receipt = receipt
	}
	return err
}

func (e *erasing) apply(ctx context.Context, c *catalogv1.Command) error {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	c.TimeUs = e.cfg.Now().UnixMicro()
	_, err := e.cfg.Commands.Apply(ctx, &catalogv1.ApplyRequest{Command: c})
	return err
}

// result says what was erased.
func (e *erasing) result() string {
	var rows, segments, bytes uint64
	for _, t := range e.receipt.GetSurvey().GetTables() {
		rows, segments, bytes = rows+t.GetHotRows()+t.GetSegmentRows(), segments+t.GetSegments(), bytes+t.GetSegmentBytes()
	}
	e.progress.Rows, e.progress.SegmentsRemoved, e.progress.Bytes = rows, segments, bytes
	var nodes []string
	for _, n := range e.receipt.GetNodes() {
		nodes = append(nodes, fmt.Sprint(n.GetNodeId()))
	}
	return fmt.Sprintf("erased user '%s': %d versions of rows and %d segments (%d bytes) of %d tables; confirmed by node %s", e.user,
		rows, segments, bytes, len(e.receipt.GetSurvey().GetTables()), strings.Join(nodes, ", "))
}

// endless reports whether a job is tried until it succeeds.
func endless(j *catalogv1.Job) bool { return catalog.JobErases(j.GetType()) }
