package storage

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifestfile"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/segmentsync"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/shard"
)

const (
	// segmentCheckInterval is how often a node looks for segments it should have and has not, and for files nobody needs.
	segmentCheckInterval = 10 * time.Minute
	// segmentRetryInterval is how often those are asked for again that could not be fetched.
	segmentRetryInterval = 10 * time.Second
	// orphanAge is for how long no state must have named a file before it is removed: longer than any flush takes to name
	// it, and than any scan takes that began when it was named.
	orphanAge = time.Hour
)

// openSegments opens the files of the cold tier.
func (s *Storage) openSegments() (err error) {
	s.segments = &segmentsync.Sync{Files: cold.NewFiles(s.dir.fs, s.dir.join("segments")), Peers: peers{s}, Logger: s.cfg.Logger}
	s.segments.Files.Allow = s.checkOpen
	s.manifests = manifestfile.New(manifestfile.Config{Files: s.segments.Files, Hot: s.hot, Table: func(id uint32) (*catalog.Table, bool) { return s.catalog.Table(id) },
		TooMany: s.checkSegments, Remote: s.putManifest, Now: s.cfg.Now, Logger: s.cfg.Logger})
	if s.cold, err = cold.NewReaders(s.segments.Files, s.cfg.SegmentCacheBytes, s.segments.Fetch); err != nil {
		return err
	}
	return s.openStorages()
}

// peers are the nodes that have the same shards.
type peers struct{ node *Storage }

func (p peers) Server(id string) (grpc.ClientConnInterface, error) { return groups(p).Server(id) }

func (p peers) Holders(shard uint32) (servers []string) {
	for _, r := range p.node.catalog.Placement(replica.FirstShardGroup + shard).GetReplicas() {
		servers = append(servers, r.GetServerId())
	}
	for _, n := range p.node.catalog.Nodes() {
		if catalogstate.HoldsReplicas(n.GetRole()) && !slices.Contains(servers, n.GetServerId()) {
			servers = append(servers, n.GetServerId())
		}
	}
	return servers
}

// Flush moves hot rows of a table into segments, in a shard this node leads.
func (s *service) Flush(ctx context.Context, req *storagev1.FlushRequest) (*storagev1.FlushResponse, error) {
	r, t, err := s.replicaAndTable(ctx, req)
	if err != nil {
		return nil, err
	}
	f, err := s.node.flush(ctx, r, t, req.GetUserId())
	if err != nil {
		return nil, err
	}
	return &storagev1.FlushResponse{Rows: f.Rows, Segments: uint64(f.Segments), Partitions: uint64(f.Partitions), Bytes: f.Bytes}, nil
}

// Compact merges the segments of a table, in a shard this node leads.
func (s *service) Compact(ctx context.Context, req *storagev1.CompactRequest) (*storagev1.CompactResponse, error) {
	r, t, err := s.replicaAndTable(ctx, req)
	if err != nil {
		return nil, err
	}
	m, err := s.node.merge(ctx, r, t, req.GetUserId(), true)
	if err != nil {
		return nil, err
	}
	return &storagev1.CompactResponse{SegmentsRemoved: uint64(m.Removed), SegmentsAdded: uint64(m.Added), Rows: m.Rows,
		RowsDropped: m.Dropped, Bytes: m.Bytes, Partitions: uint64(m.Partitions)}, nil
}

// replicaAndTable finds what a request about a table in a shard names.
func (s *service) replicaAndTable(ctx context.Context, req interface {
	GetShard() uint32
	GetTableId() uint32
	GetCatalogVersion() uint64
}) (*replica.Replica, *catalog.Table, error) {
	r, err := lookup{s.node}.replica(req.GetShard())
	if err != nil {
		return nil, nil, err
	}
	if err := r.Shard.WaitCatalog(ctx, req.GetCatalogVersion()); err != nil {
		return nil, nil, err
	}
	t, ok := s.node.catalog.Table(req.GetTableId())
	if !ok {
		return nil, nil, dberr.New(dberr.TableNotFound, "table %d does not exist", req.GetTableId())
	}
	return r, t, nil
}

// HoldSegments fetches what a leader is about to commit.
func (s *service) HoldSegments(ctx context.Context, req *storagev1.HoldSegmentsRequest) (*storagev1.HoldSegmentsResponse, error) {
	if _, err := (lookup{s.node}).replica(req.GetShard()); err != nil {
		return nil, err
	}
	if err := s.node.segments.Take(ctx, req); err != nil {
		return nil, err
	}
	return &storagev1.HoldSegmentsResponse{}, nil
}

// FetchSegment sends a file, also of a shard whose replica has left this node: it may have been the only one who had it.
func (s *service) FetchSegment(req *storagev1.FetchSegmentRequest, stream grpc.ServerStreamingServer[storagev1.FetchSegmentResponse]) error {
	return s.node.segments.Send(req.GetPath(), stream.Send)
}

// segmentsChanged has manifests written, and asks for a look at the files when some are missing: those of segments that were added
// while this node was away, or of a state that came from the leader.
func (s *Storage) segmentsChanged(id uint32, changed []shard.ChangedSegments) {
	lacks := changed == nil
	for _, c := range changed {
		s.manifests.Changed(id, c.Table, c.Owner)
		for _, seg := range c.Added {
			lacks = lacks || s.lacks(seg)
		}
	}
	if lacks {
		s.missing.found(id)
		s.checkSegments()
	}
}

