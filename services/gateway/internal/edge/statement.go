package edge

import (
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// IdempotencyKeyMax bounds a client's key in bytes: longer than any UUID or hash in text.
const IdempotencyKeyMax = 255

// StatementID is the id of a request in all its attempts: made of the client's key, which counts for that
// user only, or random.
func StatementID(user, key string) ([]byte, error) {
	if len(key) > IdempotencyKeyMax {
		return nil, dberr.New(dberr.InvalidArgument, "the idempotency key has %d bytes, more than the %d allowed", len(key), IdempotencyKeyMax)
	}
	id := requestid.New()
	if key != "" {
		id = requestid.Of(user, key)
	}
	return id[:], nil
}

// CheckConsistency refuses what makes no sense: a staleness is needed for stale reads, and for those only.
func CheckConsistency(c storagev1.Consistency, maxStalenessMS uint32) error {
	stale := c == storagev1.Consistency_CONSISTENCY_STALE
	switch {
	case storagev1.Consistency_name[int32(c)] == "":
		return dberr.New(dberr.InvalidArgument, "consistency %d is not known", c)
	case stale && maxStalenessMS == 0:
		return dberr.New(dberr.InvalidArgument, "stale reads need max_staleness_ms, 1 or more")
	case !stale && maxStalenessMS != 0:
		return dberr.New(dberr.InvalidArgument, "max_staleness_ms is for stale reads only")
	}
	return nil
}

// Consistency reads the words of the JSON API; empty means the default.
func Consistency(word string) (storagev1.Consistency, error) {
	switch word {
	case "":
		return storagev1.Consistency_CONSISTENCY_UNSPECIFIED, nil
	case "linearizable":
		return storagev1.Consistency_CONSISTENCY_LINEARIZABLE, nil
	case "leader":
		return storagev1.Consistency_CONSISTENCY_LEADER, nil
	case "stale":
		return storagev1.Consistency_CONSISTENCY_STALE, nil
	}
	return 0, dberr.New(dberr.InvalidArgument, "consistency must be linearizable, leader or stale")
}
