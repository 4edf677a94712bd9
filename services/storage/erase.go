package storage

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/faultpoint"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/shard"
)

// scrubSpansMax is how many spans of the hot store are compacted one by one. Tables on the disk are wide, so each span rewrites some that
// others do as well; beyond it all that the shard has is.
const scrubSpansMax = 64

// scrubReachTimeout is how long a node may take to answer at all before the job goes on with the others.
const scrubReachTimeout = 5 * time.Second

// checkOpen refuses a user whose account is closed for good.
func (s *Storage) checkOpen(user string) error { return shard.CheckOpen(user, s.catalog.Erasing(user)) }

// erasure is what requests about one have in common.
type erasure interface {
	GetShard() uint32
	GetUserId() string
	GetJobId() string
	GetCatalogVersion() uint64
}

// checkErasure returns when this node's catalog has what the request relies on: the account is closed by this job. What comes late, when the
// job has ended and the name may be another's, is refused.
func (s *Storage) checkErasure(ctx context.Context, req erasure) error {
	if err := s.catalog.WaitVersion(ctx, req.GetCatalogVersion()); err != nil {
		return err
	}
	if req.GetJobId() == "" || s.catalog.Erasing(req.GetUserId()) != req.GetJobId() {
		return dberr.New(dberr.InvalidOperation, "job %q does not erase user '%s'", req.GetJobId(), req.GetUserId())
	}
	if _, n := s.catalog.Cluster(); req.GetShard() != shardmap.Even(n).User(req.GetUserId()) {
		return dberr.New(dberr.InvalidArgument, "user '%s' is not of shard %d", req.GetUserId(), req.GetShard())
	}
	return nil
}

// SurveyUser says what a user has in a shard this node leads.
func (s *service) SurveyUser(ctx context.Context, req *storagev1.SurveyUserRequest) (*storagev1.SurveyUserResponse, error) {
	r, err := lookup{s.node}.replica(req.GetShard())
	if err == nil {
		err = s.node.checkErasure(ctx, req)
	}
	if err != nil {
		return nil, err
	}
	survey, err := r.Shard.Survey(ctx, req.GetUserId())
	if err != nil {
		return nil, err
	}
	shard.AddStreams(survey, r.Stream.RowsOf(req.GetUserId()), s.node.catalog.Table)
	return &storagev1.SurveyUserResponse{Survey: survey}, nil
}

// EraseUser removes what a user has from the state of a shard this node leads.
func (s *service) EraseUser(ctx context.Context, req *storagev1.EraseUserRequest) (*storagev1.EraseUserResponse, error) {
	r, err := lookup{s.node}.replica(req.GetShard())
	if err == nil {
		err = s.node.checkErasure(ctx, req)
	}
	if err == nil {
		err = s.node.confirmCatalog(ctx) // a request that comes late meets the newest catalog there is
	}
	if err != nil {
		return nil, err
	}
	r.Stream.EraseUser(req.GetUserId())
	if err := s.node.removeStored(ctx, req.GetShard(), req.GetUserId()); err != nil {
		return nil, err
	}
	index, err := r.Shard.EraseUser(ctx, req.GetUserId(), req.GetJobId())
	if err == nil {
		err = faultpoint.Hit("erase/logged")
	}
	if err == nil {
		err = r.Group.Mark(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &storagev1.EraseUserResponse{Index: index}, nil
}

// removeStored removes a user's files from storages while the lists still name them: a retry knows what is left. Nobody reads them any more.
func (s *Storage) removeStored(ctx context.Context, id uint32, user string) error {
	var named []*storagev1.Segment
	for _, t := range s.catalog.Tables() {
		if t.Kind != catalog.UserTable {
			continue
		}
		err := manifest.Each(s.hot, keycodec.PrefixSpan(keycodec.PartitionSegmentPrefix(nil, id, t.ID, user)), func(e manifest.Entry) error {
			if e.GetStorageId() != "" {
				named = append(named, e.Segment)
			}
			return ctx.Err()
		})
		if err != nil {
			return err
		}
	}
	_, err := s.storages.RemoveUser(ctx, id, user, s.catalog.Tables(), named)
	return err
}

// ScrubUser removes the bytes of what was erased from this node's disks.
func (s *service) ScrubUser(ctx context.Context, req *storagev1.ScrubUserRequest) (*storagev1.ScrubUserResponse, error) {
	if err := s.node.checkErasure(ctx, req); err != nil {
		return nil, err
	}
	if err := s.node.scrubbing.Acquire(ctx, 1); err != nil {
		return nil, dberr.New(dberr.Unavailable, "wait for another user's bytes to be removed: %w", err)
	}
	defer s.node.scrubbing.Release(1)
	w := &scrubber{node: s.node, req: req, resp: &storagev1.ScrubUserResponse{}}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"applied", w.awaitApplied}, {"files", w.removeFiles}, {"logs", w.cutLogs}, {"rows", w.cleanRows}, {"catalog", w.cleanCatalog}} {
		err := faultpoint.Hit("scrub/" + step.name)
		if err == nil {
			err = step.do(ctx)
		}
		if err != nil {
			return nil, err
		}
	}
	return w.resp, nil
}

