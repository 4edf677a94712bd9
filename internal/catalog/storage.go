package catalog

import (
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// LocalStorage is the id of the storage that always exists: the disks of the shards' replicas.
const LocalStorage = "local"

// The values of a user's storage mode (spec 6.6): in region, segments of tables with USE_USER_STORAGE go to the user's own storage.
const (
	StorageModeTable  = "table"
	StorageModeRegion = "region"
)

// storageIDBytesMax bounds the id of a storage, which is a part of messages and of what segments keep.
const storageIDBytesMax = 64

// CheckStorageID refuses ids that are no names: letters, digits, underscores and hyphens.
func CheckStorageID(id string) error {
	good := id != "" && len(id) <= storageIDBytesMax
	for _, c := range []byte(id) {
		good = good && (c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z')
	}
	if !good {
		return dberr.New(dberr.InvalidArgument, "%.80q is not the id of a storage: up to %d letters, digits, underscores and hyphens", id, storageIDBytesMax)
	}
	return nil
}

// JobMove is the type of a job that moves a table's segments to the storage where they belong.
const (
	JobMove       = "move"
	JobMovePrefix = "MV-"
)

// MoveKey is the idempotency key of a table's move: there is one at a time.
func MoveKey(table uint32) string { return jobKey(JobMove, table) }
