// Package manifestfile keeps a manifest.json beside the segments of each partition: the list that the shard's state has, for
// readers which are not this program. Every replica writes its own; nothing here reads it to answer a query.
package manifestfile

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

const (
	// changedMax bounds the partitions that are remembered to be written, about 100 bytes each. Beyond it all are looked at.
	changedMax = 10_000
	// retryPause is how long a partition waits whose manifest cannot be written yet: a file is on its way, or the catalog.
	retryPause = time.Second
)

// Config says where manifests come from and go to.
type Config struct {
	Files *cold.Files
	// Hot has the lists of segments.
	Hot manifest.Reader
	// Table finds the newest version of a table.
	Table func(id uint32) (*catalog.Table, bool)
	// TooMany asks for a Check of everything.
	TooMany func()
	// Remote writes a manifest beside a segment that is not local, if this node leads the shard; done is false when it does not. nil: there are
	// no such segments.
	Remote func(ctx context.Context, shard uint32, beside *storagev1.Segment, path string, raw []byte) (done bool, err error)
	// Now is the clock; nil means time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Keeper writes manifests.
type Keeper struct {
	cfg Config

	mu      sync.Mutex
	changed map[partition]struct{}
	wake    chan struct{}
	// writing keeps an older list from being written over a newer one.
	writing sync.Mutex
	// sent are the versions that were written beside segments which are not local, unsent the partitions whose could not be; both as far as this
	// run of the program knows, and at most changedMax. Guarded by writing.
	sent   map[partition]manifest.Version
	unsent map[partition]struct{}
}

type partition struct {
	shard, table uint32
	owner        string
}

// New makes a keeper. Run it.
func New(cfg Config) *Keeper {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Keeper{cfg: cfg, changed: map[partition]struct{}{}, wake: make(chan struct{}, 1), sent: map[partition]manifest.Version{},
		unsent: map[partition]struct{}{}}
}

// Changed notes that a partition has other segments now. It does not wait: apply calls it.
func (k *Keeper) Changed(shard, table uint32, owner string) {
	if !k.note(partition{shard, table, owner}) {
		return
	}
	select {
	case k.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// note remembers a partition, unless too many are remembered: then all are looked at.
func (k *Keeper) note(p partition) bool {
	k.mu.Lock()
	_, known := k.changed[p]
	room := known || len(k.changed) < changedMax
	if room {
		k.changed[p] = struct{}{}
	}
	k.mu.Unlock()
	if !room {
		k.cfg.TooMany()
	}
	return room
}

// Run writes what has changed until ctx ends. What is not written then is found by Check after the next start.
func (k *Keeper) Run(ctx context.Context) {
	for {
		var again <-chan time.Time
		if k.round(ctx) {
			again = time.After(retryPause)
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-k.wake:
		}
	}
}

// round writes what has changed, and reports whether something has to wait.
func (k *Keeper) round(ctx context.Context) (later bool) {
	k.mu.Lock()
	todo := k.changed
	k.changed = map[partition]struct{}{}
	k.mu.Unlock()
	for p := range todo {
		if ctx.Err() != nil {
			return false
		}
		done, err := k.write(ctx, p)
		if err != nil {
			k.cfg.Logger.WarnContext(ctx, "write a manifest", "shard", p.shard, "table_id", p.table, "error", err)
		}
		if !done {
			k.note(p)
			later = true
		}
	}
	return later
}

// write writes a partition's manifest as the state is now. done is false when it has to wait.
func (k *Keeper) write(ctx context.Context, p partition) (done bool, err error) {
	k.writing.Lock()
	defer k.writing.Unlock()
	entries, err := manifest.Read(k.cfg.Hot, p.shard, p.table, p.owner)
	if err != nil || len(entries) == 0 {
		return err == nil, err // nothing is left of it: the sweep removes the file
	}
	t, ok := k.cfg.Table(p.table)
	if !ok {
		return false, nil // dropped, and soon without segments; or this node's catalog is behind
	}
	for _, e := range entries {
		if e.GetSchemaVersion() > t.SchemaVersion || e.GetStorageId() == "" && !k.cfg.Files.Has(e.Segment) {
			return false, nil // a list must name no file that is not here
		}
	}
	raw, err := manifest.JSON(t, p.owner, entries)
	if err != nil {
		return false, err
	}
	if last := entries[len(entries)-1]; last.GetStorageId() != "" {
		return k.send(ctx, p, last.Segment, entries, raw)
	}
	err = k.cfg.Files.Replace(manifest.Path(entries), raw)
	return err == nil, err
}

// send writes a manifest beside a segment that is not local. A store that is away is asked again by the next check. writing is held.
func (k *Keeper) send(ctx context.Context, p partition, beside *storagev1.Segment, entries []manifest.Entry, raw []byte) (done bool, err error) {
	v := manifest.VersionOf(entries)
	if k.cfg.Remote == nil || k.sent[p] == v {
		return true, nil
	}
	wrote, err := k.cfg.Remote(ctx, p.shard, beside, manifest.Path(entries), raw)
	if err != nil {
		if len(k.unsent) < changedMax {
			k.unsent[p] = struct{}{}
		}
		return true, err
	}
	delete(k.unsent, p)
	if wrote {
		if len(k.sent) >= changedMax {
			clear(k.sent)
		}
		k.sent[p] = v
	}
	return true, nil
}

// recent is how long after a change its manifest is looked after that should be beside a segment which is not local: asking the store for
// every partition there is would cost a request for each.
const recent = time.Hour

// due reports whether a manifest that belongs beside a segment which is not local should be written (again): it could not be, or changed lately
// and nobody here knows that it was, as another node led then.
func (k *Keeper) due(p partition, entries []manifest.Entry) bool {
	k.writing.Lock()
	defer k.writing.Unlock()
	_, failed := k.unsent[p]
	age := k.cfg.Now().Sub(time.UnixMicro(manifest.UpdatedUs(entries)))
	return failed || k.sent[p] != manifest.VersionOf(entries) && age < recent
}

// Check compares the manifests of a shard's partitions with its state and writes those that differ or are missing.
func (k *Keeper) Check(ctx context.Context, shard uint32) error {
	var failed error
	err := manifest.EachPartition(k.cfg.Hot, keycodec.PrefixSpan(keycodec.SegmentPrefix(shard)), func(entries []manifest.Entry) (bool, error) {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if entries[len(entries)-1].GetStorageId() != "" {
			p := partition{shard, entries[0].Table, entries[0].User}
			if k.due(p, entries) {
				if _, err := k.write(ctx, p); err != nil {
					failed = err
				}
			}
			return true, nil
		}
		raw, err := k.cfg.Files.ReadAll(manifest.Path(entries))
		if err == nil && manifest.ParseVersion(raw) == manifest.VersionOf(entries) {
			return true, nil
		}
		if dberr.Is(err, dberr.NotFound) {
			err = nil
		}
		if err == nil {
			_, err = k.write(ctx, partition{shard, entries[0].Table, entries[0].User}) // what has to wait waits for the next check
		}
		if err != nil {
			failed = err
		}
		return true, nil
	})
	return errors.Join(err, failed)
}
