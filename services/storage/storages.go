package storage

import (
	"context"
	"errors"
	"hash/maphash"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/objectstore"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/storages"
)

const (
	// storageSweepInterval is how often a node looks for files in storages that its shards do not name any more: each time it lists all.
	storageSweepInterval = time.Hour
	// moveSlice is how long one request moves segments: a table may take hours.
	moveSlice = time.Minute
	// probeTimeout bounds what one storage node may take to read a file that another has written.
	probeTimeout = 20 * time.Second
)

// openStorages opens the way to the catalog's storages. The catalog itself comes later.
func (s *Storage) openStorages() (err error) {
	rules := objectstore.Rules{Endpoints: s.cfg.EndpointsAllowed, Folders: s.cfg.PathsAllowed}
	if dir, err := filepath.Abs(s.cfg.Dir); err == nil {
		rules.Forbidden = []string{dir}
	}
	s.storages, err = storages.New(storages.Config{Catalog: lateCatalog{s}, Keys: lateKeys{s}, Rules: rules, Local: s.segments.Files,
		Cache: cold.NewFiles(s.dir.fs, s.dir.join("remote")), CacheBytes: s.cfg.RemoteCacheBytes, Logger: s.cfg.Logger})
	if err == nil {
		s.cold.Remote = s.storages
	}
	return err
}

// lateCatalog is the node's catalog, which opens after the stores.
type lateCatalog struct{ node *Storage }

func (c lateCatalog) Storage(id string) (*catalogv1.Storage, bool) { return c.node.catalog.Storage(id) }
func (c lateCatalog) Storages() []*catalogv1.Storage               { return c.node.catalog.Storages() }
func (c lateCatalog) Cluster() (string, uint32)                    { return c.node.catalog.Cluster() }
func (c lateCatalog) User(id string) (*catalogv1.User, error)      { return c.node.catalog.User(id) }

// lateKeys is the node's ring.
type lateKeys struct{ node *Storage }

func (k lateKeys) Seal(ctx context.Context, purpose string, plain []byte) ([]byte, error) {
	return k.node.keys.Seal(ctx, purpose, plain)
}

func (k lateKeys) Open(ctx context.Context, purpose string, sealed []byte) ([]byte, error) {
	return k.node.keys.Open(ctx, purpose, sealed)
}

// storageAdmin prepares what the catalog's leader logs about storages.
type storageAdmin struct{ node *Storage }

// Prepare returns a command as it is logged: tried, and with sealed credentials.
func (a storageAdmin) Prepare(ctx context.Context, cmd *catalogv1.Command) (*catalogv1.Command, error) {
	out := &catalogv1.Command{TimeUs: cmd.GetTimeUs(), RequestId: cmd.GetRequestId(), Command: cmd.GetCommand()}
	switch k := cmd.GetCommand().(type) {
	case *catalogv1.Command_CreateStorage:
		c, err := a.node.storages.Create(ctx, k.CreateStorage, a.others)
		out.Command = &catalogv1.Command_CreateStorage{CreateStorage: c}
		return out, err
	case *catalogv1.Command_AlterStorage:
		c, err := a.node.storages.Alter(ctx, k.AlterStorage, a.others)
		out.Command = &catalogv1.Command_AlterStorage{AlterStorage: c}
		return out, err
	case *catalogv1.Command_DropStorage:
		return cmd, a.unused(ctx, k.DropStorage.GetStorageId())
	case *catalogv1.Command_CreateTable:
		return cmd, a.exists(k.CreateTable)
	}
	return cmd, nil
}

// exists refuses a table in a storage that does not exist. The log may have such tables, from before there were storages.
func (a storageAdmin) exists(c *catalogv1.CreateTable) error {
	id := c.GetTable().GetOptions().GetStorageId()
	if id == "" || id == catalog.LocalStorage {
		return nil
	}
	if _, ok := a.node.catalog.Storage(id); ok {
		return nil
	}
	return dberr.New(dberr.NotFound, "Storage '%s' does not exist", id)
}

