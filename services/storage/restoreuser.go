package storage

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/faultpoint"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
)

// restoreUserTimeout bounds what a shard may take to restore one table of a user. The next attempt goes on behind what was written.
const restoreUserTimeout = 30 * time.Minute

// restoringUsersMax is how many users' changes a node holds the keys of at a time (see undo.Read); others wait.
const restoringUsersMax = 2

// CheckRestoreUser looks whether a user's rows can be restored, or restored into, in a shard this node leads.
func (s *service) CheckRestoreUser(ctx context.Context, req *storagev1.CheckRestoreUserRequest) (*storagev1.CheckRestoreUserResponse, error) {
	r, err := s.replicaOfUser(ctx, req)
	if err != nil {
		return nil, err
	}
	var tables []*catalog.Table
	for _, id := range req.GetTableIds() {
		if t, ok := s.node.catalog.Table(id); ok && t.Kind == catalog.UserTable { // one that is gone has nothing to restore
			tables = append(tables, t)
		}
	}
	if req.GetThorough() {
		release, err := s.node.restoringPlace(ctx)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	resp := &storagev1.CheckRestoreUserResponse{}
	if req.GetInto() {
		resp.Position, err = r.Shard.CheckEmpty(ctx, tables, req.GetUserId())
	} else {
		resp.Position, err = r.Shard.CheckRestore(ctx, tables, req.GetUserId(), time.UnixMicro(req.GetMomentUs()), req.GetThorough())
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// replicaOfUser finds the shard of a user whose rows are to be restored.
func (s *service) replicaOfUser(ctx context.Context, req interface {
	GetShard() uint32
	GetUserId() string
	GetCatalogVersion() uint64
}) (*replica.Replica, error) {
	r, err := lookup{s.node}.replica(req.GetShard())
	if err != nil {
		return nil, err
	}
	if err := r.Shard.WaitCatalog(ctx, req.GetCatalogVersion()); err != nil {
		return nil, err
	}
	if _, n := s.node.catalog.Cluster(); req.GetShard() != shardmap.Even(n).User(req.GetUserId()) {
		return nil, dberr.New(dberr.InvalidArgument, "user '%s' is not of shard %d", req.GetUserId(), req.GetShard())
	}
	return r, s.node.checkOpen(req.GetUserId())
}

// RestoreUser restores a user's rows of a table, in a shard this node leads.
func (s *service) RestoreUser(ctx context.Context, req *storagev1.RestoreUserRequest) (*storagev1.RestoreUserResponse, error) {
	r, err := s.replicaOfUser(ctx, req)
	if err != nil {
		return nil, err
	}
	release, err := s.node.restoringPlace(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	moment := time.UnixMicro(req.GetMomentUs())
	if req.GetToUserId() == "" {
		counts, err := r.Shard.RestoreUser(ctx, req.GetTableId(), req.GetUserId(), moment, req.GetPosition())
		if err != nil {
			return nil, err
		}
		return &storagev1.RestoreUserResponse{Rows: counts}, nil
	}
	sum := &storagev1.RestoredRows{}
	to := s.node.shardOfUser(req.GetToUserId())
	err = r.Shard.PastRows(ctx, req.GetTableId(), req.GetUserId(), moment, func(rows [][]byte) error {
		resp, err := storagev1.NewStorageServiceClient(s.node.router.Shard(to)).RestoreRows(ctx, &storagev1.RestoreRowsRequest{Shard: to, UserId: req.GetToUserId(),
			TableId: req.GetTableId(), Position: req.GetPosition(), Rows: rows, CatalogVersion: req.GetCatalogVersion()})
		addRestored(sum, resp.GetRows())
		return err
	})
	if err != nil {
		return nil, err
	}
	return &storagev1.RestoreUserResponse{Rows: sum}, nil
}

// RestoreRows writes rows of the past into a user's partition, in a shard this node leads.
func (s *service) RestoreRows(ctx context.Context, req *storagev1.RestoreRowsRequest) (*storagev1.RestoreRowsResponse, error) {
	r, err := s.replicaOfUser(ctx, req)
	if err != nil {
		return nil, err
	}
	counts, err := r.Shard.RestoreRows(ctx, req.GetTableId(), req.GetUserId(), req.GetPosition(), req.GetRows())
	if err != nil {
		return nil, err
	}
	return &storagev1.RestoreRowsResponse{Rows: counts}, nil
}

// restoringPlace waits until few enough users are restored here.
func (s *Storage) restoringPlace(ctx context.Context) (release func(), err error) {
	if err := s.restoringUsers.Acquire(ctx, 1); err != nil {
		return nil, dberr.New(dberr.Unavailable, "wait for other users to be restored (restoringUsersMax): %w", err)
	}
	return func() { s.restoringUsers.Release(1) }, nil
}

func addRestored(to, n *storagev1.RestoredRows) {
	to.Restored += n.GetRestored()
	to.Deleted += n.GetDeleted()
	to.Unchanged += n.GetUnchanged()
	to.Newer += n.GetNewer()
	to.Blocked += n.GetBlocked()
}

func (s *Storage) shardOfUser(user string) uint32 {
	_, n := s.catalog.Cluster()
	return shardmap.Even(n).User(user)
}

// restoreUser runs a job that restores one user.
func (s *Storage) restoreUser(ctx context.Context, j *catalogv1.Job, p *catalogv1.JobProgress, tell func()) (string, error) {
	r := &restoringUser{node: s, job: j, progress: p, tell: tell}
	if err := json.Unmarshal([]byte(j.GetParameters()), &r.params); err != nil {
		return "", dberr.New(dberr.InvalidArgument, "the parameters of job %s: %w", j.GetJobId(), err)
	}
	return r.run(ctx)
}

// restoringUser is one attempt to restore a user.
type restoringUser struct {
	node     *Storage
	job      *catalogv1.Job
	params   catalog.RestoreUserJob
	progress *catalogv1.JobProgress
	tell     func()
	tables   []*catalog.Table
	sum      storagev1.RestoredRows
}

func (r *restoringUser) run(ctx context.Context) (string, error) {
	if err := r.checkUsers(); err != nil {
		return "", err
	}
	r.tables = r.userTables()
	p := r.progress
	p.UnitsTotal, p.UnitsDone, p.Rows, p.RowsDropped, p.Partitions = uint32(len(r.tables)), 0, 0, 0, 0
	if p.GetStartPosition() == 0 { // else a former attempt has, and may have written
		if err := r.begin(ctx); err != nil {
			return "", err
		}
	}
	for _, t := range r.tables {
		if err := faultpoint.Hit("restoreuser/table"); err != nil {
			return "", err
		}
		if err := r.table(ctx, t); err != nil {
			return "", dberr.New(dberr.CodeOf(err), "restore %s: %w", t.QualifiedName(), err)
		}
	}
	return r.result(), nil
}

// checkUsers refuses users who are not there (any more).
func (r *restoringUser) checkUsers() error {
	for _, user := range []string{r.params.User, r.params.Target()} {
		if err := r.node.checkOpen(user); err != nil {
			return err
		}
		u, err := r.node.catalog.User(user)
		if err != nil {
			return err
		}
		if u == nil || u.GetDeletedAtUs() != 0 {
			return dberr.New(dberr.UserNotFound, "User '%s' does not exist", user)
		}
	}
	return nil
}

// userTables are the tables to restore, in order of their names.
func (r *restoringUser) userTables() (tables []*catalog.Table) {
	for _, t := range r.node.catalog.Tables() {
		if t.Kind == catalog.UserTable && (r.params.Namespace == "" || t.Namespace == r.params.Namespace) {
			tables = append(tables, t)
		}
	}
	slices.SortFunc(tables, func(a, b *catalog.Table) int { return cmp.Compare(a.QualifiedName(), b.QualifiedName()) })
	return tables
}

// begin finds out all that can be wrong, in every table, before anything is written, and records where the restore begins: what is
// written there later is not undone, by no attempt.
func (r *restoringUser) begin(ctx context.Context) error {
	position, err := r.check(ctx, r.params.User, false)
	if err == nil && r.params.To != "" {
		position, err = r.check(ctx, r.params.To, true)
	}
	if err == nil {
		err = faultpoint.Hit("restoreuser/checked")
	}
	if err != nil {
		return err
	}
	r.progress.StartPosition = max(position, 1) // of a shard without changes it is 0, which means that nothing was recorded
	return r.record(ctx)
}

func (r *restoringUser) check(ctx context.Context, user string, into bool) (uint64, error) {
	shard := r.node.shardOfUser(user)
	req := &storagev1.CheckRestoreUserRequest{Shard: shard, UserId: user, MomentUs: r.params.MomentUS, Into: into, Thorough: true,
		CatalogVersion: r.node.catalog.Version()}
	for _, t := range r.tables {
		req.TableIds = append(req.TableIds, t.ID)
	}
	ctx, cancel := context.WithTimeout(ctx, restoreUserTimeout)
	defer cancel()
	resp, err := storagev1.NewStorageServiceClient(r.node.router.Shard(shard)).CheckRestoreUser(ctx, req)
	return resp.GetPosition(), err
}

// record tells the catalog how far the job is. It is refused when the job was cancelled.
func (r *restoringUser) record(ctx context.Context) error {
	_, err := r.node.commands.Apply(ctx, applied(&catalogv1.Command{TimeUs: r.node.cfg.Now().UnixMicro(), Command: &catalogv1.Command_UpdateJob{
		UpdateJob: &catalogv1.UpdateJob{JobId: r.job.GetJobId(), Status: catalogv1.JobStatus_JOB_STATUS_RUNNING,
			NodeId: uint32(r.node.identity.NodeID), Progress: proto.CloneOf(r.progress)}}}))
	return err
}

func (r *restoringUser) table(ctx context.Context, t *catalog.Table) error {
	shard := r.node.shardOfUser(r.params.User)
	ctx, cancel := context.WithTimeout(ctx, restoreUserTimeout)
	defer cancel()
	resp, err := storagev1.NewStorageServiceClient(r.node.router.Shard(shard)).RestoreUser(ctx, &storagev1.RestoreUserRequest{Shard: shard, UserId: r.params.User,
		TableId: t.ID, MomentUs: r.params.MomentUS, Position: r.progress.GetStartPosition(), ToUserId: r.params.To, CatalogVersion: r.node.catalog.Version()})
	if err != nil && !dberr.Is(err, dberr.TableNotFound) { // one that was dropped meanwhile has no rows
		return err
	}
	n, p := resp.GetRows(), r.progress
	addRestored(&r.sum, n)
	p.Rows, p.RowsDropped = p.Rows+n.GetRestored(), p.RowsDropped+n.GetDeleted()
	if n.GetRestored()+n.GetDeleted() > 0 {
		p.Partitions++
	}
	p.UnitsDone++
	r.tell()
	return nil
}

// result says what was done.
func (r *restoringUser) result() string {
	const layout = "2006-01-02 15:04:05.000"
	text := fmt.Sprintf("user '%s' as of %s", r.params.User, time.UnixMicro(r.params.MomentUS).UTC().Format(layout))
	if r.params.To != "" {
		text += fmt.Sprintf(" restored to user '%s'", r.params.To)
	}
	n := &r.sum
	text += fmt.Sprintf(": %d tables, %d rows restored, %d deleted, %d unchanged", len(r.tables), n.GetRestored(), n.GetDeleted(), n.GetUnchanged())
	if n.GetNewer() > 0 {
		text += fmt.Sprintf("; %d rows were written since the restore began and stay", n.GetNewer())
	}
	if n.GetBlocked() > 0 {
		text += fmt.Sprintf("; %d rows cannot come back, as rows written since the restore began have their values of UNIQUE columns", n.GetBlocked())
	}
	return text
}
