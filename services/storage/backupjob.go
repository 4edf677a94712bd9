package storage

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/keyring"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/backup"
)

const (
	// cutsMax is how often a cut is tried in a row: an election, or one write that takes a second, spoils it.
	cutsMax = 5
	// usersPage is how many accounts are read at a time.
	usersPage = 1000
	// thawTimeout bounds letting go of what a cut has.
	thawTimeout = 5 * time.Second
)

func jobParameters(j *catalogv1.Job) (p catalog.BackupJob, err error) {
	if err := json.Unmarshal([]byte(j.GetParameters()), &p); err != nil {
		return p, dberr.New(dberr.InvalidArgument, "the parameters of job %s: %w", j.GetJobId(), err)
	}
	return p, nil
}

// backup runs a job that backs up.
func (s *Storage) backup(ctx context.Context, j *catalogv1.Job, p *catalogv1.JobProgress, tell func()) (string, error) {
	params, err := jobParameters(j)
	if err != nil {
		return "", err
	}
	target, err := s.targets().Open(params.Path)
	if err != nil {
		return "", err
	}
	b := &backingUp{node: s, job: j, params: params, target: target, progress: p, tell: tell}
	d, err := backup.ReadDescription(target)
	switch {
	case err == nil && d.ID != j.GetJobId():
		return "", dberr.New(dberr.AlreadyExists, "%s has a backup already: name another path", params.Path)
	case err == nil: // a former attempt has completed it
		b.d = d
		message, err := b.record(ctx)
		if err == nil {
			err = b.removeErased(ctx)
		}
		return message, err
	case !dberr.Is(err, dberr.NotFound):
		return "", err
	}
	return b.run(ctx)
}

// backingUp is a backup under way.
type backingUp struct {
	node     *Storage
	job      *catalogv1.Job
	params   catalog.BackupJob
	target   backup.Target
	d        *backup.Description
	progress *catalogv1.JobProgress
	tell     func()

	cut string
	// servers have the views, positions are those of the shards; by shard.
	servers   []string
	positions []uint64
	tables    []*catalogv1.Table

	mu    sync.Mutex
	parts []backup.Progress
}

func (b *backingUp) run(ctx context.Context) (string, error) {
	if err := b.describe(ctx); err != nil {
		return "", err
	}
	defer b.thaw(ctx)
	if err := b.makeCut(ctx); err != nil {
		return "", err
	}
	if err := b.definitions(ctx); err != nil {
		return "", err
	}
	if err := b.write(ctx); err != nil {
		return "", err
	}
	if err := b.accounts(ctx); err != nil {
		return "", err
	}
	v := backup.Verifier{Find: b.node.targets().Open, Own: true}
	if err := v.Verify(ctx, b.target, b.d); err != nil {
		if dberr.Is(err, dberr.NotFound) {
			return "", dberr.New(dberr.NotFound, "node %d does not see what another storage node has written: the folders of storage.backup_paths must be shared by all of them: %w",
				b.node.identity.NodeID, err)
		}
		return "", err
	}
	if err := backup.WriteDescription(b.target, b.d); err != nil {
		return "", err
	}
	return b.record(ctx)
}

// describe begins the description, and makes the backup's key.
func (b *backingUp) describe(ctx context.Context) error {
	s := b.node
	id, shards := s.catalog.Cluster()
	b.d = &backup.Description{ID: b.job.GetJobId(), ClusterID: id, Shards: shards, Namespace: b.params.Namespace, Parent: b.params.Parent}
	b.servers, b.positions, b.parts = make([]string, shards), make([]uint64, shards), make([]backup.Progress, shards)
	var err error
	if b.d.Key, err = s.keys.Seal(ctx, backup.KeyPurpose(b.d.ID), keyring.NewKey()); err != nil {
		return err
	}
	b.d.ClusterKey = clusterKey{s}.ClusterKey()
	if b.params.Parent == "" {
		return nil
	}
	parent, err := s.targets().Open(b.params.Parent)
	if err != nil {
		return err
	}
	p, err := backup.ReadDescription(parent)
	if err != nil {
		return err
	}
	if p.ClusterID != id || p.Shards != shards {
		return dberr.New(dberr.InvalidArgument, "%s is a backup of another cluster (%s, %d shards): build upon one of this cluster", b.params.Parent, p.ClusterID, p.Shards)
	}
	return nil
}