// unused refuses to drop a storage that still has segments: of tables that are being moved away, or of users who had it.
func (a storageAdmin) unused(ctx context.Context, id string) error {
	if _, ok := a.node.catalog.Storage(id); !ok || a.node.catalog.TablesIn(id) > 0 {
		return nil // the catalog says so
	}
	_, shards := a.node.catalog.Cluster()
	for shard := range shards {
		resp, err := storagev1.NewStorageServiceClient(a.node.router.Shard(shard)).CountStorage(ctx, &storagev1.CountStorageRequest{Shard: shard, StorageId: id})
		if err != nil {
			return err
		}
		if n := resp.GetSegments(); n > 0 {
			return dberr.New(dberr.InvalidOperation, "Cannot drop storage '%s': %d segment(s) of shard %d are still in it; they leave when their tables are "+
				"moved (ALTER TABLE … SET STORAGE) or have been purged", id, n, shard)
		}
	}
	return nil
}

// others has every other storage node that is up read a file of a probe.
func (a storageAdmin) others(ctx context.Context, st *catalogv1.Storage, f objectstore.ProbeFile) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var mu sync.Mutex
	var errs []error
	var asking sync.WaitGroup
	for _, n := range a.node.catalog.Nodes() {
		if !catalogstate.HoldsReplicas(n.GetRole()) || n.GetServerId() == a.node.identity.ServerID || n.GetStatus() == catalogv1.NodeStatus_NODE_STATUS_OFFLINE {
			continue
		}
		asking.Go(func() {
			if err := a.ask(ctx, n, st, f); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	asking.Wait()
	return errors.Join(errs...)
}

func (a storageAdmin) ask(ctx context.Context, n *catalogv1.Node, st *catalogv1.Storage, f objectstore.ProbeFile) error {
	conn, err := groups(a).Server(n.GetServerId())
	if err == nil {
		_, err = storagev1.NewStorageServiceClient(conn).ReadProbe(ctx, &storagev1.ReadProbeRequest{Storage: proto.CloneOf(st), Key: f.Key, Data: f.Data,
			CatalogIndex: a.node.catalog.Applied()})
	}
	if err != nil {
		return dberr.New(dberr.CodeOf(err), "node %d: %w", n.GetNodeId(), err)
	}
	return nil
}

// Check answers STORAGE CHECK.
func (a storageAdmin) Check(ctx context.Context, req *catalogv1.CheckStorageRequest) (*catalogv1.CheckStorageResponse, error) {
	if req.GetStorageId() != catalog.LocalStorage {
		return a.node.storages.Check(ctx, req.GetStorageId(), req.GetExtended(), a.others)
	}
	resp := &catalogv1.CheckStorageResponse{StorageId: req.GetStorageId(), TestedAtUs: a.node.cfg.Now().UnixMicro()}
	began := time.Now()
	if err := a.node.probeLocal(); err != nil {
		resp.Error = err.Error()
	} else {
		resp.Readable, resp.Writable, resp.Listable, resp.Deletable = true, true, true, true
	}
	resp.LatencyUs = time.Since(began).Microseconds()
	if total, used, ok := objectstore.DiskUse(a.node.cfg.Dir); ok && req.GetExtended() {
		resp.TotalBytes, resp.UsedBytes = &total, &used
	}
	return resp, nil
}

// probeLocal writes, reads and removes a file among this node's segments.
func (s *Storage) probeLocal() error {
	f := objectstore.NewProbeFile()
	name := filepath.Base(f.Key)
	if err := s.segments.Files.Replace(name, f.Data); err != nil {
		return err
	}
	raw, err := s.segments.Files.ReadAll(name)
	if err == nil && string(raw) != string(f.Data) {
		err = dberr.New(dberr.Corrupt, "what was written to the disk is not what is read from it")
	}
	return errors.Join(err, s.segments.Files.Remove(name))
}

// ReadProbe reads a file that another storage node has just written.
func (s *service) ReadProbe(ctx context.Context, req *storagev1.ReadProbeRequest) (*storagev1.ReadProbeResponse, error) {
	if err := s.node.catalog.WaitVersion(ctx, req.GetCatalogIndex()); err != nil {
		return nil, err
	}
	if err := s.node.storages.ReadProbe(ctx, req.GetStorage(), objectstore.ProbeFile{Key: req.GetKey(), Data: req.GetData()}); err != nil {
		return nil, err
	}
	return &storagev1.ReadProbeResponse{}, nil
}

// CountStorage counts the segments of a shard this node leads that are in a storage.
func (s *service) CountStorage(ctx context.Context, req *storagev1.CountStorageRequest) (*storagev1.CountStorageResponse, error) {
	r, err := lookup{s.node}.replica(req.GetShard())
	if err != nil {
		return nil, err
	}
	if err := r.Shard.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	resp := &storagev1.CountStorageResponse{}
	err = manifest.EachOf(s.node.hot, req.GetShard(), func(e manifest.Entry) error {
		if e.GetStorageId() == req.GetStorageId() {
			resp.Segments++
		}
		return ctx.Err()
	})
	return resp, err
}

// MoveSegments moves a table's segments to where they belong, in a shard this node leads.
func (s *service) MoveSegments(ctx context.Context, req *storagev1.MoveSegmentsRequest) (*storagev1.MoveSegmentsResponse, error) {
	r, t, err := s.replicaAndTable(ctx, req)
	if err != nil {
		return nil, err
	}
	m, more, err := r.Shard.Move(ctx, t, s.node.cfg.Steady().Add(moveSlice), s.node.holder(r))
	if err != nil {
		return nil, err
	}
	return &storagev1.MoveSegmentsResponse{Segments: uint64(m.Added), Partitions: uint64(m.Partitions), Rows: m.Rows, Bytes: m.Bytes, More: more}, nil
}

// moveShard asks the leader of a shard to move a table's segments.
func (s *Storage) moveShard(ctx context.Context, req *storagev1.MoveSegmentsRequest) (*storagev1.MoveSegmentsResponse, error) {
	return storagev1.NewStorageServiceClient(s.router.Shard(req.GetShard())).MoveSegments(ctx, req)
}

// putManifest writes a partition's manifest beside its segments in a storage, if this node leads the shard.
func (s *Storage) putManifest(ctx context.Context, id uint32, beside *storagev1.Segment, path string, raw []byte) (done bool, err error) {
	r, err := lookup{s}.replica(id)
	if err != nil || r.Group.Term() == 0 {
		return false, nil // whoever leads writes it
	}
	return true, s.storages.PutSmall(ctx, beside.GetStorageId(), beside.GetLocation(), path, raw)
}

// sweepStorages removes files of storages that nobody needs, until ctx ends.
func (s *Storage) sweepStorages(ctx context.Context) {
	tick := time.NewTicker(storageSweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		removed, err := s.sweepStoragesOnce(ctx, orphanAge)
		if err != nil && ctx.Err() == nil {
			s.cfg.Logger.WarnContext(ctx, "remove the files of storages that nobody needs", "error", err)
		}
		if removed > 0 {
			s.cfg.Logger.InfoContext(ctx, "files of storages that no segment names were removed", "files", removed)
		}
	}
}

// sweepStoragesOnce keeps two numbers in memory for each segment of a storage, as sweepSegments does; the second is for the cache.
func (s *Storage) sweepStoragesOnce(ctx context.Context, age time.Duration) (int, error) {
	leads := map[uint32]bool{}
	for _, r := range s.replicas.All() { // confirmed now: who was deposed may miss segments that were added since
		leads[r.Shard.ID()] = r.Group.Term() != 0 && r.Shard.ReadBarrier(ctx) == nil
	}
	seed, named := maphash.MakeSeed(), map[uint64]struct{}{}
	err := manifest.Each(s.hot, keycodec.SegmentSpan(), func(e manifest.Entry) error {
		if e.GetStorageId() != "" {
			named[maphash.String(seed, s.storages.FileOf(e.Segment))] = struct{}{}
			named[maphash.String(seed, storages.CachePath(e.Segment))] = struct{}{}
		}
		return ctx.Err()
	})
	if err != nil {
		return 0, err
	}
	needed := func(name string) bool { _, ok := named[maphash.String(seed, name)]; return ok }
	s.storages.SweepCache(needed)
	return s.storages.Sweep(ctx, storages.Held{Leads: func(shard uint32) bool { return leads[shard] }, Named: needed}, age)
}
