package storage

import (
	"context"
	"errors"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/backup"
)

// backupKeys destroys users' data keys, here and in backups. It runs on the leader of the catalog.
type backupKeys struct{ node *Storage }

// DestroyKeys removes a user's key from the catalog, so that no backup gets it any more, and then from every backup that is known. One that
// is not where it was made is not: the receipt says so.
func (k backupKeys) DestroyKeys(ctx context.Context, user string) ([]*catalogv1.ErasedBackup, error) {
	s := k.node
	if _, err := s.commands.Apply(ctx, &catalogv1.ApplyRequest{Command: &catalogv1.Command{TimeUs: s.cfg.Now().UnixMicro(),
		Command: &catalogv1.Command_DestroyUserKey{DestroyUserKey: &catalogv1.DestroyUserKey{UserId: user}}}}); err != nil {
		return nil, err
	}
	known, err := s.catalog.Backups()
	if err != nil {
		return nil, err
	}
	var erased []*catalogv1.ErasedBackup
	for _, b := range known {
		done, err := k.removeFrom(ctx, b, user)
		if err != nil {
			return nil, dberr.New(dberr.CodeOf(err), "backup %s at %s: %w", b.GetBackupId(), b.GetPath(), err)
		}
		erased = append(erased, &catalogv1.ErasedBackup{BackupId: b.GetBackupId(), KeyDestroyed: done})
	}
	return erased, nil
}

// removeFrom is false when the backup is not there.
func (k backupKeys) removeFrom(ctx context.Context, b *catalogv1.Backup, user string) (bool, error) {
	t, err := k.node.targets().Open(b.GetPath())
	if dberr.Is(err, dberr.InvalidArgument) { // its folder is not allowed any more
		return false, nil
	}
	if err != nil {
		return false, err
	}
	d, err := backup.ReadDescription(t)
	if dberr.Is(err, dberr.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if d.ID != b.GetBackupId() { // another one was made there since, which is known by its own id
		return true, nil
	}
	keys := foreignKeys{}
	return true, backup.RemoveUser(ctx, t, d, keys.open(k.node), user)
}

// removeErased removes from a backup, which the catalog knows by now, those who were erased while it was made: whoever erases from now on
// finds it.
func (b *backingUp) removeErased(ctx context.Context) error {
	erased, err := backup.Missing(b.target, func(users []string) (map[string][]byte, error) { return b.node.catalog.UserKeys(users) })
	if err != nil {
		return err
	}
	keys := foreignKeys{}
	var errs []error
	for _, user := range erased {
		errs = append(errs, backup.RemoveUser(ctx, b.target, b.d, keys.open(b.node), user))
	}
	return errors.Join(errs...)
}
