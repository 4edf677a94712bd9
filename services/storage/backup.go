package storage

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/keyring"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/backup"
)

// tellEvery is how often a node says how far its part of a backup is.
const tellEvery = time.Second

// targets finds backups by the paths of statements.
func (s *Storage) targets() *backup.Targets {
	paths := s.cfg.BackupPaths
	if len(paths) == 0 {
		paths = []string{s.dir.join("backups")}
	}
	return &backup.Targets{FS: s.dir.fs, Paths: paths, Real: s.cfg.FS == nil}
}

// FreezeShard stops the shard's writes for a cut.
func (s *service) FreezeShard(ctx context.Context, req *storagev1.FreezeShardRequest) (*storagev1.FreezeShardResponse, error) {
	r, err := lookup{s.node}.replica(req.GetShard())
	if err != nil {
		return nil, err
	}
	if err := r.Shard.Freeze(ctx, req.GetCutId()); err != nil {
		return nil, err
	}
	return &storagev1.FreezeShardResponse{ServerId: s.node.identity.ServerID}, nil
}

// ViewShard keeps the state of a frozen shard.
func (s *service) ViewShard(ctx context.Context, req *storagev1.ViewShardRequest) (*storagev1.ViewShardResponse, error) {
	r, err := lookup{s.node}.replica(req.GetShard())
	if err != nil {
		return nil, err
	}
	v, err := r.Shard.View(ctx, req.GetCutId())
	if err != nil {
		return nil, err
	}
	position := v.Position
	if err := s.node.views.put(viewKey{req.GetCutId(), req.GetShard()}, v); err != nil {
		return nil, err
	}
	return &storagev1.ViewShardResponse{Position: position}, nil
}

// ThawShard ends what a cut has of a shard here.
func (s *service) ThawShard(_ context.Context, req *storagev1.ThawShardRequest) (*storagev1.ThawShardResponse, error) {
	s.node.views.drop(viewKey{req.GetCutId(), req.GetShard()})
	r, err := lookup{s.node}.replica(req.GetShard())
	if err != nil {
		return nil, err
	}
	r.Shard.Thaw(req.GetCutId())
	return &storagev1.ThawShardResponse{}, nil
}

// WriteBackup writes a shard's part of a backup.
func (s *service) WriteBackup(req *storagev1.WriteBackupRequest, stream grpc.ServerStreamingServer[storagev1.WriteBackupResponse]) error {
	ctx, view, release, err := s.node.views.use(stream.Context(), viewKey{req.GetCutId(), req.GetShard()})
	if err != nil {
		return err
	}
	defer release()
	leave, err := s.node.views.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	w, err := s.node.backupWriter(ctx, req)
	if err != nil {
		return err
	}
	told := time.Now()
	w.Snapshot = view.Snapshot
	w.Tell = func(p backup.Progress) {
		if time.Since(told) < tellEvery {
			return
		}
		told = time.Now()
		_ = stream.Send(&storagev1.WriteBackupResponse{Files: p.Files, Bytes: p.Bytes, Rows: p.Rows}) // who left has ended ctx
	}
	list, p, err := w.Write(ctx)
	if err != nil {
		return err
	}
	sum, err := hexBytes(list.SHA256)
	if err != nil {
		return err
	}
	return stream.Send(&storagev1.WriteBackupResponse{Files: p.Files, Bytes: p.Bytes, Rows: p.Rows, ListSha256: sum, ListBytes: uint64(list.Bytes)})
}

func (s *Storage) backupWriter(ctx context.Context, req *storagev1.WriteBackupRequest) (*backup.Writer, error) {
	_, n := s.catalog.Cluster()
	w := &backup.Writer{Shard: req.GetShard(), Shards: shardmap.Even(n), BackupID: req.GetBackupId(), Keys: userKeys{s}, ParentPath: req.GetParent()}
	perUser := map[uint32]bool{}
	for _, id := range req.GetUserTableIds() {
		perUser[id] = true
	}
	for _, id := range req.GetTableIds() {
		t := &catalog.Table{ID: id, Kind: catalog.SharedTable} // only where its rows are, and whose, is needed
		if perUser[id] {
			t.Kind = catalog.UserTable
		}
		w.Tables = append(w.Tables, t)
	}
	w.OpenSegment = func(ctx context.Context, seg *storagev1.Segment) (io.ReadCloser, error) {
		return s.cold.OpenFile(ctx, req.GetShard(), seg)
	}
	if err := (clusterKey{s}).awaitOther(ctx, nil); err != nil { // the job may just have made it, and this node's catalog be behind
		return nil, err
	}
	var err error
	if w.Key, err = s.keys.Open(ctx, backup.KeyPurpose(req.GetBackupId()), req.GetKey()); err != nil {
		return nil, err
	}
	if w.Target, err = s.targets().Open(req.GetPath()); err != nil {
		return nil, err
	}
	if req.GetParent() != "" {
		w.Parent, err = s.targets().Open(req.GetParent())
	}
	return w, err
}

// userKeys are users' data keys in the catalog.
type userKeys struct{ node *Storage }

