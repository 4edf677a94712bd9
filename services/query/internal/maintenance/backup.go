package maintenance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// Backup executes BACKUP DATABASE.
func (j *Jobs) Backup(ctx context.Context, id catalog.Identity, s *sqlfront.Backup) (string, error) {
	if err := access.Can(id.Role, access.ManageBackups); err != nil {
		return "", err
	}
	if s.Namespace != "" {
		if systemtable.IsSystem(s.Namespace) {
			return "", dberr.New(dberr.InvalidOperation, "namespace '%s' has system tables only: there is nothing to back up", s.Namespace)
		}
		if _, ok := j.Catalog.State().Namespaces[s.Namespace]; !ok {
			if s.IfExists {
				return "Backup skipped: namespace '" + s.Namespace + "' does not exist", nil
			}
			return "", dberr.New(dberr.NamespaceNotFound, "Namespace '%s' does not exist", s.Namespace)
		}
	}
	job, err := j.startBackup(ctx, id, catalog.JobBackup, catalog.JobBackupPrefix, catalog.BackupKey(s.Path),
		catalog.BackupJob{Path: s.Path, Parent: s.Parent, Namespace: s.Namespace})
	if dberr.Is(err, dberr.AlreadyExists) {
		return "", dberr.New(dberr.AlreadyExists, "a backup to '%s' is already queued or running", s.Path)
	}
	if err != nil {
		return "", err
	}
	return "Backup started for " + whatOf(s.Namespace) + " to '" + s.Path + "'. Job ID: " + job, nil
}

// Restore executes RESTORE DATABASE.
func (j *Jobs) Restore(ctx context.Context, id catalog.Identity, s *sqlfront.Restore) (string, error) {
	if err := access.Can(id.Role, access.ManageBackups); err != nil {
		return "", err
	}
	if systemtable.IsSystem(s.Namespace) || systemtable.IsSystem(s.As) {
		return "", dberr.New(dberr.InvalidOperation, "a namespace of system tables cannot be restored")
	}
	job, err := j.startBackup(ctx, id, catalog.JobRestore, catalog.JobRestorePrefix, catalog.RestoreKey,
		catalog.BackupJob{Path: s.Path, Namespace: s.Namespace, As: s.As, IfNotExists: s.IfNotExists})
	if dberr.Is(err, dberr.AlreadyExists) {
		return "", dberr.New(dberr.AlreadyExists, "a restore is already queued or running: there is one at a time")
	}
	if err != nil {
		return "", err
	}
	return "Restore started for " + whatOf(s.Namespace) + " from '" + s.Path + "'. Job ID: " + job, nil
}

func whatOf(namespace string) string {
	if namespace == "" {
		return "the database"
	}
	return "namespace '" + namespace + "'"
}

func (j *Jobs) startBackup(ctx context.Context, id catalog.Identity, kind, prefix, key string, p catalog.BackupJob) (string, error) {
	return j.startWith(ctx, id, kind, prefix, key, p.Namespace, p)
}

// startWith starts a job that is not of one table.
func (j *Jobs) startWith(ctx context.Context, id catalog.Identity, kind, prefix, key, namespace string, p any) (string, error) {
	var random [jobIDBytes]byte
	_, _ = rand.Read(random[:]) // never fails: see crypto/rand
	parameters, err := json.Marshal(p)
	if err != nil {
		return "", dberr.New(dberr.Internal, "describe a job: %w", err)
	}
	resp, err := j.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_CreateJob{CreateJob: &catalogv1.CreateJob{Job: &catalogv1.Job{
		JobId: prefix + hex.EncodeToString(random[:]), Type: kind, Namespace: namespace, Parameters: string(parameters),
		IdempotencyKey: key, MaxRetries: retriesMax, CreatedBy: id.UserID}}}})
	return resp.GetJob().GetJobId(), err
}
