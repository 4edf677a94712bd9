package storage

import (
	"context"
	"crypto/cipher"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/keyring"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/backup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const (
	// importBytes and importRows are where a batch of restored rows is full: one entry of a shard's log.
	importBytes = 1 << 20
	importRows  = 10_000
	// importsAtOnce bounds the batches under way.
	importsAtOnce = 8
	// restoreCommandBytes is where a command of the catalog with versions or accounts is full.
	restoreCommandBytes = 256 << 10
)

// restore runs a job that restores.
func (s *Storage) restore(ctx context.Context, j *catalogv1.Job, p *catalogv1.JobProgress, tell func()) (string, error) {
	params, err := jobParameters(j)
	if err != nil {
		return "", err
	}
	r := &restoringBackup{node: s, job: j, params: params, progress: p, tell: tell, tables: map[uint32]*catalog.Table{}, protos: map[uint32]*catalogv1.Table{}}
	if r.target, err = s.targets().Open(params.Path); err != nil {
		return "", err
	}
	if r.d, err = backup.ReadDescription(r.target); err != nil {
		return "", err
	}
	return r.run(ctx)
}

// restoringBackup is a restore under way.
type restoringBackup struct {
	node     *Storage
	job      *catalogv1.Job
	params   catalog.BackupJob
	target   backup.Target
	d        *backup.Description
	progress *catalogv1.JobProgress
	tell     func()

	// tables are those to restore as they are in this cluster, by their ids in the backup; protos are the same, by their ids here.
	tables map[uint32]*catalog.Table
	protos map[uint32]*catalogv1.Table
	ids    []uint32 // in this cluster, in order
	// erased counts partitions of users whose keys were destroyed.
	erased  uint64
	skipped int
	keys    foreignKeys
}

func (r *restoringBackup) run(ctx context.Context) (string, error) {
	if ns := r.params.Namespace; ns != "" && r.d.Namespace != "" && ns != r.d.Namespace {
		return "", dberr.New(dberr.NamespaceNotFound, "%s is a backup of namespace '%s', not of '%s'", r.params.Path, r.d.Namespace, ns)
	}
	if _, err := r.d.OwnKey(ctx, r.keys.open(r.node)); err != nil { // before everything is read: the master key may be another one
		return "", err
	}
	v := backup.Verifier{Find: r.node.targets().Open}
	if err := v.Verify(ctx, r.target, r.d); err != nil {
		return "", err
	}
	// What a former attempt has left is dropped; this one begins anew.
	if _, err := r.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_AbandonRestore{AbandonRestore: &catalogv1.AbandonRestore{RestoreId: r.job.GetJobId()}}}); err != nil {
		return "", err
	}
	namespaces, err := r.define(ctx)
	if err != nil {
		return "", err
	}
	if err := r.rows(ctx); err != nil {
		return "", err
	}
	if err := r.accounts(ctx); err != nil {
		return "", err
	}
	return r.finish(ctx, namespaces)
}

// apply changes the catalog through this node alone: what it sends when it leads no longer must not arrive.
func (r *restoringBackup) apply(ctx context.Context, c *catalogv1.Command) (*catalogv1.ApplyResponse, error) {
	return r.node.commands.Apply(ctx, applied(c))
}

// named is what a namespace of the backup is called here; false: it is not asked for.
func (r *restoringBackup) named(namespace string) (string, bool) {
	if r.params.Namespace != "" && namespace != r.params.Namespace {
		return "", false
	}
	if r.params.As != "" {
		return r.params.As, true
	}
	return namespace, true
}

// define makes the tables, which nobody sees, and returns the namespaces they need.
func (r *restoringBackup) define(ctx context.Context) ([]*catalogv1.Namespace, error) {
	all, err := r.d.DecodeNamespaces()
	if err != nil {
		return nil, err
	}
	var namespaces []*catalogv1.Namespace
	for _, n := range all {
		if name, ok := r.named(n.GetName()); ok {
			n.Name = name
			namespaces = append(namespaces, n)
		}
	}
	if len(namespaces) == 0 {
		return nil, dberr.New(dberr.NamespaceNotFound, "the backup %s has no namespace '%s'", r.params.Path, r.params.Namespace)
	}
	tables, err := r.d.DecodeTables()
	if err != nil {
		return nil, err
	}
	for _, versions := range tables {
		if err := r.defineTable(ctx, versions); err != nil {
			return nil, err
		}
	}
	slices.Sort(r.ids)
	return namespaces, nil
}

func (r *restoringBackup) defineTable(ctx context.Context, versions []*catalogv1.Table) error {
	newest := versions[len(versions)-1]
	name, ok := r.named(newest.GetNamespace())
	if !ok {
		return nil
	}
	id := newest.GetId()
	for _, v := range versions {
		v.Namespace, v.Id = name, 0
	}
	resp, err := r.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_RestoreTable{RestoreTable: &catalogv1.RestoreTable{
		RestoreId: r.job.GetJobId(), Table: proto.CloneOf(newest)}}})
	if dberr.Is(err, dberr.AlreadyExists) && r.params.IfNotExists {
		r.skipped++
		return nil
	}
	if err != nil {
		return err
	}
	t := resp.GetTable()
	r.protos[t.GetId()], r.tables[id] = t, catalog.TableFromProto(t)
	r.ids = append(r.ids, t.GetId())
	var page []*catalogv1.Table
	size := 0
	for i, v := range versions[:len(versions)-1] {
		page, size = append(page, v), size+proto.Size(v)
		if size < restoreCommandBytes && i < len(versions)-2 {
			continue
		}
		if _, err := r.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_RestoreVersions{RestoreVersions: &catalogv1.RestoreVersions{
			RestoreId: r.job.GetJobId(), TableId: t.GetId(), Versions: page}}}); err != nil {
			return err
		}
		page, size = nil, 0
	}
	return nil
}