// makeCut tries until all shards have been frozen together.
func (b *backingUp) makeCut(ctx context.Context) (err error) {
	for n := range cutsMax {
		b.cut = fmt.Sprintf("%s.%d.%d", b.job.GetJobId(), b.job.GetRetryCount(), n)
		if err = b.freezeAndView(ctx); err == nil || ctx.Err() != nil {
			return err
		}
		b.thaw(ctx)
	}
	return err
}

// freezeAndView has every shard stop, and, when all have, keep its state: what a write had seen, of any shard, is in the backup with it.
func (b *backingUp) freezeAndView(ctx context.Context) error {
	err := b.eachShard(ctx, func(ctx context.Context, shard uint32) error {
		resp, err := storagev1.NewStorageServiceClient(b.node.router.Shard(shard)).FreezeShard(ctx, &storagev1.FreezeShardRequest{Shard: shard, CutId: b.cut})
		b.servers[shard] = resp.GetServerId()
		return err
	})
	if err != nil {
		return err
	}
	b.d.CutUS = b.node.cfg.Now().UnixMicro()
	return b.eachShard(ctx, func(ctx context.Context, shard uint32) error {
		c, err := b.client(shard)
		if err != nil {
			return err
		}
		resp, err := c.ViewShard(ctx, &storagev1.ViewShardRequest{Shard: shard, CutId: b.cut})
		b.positions[shard] = resp.GetPosition()
		return err
	})
}

// client asks the server that has the view.
func (b *backingUp) client(shard uint32) (storagev1.StorageServiceClient, error) {
	conn, err := groups{b.node}.Server(b.servers[shard])
	if err != nil {
		return nil, err
	}
	return storagev1.NewStorageServiceClient(conn), nil
}

