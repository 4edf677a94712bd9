package catalogstate

import (
	"context"

	"go.etcd.io/bbolt"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// bucketBackups has the backups this cluster made: index of the entry that recorded it → Backup. The first one makes it: see bucketJobs.
var bucketBackups = []byte("backups")

const (
	// backupsMax is how many are known, the newest; what is behind is still a backup.
	backupsMax = 1000
	// backupTextMax bounds the paths of a backup in bytes.
	backupTextMax = 4096
)

func (t *transaction) recordBackup(c *catalogv1.RecordBackup) (*catalogv1.ApplyResponse, error) {
	b := c.GetBackup()
	if b.GetBackupId() == "" || len(b.GetPath())+len(b.GetParent()) > backupTextMax {
		return nil, refuse(dberr.InvalidArgument, "a backup has an id, and paths of at most %d bytes (backupTextMax)", backupTextMax)
	}
	bucket, err := t.tx.CreateBucketIfNotExists(bucketBackups)
	if err != nil {
		return nil, err
	}
	n, known := 0, false
	err = each(t.tx, bucketBackups, func(other *catalogv1.Backup) {
		n++
		known = known || other.GetBackupId() == b.GetBackupId()
	})
	if err != nil || known {
		return &catalogv1.ApplyResponse{}, err
	}
	for ; n >= backupsMax; n-- {
		oldest, _ := bucket.Cursor().First()
		if err := bucket.Delete(oldest); err != nil {
			return nil, err
		}
	}
	return changed(), putMessage(bucket, numberKey(t.index), b)
}

// Backups are those this cluster made, the oldest first.
func (s *State) Backups() (backups []*catalogv1.Backup, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketBackups) == nil {
			return nil
		}
		return each(tx, bucketBackups, func(b *catalogv1.Backup) { backups = append(backups, b) })
	})
	return backups, err
}

// ListBackups lists the backups this cluster made, as of now.
func (s *Service) ListBackups(ctx context.Context, _ *catalogv1.ListBackupsRequest) (*catalogv1.ListBackupsResponse, error) {
	if err := s.group.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	backups, err := s.state.Backups()
	return &catalogv1.ListBackupsResponse{Backups: backups}, err
}