// scrubber is one ScrubUser.
type scrubber struct {
	node *Storage
	req  *storagev1.ScrubUserRequest
	resp *storagev1.ScrubUserResponse
	// replica is the shard's here, or nil.
	replica *replica.Replica
}

func (w *scrubber) group() uint32 { return replica.FirstShardGroup + w.req.GetShard() }

// awaitApplied returns when this node's replica, if it is to have one, has applied Erase, and no state from before is on its way.
func (w *scrubber) awaitApplied(ctx context.Context) error {
	r, open := w.node.replicas.Get(w.req.GetShard())
	if !open && w.placed() {
		return dberr.New(dberr.Unavailable, "this node's replica of shard %d is not open yet", w.req.GetShard())
	}
	if open {
		if err := r.Shard.WaitApplied(ctx, w.req.GetEraseIndex()); err != nil {
			return err
		}
		r.Stream.EraseUser(w.req.GetUserId())
		w.replica = r
	}
	for _, group := range []uint32{catalogGroup, w.group()} {
		spooled, err := raftgroup.Spooled(w.node.dir.fs, w.node.dir.join("spool"), group)
		if err != nil {
			return err
		}
		if spooled {
			return dberr.New(dberr.Unavailable, "a snapshot of group %d, which may be from before, is on its way", group)
		}
	}
	return nil
}

// placed reports whether the catalog wants a replica of the shard here.
func (w *scrubber) placed() bool {
	for _, r := range w.node.catalog.Placement(w.group()).GetReplicas() {
		if r.GetServerId() == w.node.identity.ServerID {
			return true
		}
	}
	return false
}

func (w *scrubber) removeFiles(ctx context.Context) error {
	w.node.cold.ForgetUser(w.req.GetUserId())
	n, err := w.node.segments.Files.RemoveUser(w.req.GetUserId())
	w.resp.Files = uint64(n)
	if err == nil {
		err = w.node.storages.Clear()
	}
	if err == nil && w.replica != nil && w.replica.Group.Term() != 0 { // what was on its way while the lists were emptied
		n, err = w.node.storages.RemoveUser(ctx, w.req.GetShard(), w.req.GetUserId(), w.node.catalog.Tables(), nil)
		w.resp.Files += uint64(n)
	}
	return err
}

// cutLogs truncates both logs and takes what they had from the disk.
func (w *scrubber) cutLogs(ctx context.Context) (err error) {
	if w.replica != nil {
		if w.resp.ShardLogCut, err = w.replica.Group.Cut(ctx, w.req.GetEraseIndex()); err != nil {
			return err
		}
	}
	if !w.node.dir.temporary { // where the catalog is not on the disk, the log is all there is of it after a restart
		if w.resp.CatalogLogCut, err = w.node.catalogGroup.get().Cut(ctx, w.beginIndex()); err != nil {
			return err
		}
	}
	if err := w.node.raftLog.Clean(ctx, w.group(), w.resp.GetShardLogCut()); err != nil {
		return err
	}
	return w.node.raftLog.Clean(ctx, catalogGroup, w.resp.GetCatalogLogCut())
}