func (b *backingUp) eachShard(ctx context.Context, do func(ctx context.Context, shard uint32) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for shard := range b.d.Shards {
		g.Go(func() error {
			if err := do(ctx, shard); err != nil {
				return dberr.New(dberr.CodeOf(err), "shard %d: %w", shard, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// thaw lets go of freezes and views; those it cannot reach end by themselves.
func (b *backingUp) thaw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTimeout)
	defer cancel()
	_ = b.eachShard(ctx, func(ctx context.Context, shard uint32) error {
		if b.servers[shard] == "" {
			return nil
		}
		c, err := b.client(shard)
		if err == nil {
			_, err = c.ThawShard(ctx, &storagev1.ThawShardRequest{Shard: shard, CutId: b.cut})
		}
		if err != nil {
			b.node.cfg.Logger.InfoContext(ctx, "let go of what a backup has seen; it ends by itself", "shard", shard, "error", err)
		}
		return nil
	})
}

// definitions takes the catalog as it is behind the cut: it has every version of the rows in the views.
func (b *backingUp) definitions(ctx context.Context) error {
	s := b.node
	if err := s.catalogGroup.ReadBarrier(ctx); err != nil {
		return err
	}
	namespaces, tables := s.catalog.Entries(b.params.Namespace)
	if b.params.Namespace != "" && len(namespaces) == 0 {
		return dberr.New(dberr.NamespaceNotFound, "Namespace '%s' does not exist", b.params.Namespace)
	}
	for _, n := range namespaces {
		raw, err := backup.Encode(n)
		if err != nil {
			return err
		}
		b.d.Namespaces = append(b.d.Namespaces, raw)
	}
	for _, t := range tables {
		versions, err := s.versionsOf(t)
		if err != nil {
			return err
		}
		var raws []json.RawMessage
		for _, v := range versions {
			raw, err := backup.Encode(v)
			if err != nil {
				return err
			}
			raws = append(raws, raw)
		}
		b.d.Tables, b.tables = append(b.d.Tables, raws), append(b.tables, t)
	}
	return nil
}

// versionsOf are all versions of a table, oldest first.
func (s *Storage) versionsOf(t *catalogv1.Table) (versions []*catalogv1.Table, err error) {
	after := uint32(0)
	for more := true; more; {
		var page []*catalogv1.Table
		if page, more, err = s.catalog.FormerVersions(t.GetId(), t.GetId(), after); err != nil {
			return nil, err
		}
		for _, v := range page {
			if after = v.GetSchemaVersion(); after < t.GetSchemaVersion() {
				versions = append(versions, v)
			}
		}
	}
	return append(versions, t), nil
}

// write has every node write its part.
func (b *backingUp) write(ctx context.Context) error {
	b.progress.UnitsTotal = b.d.Shards
	b.d.Parts = make([]backup.Part, b.d.Shards)
	return b.eachShard(ctx, func(ctx context.Context, shard uint32) error {
		c, err := b.client(shard)
		if err != nil {
			return err
		}
		req := &storagev1.WriteBackupRequest{Shard: shard, CutId: b.cut, Path: b.params.Path, Parent: b.params.Parent, Key: b.d.Key, BackupId: b.d.ID}
		for _, t := range b.tables {
			if kind := catalog.TableKind(t.GetKind()); kind != catalog.StreamTable { // their rows are in memory only
				req.TableIds = append(req.TableIds, t.GetId())
				if kind.PerUser() {
					req.UserTableIds = append(req.UserTableIds, t.GetId())
				}
			}
		}
		stream, err := c.WriteBackup(ctx, req)
		if err != nil {
			return err
		}
		return b.follow(shard, stream.Recv)
	})
}

// follow hears how far a shard's part is, to the end.
func (b *backingUp) follow(shard uint32, recv func() (*storagev1.WriteBackupResponse, error)) error {
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			err = dberr.New(dberr.Unavailable, "the part of the backup was not finished")
		}
		if err != nil {
			return err
		}
		done := len(m.GetListSha256()) > 0
		b.note(shard, m, done)
		if done {
			b.d.Parts[shard] = backup.Part{Shard: shard, Position: b.positions[shard], Files: m.GetFiles(), Bytes: m.GetBytes(), Rows: m.GetRows(),
				List: backup.Sum{Path: backup.ListPath(shard), Bytes: int64(m.GetListBytes()), SHA256: hex.EncodeToString(m.GetListSha256())}}
			return nil
		}
	}
}

func (b *backingUp) note(shard uint32, m *storagev1.WriteBackupResponse, done bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.parts[shard] = backup.Progress{Files: m.GetFiles(), Bytes: m.GetBytes(), Rows: m.GetRows()}
	p := b.progress
	p.Rows, p.Bytes, p.Segments = 0, 0, 0
	for _, part := range b.parts {
		p.Rows, p.Bytes, p.Segments = p.Rows+part.Rows, p.Bytes+part.Bytes, p.Segments+part.Files
	}
	if done {
		p.UnitsDone++
	}
	b.tell()
}

// accounts writes the accounts, into a backup of the whole database.
func (b *backingUp) accounts(ctx context.Context) error {
	if b.params.Namespace != "" {
		return nil
	}
	s := b.node
	key, err := s.keys.Open(ctx, backup.KeyPurpose(b.d.ID), b.d.Key)
	if err != nil {
		return err
	}
	aead, err := keyring.AEAD(key)
	if err != nil {
		return err
	}
	var page []*catalogv1.User
	after, more := "", true
	b.d.Accounts, err = backup.WriteAccounts(b.target, backup.AccountsFile, b.d.ID, aead, func() (*catalogv1.User, error) {
		for len(page) == 0 {
			if !more {
				return nil, nil
			}
			var err error
			if page, more, err = s.catalog.Users(after, usersPage); err != nil {
				return nil, err
			}
		}
		u := page[0]
		page, after = page[1:], u.GetUserId()
		return u, nil
	})
	return err
}

// record tells the catalog of the backup.
func (b *backingUp) record(ctx context.Context) (string, error) {
	sum := summary(b.d, b.params.Path)
	sum.CompletedUs = b.node.cfg.Now().UnixMicro()
	_, err := b.node.commands.Apply(ctx, applied(&catalogv1.Command{Command: &catalogv1.Command_RecordBackup{RecordBackup: &catalogv1.RecordBackup{Backup: proto.CloneOf(sum)}}}))
	return fmt.Sprintf("%d row versions of %d tables backed up to %s (%d files, %d bytes)", sum.GetRows(), len(b.d.Tables), b.params.Path, sum.GetFiles(), sum.GetBytes()), err
}

func applied(c *catalogv1.Command) *catalogv1.ApplyRequest {
	return &catalogv1.ApplyRequest{Command: c}
}

func hexBytes(text string) ([]byte, error) {
	b, err := hex.DecodeString(text)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "a sum: %w", err)
	}
	return b, nil
}
