package cold

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sort"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/segment"
)

// Find returns the newest version of a key in a partition's segments. key are the values of t's key columns, encoded is what
// keycodec.AppendKeyValues makes of them.
func (r *Readers) Find(ctx context.Context, shard uint32, t *catalog.Table, entries []manifest.Entry, key []datum.Datum, encoded []byte) (v keycodec.Version, ok bool, err error) {
	candidates := make([]manifest.Entry, 0, len(entries))
	for _, e := range entries {
		if bytes.Compare(e.GetKeyMin(), encoded) <= 0 && bytes.Compare(encoded, e.GetKeyMax()) <= 0 {
			candidates = append(candidates, e)
		}
	}
	// A segment that merging made is newer than what it holds, so ids say nothing here.
	slices.SortFunc(candidates, func(a, b manifest.Entry) int { return cmp.Compare(b.GetSeqMax(), a.GetSeqMax()) })
	for _, e := range candidates {
		if ok && v.Seq >= e.GetSeqMax() {
			break
		}
		found, has, err := r.findIn(ctx, shard, t, e, key, encoded)
		if err != nil {
			return v, false, err
		}
		if has && (!ok || found.Seq > v.Seq) {
			v, ok = found, true
		}
	}
	return v, ok, nil
}

func (r *Readers) findIn(ctx context.Context, shard uint32, t *catalog.Table, e manifest.Entry, key []datum.Datum, encoded []byte) (v keycodec.Version, ok bool, err error) {
	reader, release, err := r.use(ctx, shard, e.Segment)
	if err != nil {
		return v, false, err
	}
	defer release()
	group := reader.GroupOf(encoded)
	if group < 0 {
		return v, false, nil
	}
	if may, err := reader.MayHold(group, t, key); err != nil || !may {
		return v, false, err
	}
	rows, err := r.block(ctx, reader, e.Segment, group, t, nil)
	if err != nil {
		return v, false, err
	}
	if i := lowerBound(rows, encoded); i < len(rows.Keys) && bytes.Equal(rows.Keys[i], encoded) {
		return rows.Versions[i], true, nil
	}
	return v, false, nil
}

// lowerBound is the first row whose key is not below key.
func lowerBound(rows *segment.Rows, key []byte) int {
	return sort.Search(len(rows.Keys), func(i int) bool { return bytes.Compare(rows.Keys[i], key) >= 0 })
}
