// Package undo finds out, from a partition's changes after a moment, what its rows were then: of each primary key the oldest change
// after the moment names the row before it, and a key without such a change has the row it had.
//
// Changes that undo others are in the log above the moment as well. They are newer, so what the oldest says stays the same however often
// it is asked, and whatever was undone meanwhile.
package undo

import (
	"context"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const (
	// keysMax bounds the rows of one partition that were changed since the moment: their keys are in memory.
	keysMax = 1_000_000
	// keyBytesMax bounds the bytes of these keys.
	keyBytesMax = 128 << 20
)

// Limits bound a plan. Zero fields take the defaults.
type Limits struct{ Keys, KeyBytes int }

func (l Limits) withDefaults() Limits {
	if l.Keys <= 0 {
		l.Keys = keysMax
	}
	if l.KeyBytes <= 0 {
		l.KeyBytes = keyBytesMax
	}
	return l
}

// Partition is whose changes are looked at.
type Partition struct {
	Shard uint32
	Table *catalog.Table
	User  string
}

// After is the position behind everything that happened up to the end of a moment's millisecond. A _seq tells milliseconds, so nothing
// finer can be told apart.
func After(moment time.Time) uint64 {
	first := snowflake.FirstAt(time.UnixMilli(moment.UnixMilli()+1), snowflake.SeqEpoch)
	return max(first, 1) - 1
}

// CheckReach refuses a moment that the shard's change log does not reach.
func CheckReach(r pebble.Reader, shard uint32, moment time.Time) error {
	oldest, err := changelog.Oldest(r, shard)
	if err != nil || After(moment) >= oldest {
		return err
	}
	const layout = "2006-01-02 15:04:05.000Z07:00"
	return dberr.New(dberr.PositionGone, "the change log does not reach %s: the oldest moment that a user's rows can be restored to is %s; "+
		"what is older can be restored from a backup alone (RESTORE DATABASE … FROM 'path' AS name)",
		moment.UTC().Format(layout), snowflake.Time(oldest, snowflake.SeqEpoch).Format(layout))
}

// Plan says which rows of a partition were changed after a moment, and what they were then.
type Plan struct {
	reader    pebble.Reader
	partition Partition
	// oldest is the _seq of each key's oldest change after the moment.
	oldest map[string]uint64
	// order has the keys as they were first changed.
	order []string
}

// Read makes a plan of the changes after one position and up to another. Keys are encoded as in row keys, without their prefix. It
// checks that every row can be told: what it returns without error can be undone. r must be a view that stays as it is.
func Read(ctx context.Context, r pebble.Reader, of Partition, after, until uint64, lim Limits) (*Plan, error) {
	lim = lim.withDefaults()
	p := &Plan{reader: r, partition: of, oldest: map[string]uint64{}}
	row, size := rowcodec.NewRow(of.Table), 0
	for more := true; more && after < until; {
		if err := ctx.Err(); err != nil {
			return nil, dberr.FromStatus(err)
		}
		var changes []*storagev1.Change
		var err error
		if changes, more, err = changelog.Read(r, of.Shard, of.Table.ID, of.User, after, changelog.Limits{}); err != nil {
			return nil, err
		}
		for _, ch := range changes {
			if after = ch.GetSeq(); after > until {
				break
			}
			key, err := p.keyOf(ch, &row)
			if err != nil {
				return nil, err
			}
			if _, seen := p.oldest[string(key)]; seen {
				continue
			}
			if size += len(key); len(p.order) >= lim.Keys || size > lim.KeyBytes {
				return nil, dberr.New(dberr.LimitExceeded, "more rows of %s were changed since then than can be undone: the limit is %d rows (keysMax) with %d bytes "+
					"of keys (keyBytesMax); name a later moment, or restore a backup", of.Table.QualifiedName(), lim.Keys, lim.KeyBytes)
			}
			if err := checkOld(of.Table, ch, &row); err != nil {
				return nil, err
			}
			p.oldest[string(key)] = ch.GetSeq()
			p.order = append(p.order, string(key))
		}
	}
	return p, nil
}

// keyOf is the primary key of a changed row.
func (p *Plan) keyOf(ch *storagev1.Change, row *rowcodec.Row) ([]byte, error) {
	src := ch.GetRow()
	if ch.GetKind() == storagev1.ChangeKind_CHANGE_KIND_DELETE {
		src = ch.GetOldRow()
	}
	t := p.partition.Table
	if len(src) == 0 {
		return nil, lacks(t, ch)
	}
	if err := rowcodec.Decode(src, t, row); err != nil {
		return nil, err
	}
	key := make([]datum.Datum, 0, len(t.Key()))
	for _, i := range t.Key() {
		if row.Values[i].IsNull() {
			return nil, lacks(t, ch)
		}
		key = append(key, row.Values[i])
	}
	return keycodec.AppendKeyValues(nil, key), nil
}

// checkOld checks that the row before a change can be read.
func checkOld(t *catalog.Table, ch *storagev1.Change, row *rowcodec.Row) error {
	if ch.GetKind() == storagev1.ChangeKind_CHANGE_KIND_INSERT {
		return nil
	}
	if len(ch.GetOldRow()) == 0 {
		return lacks(t, ch)
	}
	return rowcodec.DecodeStored(ch.GetOldRow(), t, row)
}

func lacks(t *catalog.Table, ch *storagev1.Change) error {
	return dberr.New(dberr.Corrupt, "change %d of %s does not say what the row was: nothing can be restored from the change log to before it", ch.GetSeq(), t.QualifiedName())
}

// Keys are the keys of the rows that were changed, as they were first changed.
func (p *Plan) Keys() []string { return p.order }

// Has reports whether a row was changed.
func (p *Plan) Has(key string) bool {
	_, ok := p.oldest[key]
	return ok
}

// Row is what a changed row was, encoded as it was stored then; nil: there was none. known is false for a row that was not changed.
func (p *Plan) Row(key string) (row []byte, known bool, err error) {
	seq, ok := p.oldest[key]
	if !ok {
		return nil, false, nil
	}
	ch, err := changelog.At(p.reader, p.partition.Shard, p.partition.Table.ID, p.partition.User, seq)
	if err != nil {
		return nil, false, err
	}
	if ch.GetKind() == storagev1.ChangeKind_CHANGE_KIND_INSERT {
		return nil, true, nil
	}
	return ch.GetOldRow(), true, nil
}

// Changed counts the rows that were changed after a position and are not in the plan, as far as limits let it.
func (p *Plan) Changed(ctx context.Context, r pebble.Reader, after uint64) (n uint64, err error) {
	since, err := Read(ctx, r, p.partition, after, math.MaxUint64, Limits{})
	if err != nil {
		return 0, err
	}
	for _, key := range since.order {
		if !p.Has(key) {
			n++
		}
	}
	return n, nil
}