// checkSegments asks for a look at all files.
func (s *Storage) checkSegments() {
	select {
	case s.segmentCheck <- struct{}{}:
	default: // a check is about to begin anyway
	}
}

// keepSegments fetches what is missing, writes manifests that are not what the state says, and removes what nobody needs, until ctx ends.
func (s *Storage) keepSegments(ctx context.Context) {
	for {
		s.tryFetchMissing(ctx)
		if err := s.checkManifests(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.WarnContext(ctx, "look at the manifests of segments", "error", err)
		}
		removed, err := s.sweepSegments(orphanAge)
		if err != nil {
			s.cfg.Logger.WarnContext(ctx, "remove the segments nobody needs", "error", err)
		}
		if removed > 0 {
			s.cfg.Logger.InfoContext(ctx, "files that no segment names were removed", "files", removed)
		}
		if s.awaitSegmentCheck(ctx); ctx.Err() != nil {
			return
		}
	}
}

// awaitSegmentCheck returns when all is to be looked at again. Meanwhile it asks for what could not be fetched.
func (s *Storage) awaitSegmentCheck(ctx context.Context) {
	next := time.After(segmentCheckInterval)
	for {
		var retry <-chan time.Time
		if s.missing.any() {
			retry = time.After(segmentRetryInterval)
		}
		select {
		case <-ctx.Done():
			return
		case <-next:
			return
		case <-s.segmentCheck:
			return
		case <-retry:
			s.tryFetchMissing(ctx)
		}
	}
}

func (s *Storage) tryFetchMissing(ctx context.Context) {
	if err := s.fetchMissing(ctx); err != nil && ctx.Err() == nil {
		s.cfg.Logger.WarnContext(ctx, "fetch the segments this node misses", "error", err)
	}
}

// lacks reports whether a segment should be on this node's disk and is not.
func (s *Storage) lacks(seg *storagev1.Segment) bool {
	return seg.GetStorageId() == "" && !s.segments.Files.Has(seg)
}

// missingMax bounds the segments that are listed before they are fetched, as fetching takes longer than an iterator may stay open.
const missingMax = 1024

// fetchMissing goes on behind what cannot be fetched; what is beyond missingMax is next time's.
func (s *Storage) fetchMissing(ctx context.Context) (failed error) {
	here := map[uint32]bool{}
	for _, r := range s.replicas.All() {
		here[r.Shard.ID()] = true
		if err := s.fetchMissingOf(ctx, r.Shard.ID()); err != nil {
			failed = err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	s.missing.looked(here)
	return failed
}

func (s *Storage) fetchMissingOf(ctx context.Context, shard uint32) (failed error) {
	has := s.missing.look(shard)
	var list []*storagev1.Segment
	if err := manifest.EachOf(s.hot, shard, func(e manifest.Entry) error {
		if len(list) < missingMax && s.lacks(e.Segment) {
			list = append(list, e.Segment)
		}
		return ctx.Err()
	}); err != nil {
		return err
	}
	fetched, lost := 0, 0
	for _, seg := range list {
		switch err := s.segments.Fetch(ctx, shard, seg); {
		case err == nil:
			fetched++
		case dberr.Is(err, dberr.Corrupt): // nobody has it: waiting for it helps nobody
			failed, lost = err, lost+1
		default:
			failed = err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	switch {
	case len(list) == missingMax && fetched > 0:
		s.checkSegments()
	case fetched+lost == len(list):
		has()
	}
	return failed
}

// checkManifests goes on behind what fails.
func (s *Storage) checkManifests(ctx context.Context) error {
	var errs []error
	for _, r := range s.replicas.All() {
		errs = append(errs, s.manifests.Check(ctx, r.Shard.ID()))
	}
	return errors.Join(errs...)
}

// sweepSegments removes files that no shard in this node's store names, whether its replica is open or not, and manifests of partitions
// without segments. What it keeps in memory is a number for each segment and each partition; that two may share one only keeps a file
// for longer. A manifest that comes back while it is removed is written again by the next check.
func (s *Storage) sweepSegments(age time.Duration) (int, error) {
	seed, named := maphash.MakeSeed(), map[uint64]struct{}{}
	if err := manifest.EachPartition(s.hot, keycodec.SegmentSpan(), func(entries []manifest.Entry) (bool, error) {
		if entries[len(entries)-1].GetStorageId() == "" {
			named[maphash.String(seed, manifest.Path(entries))] = struct{}{}
		}
		for _, e := range entries {
			if e.GetStorageId() == "" {
				named[maphash.String(seed, e.GetPath())] = struct{}{}
			}
		}
		return true, nil
	}); err != nil {
		return 0, err
	}
	if err := s.views.each(func(shard uint32, snap *pebble.Snapshot) error { // backups read what their cuts had
		return manifest.EachOf(snap, shard, func(e manifest.Entry) error {
			named[maphash.String(seed, e.GetPath())] = struct{}{}
			return nil
		})
	}); err != nil {
		return 0, err
	}
	return s.segments.Files.Sweep(func(path string) bool {
		_, ok := named[maphash.String(seed, path)]
		return ok
	}, age)
}