// rows sends all rows to the shards that own them here.
func (r *restoringBackup) rows(ctx context.Context) error {
	s := r.node
	scratch := s.dir.join("spool/" + r.job.GetJobId())
	if err := s.dir.fs.RemoveAll(scratch); err != nil {
		return dberr.New(dberr.Unavailable, "remove what a former restore has left: %w", err)
	}
	reader, err := backup.NewReader(r.target, r.d, s.targets().Open, r.keys.open(s), s.dir.fs, scratch)
	if err != nil {
		return err
	}
	_, n := s.catalog.Cluster()
	r.progress.UnitsTotal = uint32(len(r.d.Parts))
	for _, part := range r.d.Parts {
		if err := r.part(ctx, reader, part, shardmap.Even(n)); err != nil {
			return err
		}
		r.progress.UnitsDone++
		r.tell()
	}
	r.erased = reader.Erased
	if err := s.dir.fs.RemoveAll(scratch); err != nil {
		return dberr.New(dberr.Unavailable, "remove what was decrypted to restore: %w", err)
	}
	return nil
}

func (r *restoringBackup) part(ctx context.Context, reader *backup.Reader, part backup.Part, m shardmap.Map) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(importsAtOnce)
	err := reader.Each(ctx, part, r.tables, func(t *catalog.Table, owner string, rows backup.Rows) error {
		place, err := placeOf(m, t, owner)
		if err != nil {
			return err
		}
		of := r.protos[t.ID]
		r.progress.Partitions++
		r.tell()
		return r.partition(ctx, rows, func(batch []*storagev1.ImportRow) {
			g.Go(func() error {
				_, err := storagev1.NewStorageServiceClient(r.node.router.Shard(place.Shard)).Import(ctx, &storagev1.ImportRequest{
					Shard: place.Shard, Table: of, Owner: place.Owner, Rows: batch})
				if dberr.Is(err, dberr.UserNotFound) { // is being erased here
					return nil
				}
				return err
			})
		})
	})
	if sent := g.Wait(); sent != nil {
		return sent // the first: it has ended ctx
	}
	return err
}

// partition cuts the rows of a partition into batches.
func (r *restoringBackup) partition(ctx context.Context, rows backup.Rows, send func([]*storagev1.ImportRow)) error {
	var batch []*storagev1.ImportRow
	size := 0
	for {
		key, v, ok, err := rows(ctx)
		if err != nil {
			return err
		}
		if ok {
			row := &storagev1.ImportRow{Key: key, Version: keycodec.AppendVersion(nil, &v)}
			batch, size = append(batch, row), size+len(row.Key)+len(row.Version)
			r.progress.Rows, r.progress.Bytes = r.progress.Rows+1, r.progress.Bytes+uint64(len(row.Version))
		}
		if len(batch) > 0 && (!ok || size >= importBytes || len(batch) >= importRows) {
			send(batch)
			batch, size = nil, 0
		}
		if !ok {
			return nil
		}
	}
}

// accounts restores those of a whole database.
func (r *restoringBackup) accounts(ctx context.Context) error {
	if r.params.Namespace != "" || r.d.Accounts == nil {
		return nil
	}
	aead, err := r.d.OwnKey(ctx, r.keys.open(r.node))
	if err != nil {
		return err
	}
	var page []*catalogv1.User
	size := 0
	send := func() error {
		_, err := r.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_RestoreAccounts{RestoreAccounts: &catalogv1.RestoreAccounts{Users: page}}})
		page, size = nil, 0
		return err
	}
	err = backup.ReadAccounts(r.target, r.d.Accounts.Path, aead, func(u *catalogv1.User) error {
		page, size = append(page, u), size+proto.Size(u)
		if size < restoreCommandBytes {
			return nil
		}
		return send()
	})
	if err != nil || len(page) == 0 {
		return err
	}
	return send()
}

// finish makes everything visible, and completes the job with the same command.
func (r *restoringBackup) finish(ctx context.Context, namespaces []*catalogv1.Namespace) (string, error) {
	message := fmt.Sprintf("%d rows of %d partitions of %d tables restored from %s", r.progress.GetRows(), r.progress.GetPartitions(), len(r.ids), r.params.Path)
	if r.skipped > 0 {
		message += fmt.Sprintf(" (%d tables exist and were left as they are)", r.skipped)
	}
	if r.erased > 0 {
		message += fmt.Sprintf(" (%d partitions of users who were erased cannot be read any more)", r.erased)
	}
	_, err := r.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_FinishRestore{FinishRestore: &catalogv1.FinishRestore{
		RestoreId: r.job.GetJobId(), Namespaces: namespaces, Message: message, Progress: proto.CloneOf(r.progress), TableIds: r.ids}}})
	return message, err
}

// foreignKeys opens what the clusters of backups have sealed. A cluster key is unwrapped once: the master key may be far away.
type foreignKeys struct {
	of   keyring.WrappedKey
	aead cipher.AEAD
}

func (k *foreignKeys) open(s *Storage) backup.OpenKey {
	return func(ctx context.Context, of keyring.WrappedKey, purpose string, sealed []byte) ([]byte, error) {
		if k.aead == nil || string(k.of.Wrapped) != string(of.Wrapped) {
			aead, err := s.keys.Foreign(ctx, of)
			if err != nil {
				return nil, err
			}
			k.of, k.aead = of, aead
		}
		return keyring.OpenWith(k.aead, purpose, sealed)
	}
}