// beginIndex is the entry that closed the account: what says more of the user came before it.
func (w *scrubber) beginIndex() uint64 {
	e, err := w.node.catalog.Erasure(w.req.GetJobId())
	if err != nil || e == nil {
		return w.req.GetCatalogVersion()
	}
	return e.GetBeginIndex()
}

func (w *scrubber) cleanRows(ctx context.Context) error {
	spans, err := w.spans()
	if err != nil {
		return err
	}
	return w.node.hotFiles.Clean(ctx, spans)
}

// spans are where the user's keys were: in every table there is, and, as it may not have been compacted since, in every one there was.
func (w *scrubber) spans() (spans []keycodec.Span, err error) {
	id, user := w.req.GetShard(), w.req.GetUserId()
	next, err := w.node.catalog.NextTable()
	if err != nil {
		return nil, err
	}
	unique, live := map[uint32]bool{}, map[uint32]*catalog.Table{}
	for _, t := range w.node.catalog.Tables() {
		live[t.ID] = t
	}
	var tables []uint32
	for table := uint32(1); table < next; table++ {
		t := live[table]
		if t == nil || t.Kind == catalog.UserTable {
			tables = append(tables, table)
			unique[table] = t == nil || slices.ContainsFunc(t.Columns, func(c catalog.Column) bool { return c.Unique })
		}
	}
	spans = append(spans, keycodec.PrefixSpan(keycodec.ChangePrefix(id)))
	if 2*len(tables)+len(unique) > scrubSpansMax {
		return append(spans, keycodec.PrefixSpan(keycodec.RowPrefix(id)), keycodec.PrefixSpan(keycodec.UniquePrefix(id)),
			keycodec.PrefixSpan(keycodec.SegmentPrefix(id))), nil
	}
	for _, table := range tables {
		spans = append(spans, keycodec.PrefixSpan(keycodec.PartitionPrefix(nil, id, table, user)),
			keycodec.PrefixSpan(keycodec.PartitionSegmentPrefix(nil, id, table, user)))
	}
	for _, table := range slices.Sorted(maps.Keys(unique)) {
		if unique[table] {
			spans = append(spans, keycodec.PrefixSpan(keycodec.TableUniquePrefix(id, table)))
		}
	}
	return spans, nil
}

func (w *scrubber) cleanCatalog(context.Context) error { return w.node.catalog.Compact() }

// The calls of a job that erases.

func (s *Storage) surveyUser(ctx context.Context, req *storagev1.SurveyUserRequest) (*catalogv1.ErasureSurvey, error) {
	resp, err := storagev1.NewStorageServiceClient(s.router.Shard(req.GetShard())).SurveyUser(ctx, req)
	return resp.GetSurvey(), err
}

func (s *Storage) eraseUser(ctx context.Context, req *storagev1.EraseUserRequest) (*storagev1.EraseUserResponse, error) {
	return storagev1.NewStorageServiceClient(s.router.Shard(req.GetShard())).EraseUser(ctx, req)
}

func (s *Storage) scrubUser(ctx context.Context, server string, req *storagev1.ScrubUserRequest) (*storagev1.ScrubUserResponse, error) {
	var conn grpc.ClientConnInterface
	conn, err := groups{s}.Server(server)
	if err != nil {
		return nil, dberr.New(dberr.Unavailable, "reach server %s: %w", server, err)
	}
	client := storagev1.NewStorageServiceClient(conn)
	reach, cancel := context.WithTimeout(ctx, scrubReachTimeout) // a call waits for its connection as long as it may take itself
	defer cancel()
	if _, err := client.NodeStats(reach, &storagev1.NodeStatsRequest{}); err != nil {
		return nil, dberr.New(dberr.Unavailable, "reach server %s: %w", server, err)
	}
	return client.ScrubUser(ctx, req)
}