// Of returns users' data keys, made for those who have none.
func (k userKeys) Of(ctx context.Context, users []string) (map[string][]byte, error) {
	sealed, err := k.node.catalog.UserKeys(users)
	if err != nil {
		return nil, err
	}
	if err := k.make(ctx, users, sealed); err != nil {
		return nil, err
	}
	keys := make(map[string][]byte, len(users))
	for _, u := range users {
		if sealed[u] == nil { // is being erased
			continue
		}
		if keys[u], err = k.node.keys.Open(ctx, userKeyPurpose(u), sealed[u]); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

func userKeyPurpose(user string) string { return "user-key/" + user }

// make has the catalog keep keys for those who have none here; another node may have made one first, which is then theirs.
func (k userKeys) make(ctx context.Context, users []string, sealed map[string][]byte) error {
	c := &catalogv1.CreateUserKeys{}
	for _, u := range users {
		if sealed[u] != nil {
			continue
		}
		raw, err := k.node.keys.Seal(ctx, userKeyPurpose(u), keyring.NewKey())
		if err != nil {
			return err
		}
		c.Keys = append(c.Keys, &catalogv1.UserKey{UserId: u, Wrapped: raw})
	}
	if len(c.GetKeys()) == 0 {
		return nil
	}
	resp, err := catalogv1.NewCatalogServiceClient(k.node.router.Catalog()).Apply(ctx, &catalogv1.ApplyRequest{Command: &catalogv1.Command{
		Command: &catalogv1.Command_CreateUserKeys{CreateUserKeys: c}}})
	if err != nil {
		return err
	}
	for _, made := range resp.GetUserKeys() {
		sealed[made.GetUserId()] = made.GetWrapped()
	}
	return nil
}

// Slot returns a page of a slot's keys.
func (k userKeys) Slot(ctx context.Context, slot uint16, after string) (users []string, sealed [][]byte, more bool, err error) {
	resp, err := catalogv1.NewCatalogServiceClient(k.node.router.Catalog()).ListUserKeys(ctx, &catalogv1.ListUserKeysRequest{Slot: uint32(slot), AfterUserId: after})
	for _, key := range resp.GetKeys() {
		users, sealed = append(users, key.GetUserId()), append(sealed, key.GetWrapped())
	}
	return users, sealed, resp.GetHasMore(), err
}

// Import writes rows that are being restored.
func (s *service) Import(ctx context.Context, req *storagev1.ImportRequest) (*storagev1.ImportResponse, error) {
	r, err := lookup{s.node}.replica(req.GetShard())
	if err != nil {
		return nil, err
	}
	t := catalog.TableFromProto(req.GetTable())
	_, n := s.node.catalog.Cluster()
	place, err := placeOf(shardmap.Even(n), t, req.GetOwner())
	if err != nil {
		return nil, err
	}
	if place.Shard != req.GetShard() || place.Owner != req.GetOwner() {
		return nil, dberr.New(dberr.InvalidArgument, "partition %q of %s is in shard %d, not in %d", req.GetOwner(), t.QualifiedName(), place.Shard, req.GetShard())
	}
	if err := r.Shard.Import(ctx, t, req.GetOwner(), req.GetRows()); err != nil {
		return nil, err
	}
	return &storagev1.ImportResponse{}, nil
}

// placeOf is where this cluster has the partition that a key's owner names.
func placeOf(m shardmap.Map, t *catalog.Table, owner string) (partition.Place, error) {
	if !t.Partitioned() {
		return partition.Home(m, t, owner), nil
	}
	p, ok := partition.Parse(t, owner)
	if !ok {
		return partition.Place{}, dberr.New(dberr.Corrupt, "%s has no partition %q", t.QualifiedName(), owner)
	}
	return partition.At(m, t, p), nil
}

// DescribeBackup reads a backup.
func (s *service) DescribeBackup(ctx context.Context, req *storagev1.DescribeBackupRequest) (*storagev1.DescribeBackupResponse, error) {
	t, err := s.node.targets().Open(req.GetPath())
	if err != nil {
		return nil, err
	}
	d, err := backup.ReadDescription(t)
	if err != nil {
		return nil, err
	}
	rows := map[uint32]uint64{}
	if req.GetVerify() {
		v := backup.Verifier{Find: s.node.targets().Open, Rows: rows}
		if err := v.Verify(ctx, t, d); err != nil {
			return nil, err
		}
	}
	tables, err := d.DecodeTables()
	if err != nil {
		return nil, err
	}
	resp := &storagev1.DescribeBackupResponse{Backup: summary(d, req.GetPath())}
	for _, versions := range tables {
		table := backup.TableOf(versions[len(versions)-1])
		resp.Tables = append(resp.Tables, &storagev1.BackupTable{Namespace: table.Namespace, Name: table.Name, Kind: table.Kind.String(), Rows: rows[table.ID]})
	}
	return resp, nil
}

// summary is what the catalog keeps of a backup.
func summary(d *backup.Description, path string) *catalogv1.Backup {
	b := &catalogv1.Backup{BackupId: d.ID, Path: path, Namespace: d.Namespace, CutUs: d.CutUS, Parent: d.Parent}
	b.Files, b.Bytes, b.Rows = d.Totals()
	return b
}
