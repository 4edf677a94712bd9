package shard

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// Destroy removes everything a shard has in the hot store, for good: the hot store has no log, so it is flushed.
// It is one batch, so a crash leaves all or nothing. Call it when the shard's group has stopped, before its Raft
// log is removed or after, but open no replica of the shard before both are: repeat both after a crash.
func Destroy(db *pebble.DB, shard uint32) error {
	b := db.NewBatch()
	err := b.Delete(keycodec.RestoringKey(shard), nil)
	for _, span := range keycodec.ShardSpans(shard) {
		err = errors.Join(err, b.DeleteRange(span.Start, span.End, nil))
	}
	if err == nil {
		err = b.Commit(pebble.NoSync)
	}
	err = errors.Join(err, b.Close())
	if err == nil {
		err = db.Flush()
	}
	if err != nil {
		return dberr.New(dberr.Unavailable, "remove shard %d: %w", shard, err)
	}
	return nil
}
