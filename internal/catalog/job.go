package catalog

import (
	"strconv"

	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// JobFlush is the type of a job that moves a table's rows into segments, JobCompact of one that merges its segments. The prefixes
// begin the ids of such jobs.
const (
	JobFlush         = "flush"
	JobFlushPrefix   = "FL-"
	JobCompact       = "compact"
	JobCompactPrefix = "CO-"
)

// JobErase is the type of a job that erases a user because somebody asked for it, JobUserCleanup of one that does so because the user was
// dropped long enough ago.
const (
	JobErase             = "erase"
	JobErasePrefix       = "ER-"
	JobUserCleanup       = "user_cleanup"
	JobUserCleanupPrefix = "UC-"
)

// JobErases reports whether a job erases a user: nothing ends such a job but its success.
func JobErases(kind string) bool { return kind == JobErase || kind == JobUserCleanup }

// EraseKey is the idempotency key of a user's erasure: there is one at a time.
func EraseKey(user string) string { return JobErase + ":" + user }

// JobBackup is the type of a job that backs up a database, JobRestore of one that restores it.
const (
	JobBackup        = "backup"
	JobBackupPrefix  = "BK-"
	JobRestore       = "restore"
	JobRestorePrefix = "RS-"
)

// BackupJob are the parameters of a job that backs up or restores, as JSON.
type BackupJob struct {
	// Path is as the statement named it; Parent that of the backup to build upon, empty for none.
	Path   string `json:"path"`
	Parent string `json:"parent,omitempty"`
	// Namespace is empty for the whole database. As is the name it gets when it is restored; empty: its own.
	Namespace string `json:"namespace,omitempty"`
	As        string `json:"as,omitempty"`
	// IfNotExists leaves tables alone that exist.
	IfNotExists bool `json:"if_not_exists,omitempty"`
}

// JobRestoreUser is the type of a job that makes one user's rows what they were at a moment.
const (
	JobRestoreUser       = "restore_user"
	JobRestoreUserPrefix = "RU-"
)

// RestoreUserJob are the parameters of such a job, as JSON.
type RestoreUserJob struct {
	User string `json:"user_id"`
	// To is the user to write to; empty: User.
	To string `json:"to,omitempty"`
	// Namespace is empty for the tables of all.
	Namespace string `json:"namespace,omitempty"`
	// MomentUS is in microseconds since the Unix epoch: what happened up to the end of its millisecond stays.
	MomentUS int64 `json:"moment_us"`
}

// Target is the user written to.
func (p *RestoreUserJob) Target() string {
	if p.To != "" {
		return p.To
	}
	return p.User
}

// RestoreUserKey is the idempotency key of such a job: there is one at a time that writes to a user.
func RestoreUserKey(target string) string { return JobRestoreUser + ":" + target }

// BackupKey is the idempotency key of a backup: there is one at a time to a path.
func BackupKey(path string) string { return JobBackup + ":" + path }

// RestoreKey is the idempotency key of a restore: there is one at a time, as two could make the same tables.
const RestoreKey = JobRestore

// FlushKey is the idempotency key of a table's flush: there is one at a time.
func FlushKey(table uint32) string { return jobKey(JobFlush, table) }

// CompactKey is the idempotency key of a table's compaction: there is one at a time.
func CompactKey(table uint32) string { return jobKey(JobCompact, table) }

func jobKey(kind string, table uint32) string {
	return kind + ":" + strconv.FormatUint(uint64(table), 10)
}

// JobEnded reports whether nothing changes a job of this status any more.
func JobEnded(s catalogv1.JobStatus) bool { return s >= catalogv1.JobStatus_JOB_STATUS_COMPLETED }

// JobStatusName is a status as people read it.
func JobStatusName(s catalogv1.JobStatus) string {
	names := [...]string{"unknown", "new", "queued", "running", "retrying", "completed", "failed", "cancelled", "skipped"}
	if s < 0 || int(s) >= len(names) { // of a newer version
		return names[0]
	}
	return names[s]
}
