package shard

import (
	"context"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// Move copies the segments of a table that are not where its partitions' segments go now, and names the copies in their place, one segment
// after the other: what was moved when it fails stays moved. Flushes and merges of the table wait for one segment, not for all. Only the
// leader can. Behind until (by Config.Steady) it stops and says that there is more.
func (s *Shard) Move(ctx context.Context, t *catalog.Table, until time.Time, hold Hold) (total Merged, more bool, err error) {
	for {
		entries, err := s.elsewhere(t.ID)
		if err != nil || len(entries) == 0 {
			return total, false, err
		}
		for i, e := range entries {
			if i > 0 && s.cfg.Steady().After(until) {
				return total, true, nil
			}
			m, err := s.moveOne(ctx, e, hold)
			if dberr.Is(err, dberr.Conflict) {
				continue // merged meanwhile; the next round sees what it became
			}
			if i > 0 && entries[i-1].User == e.User {
				m.Partitions = 0
			}
			if total.add(m); err != nil {
				return total, false, err
			}
		}
	}
}

// moveOne moves a segment.
func (s *Shard) moveOne(ctx context.Context, e manifest.Entry, hold Hold) (m Merged, err error) {
	term, err := s.office()
	if err != nil {
		return m, err
	}
	release, err := s.flushes.enter(ctx, e.Table)
	if err != nil {
		return m, err
	}
	defer release()
	t, err := s.newest(&catalog.Table{ID: e.Table})
	if err != nil {
		return m, err
	}
	out := s.output(func(ctx context.Context, seg *storagev1.Segment) error {
		if err := s.checkOpen(e.User); err != nil { // before its file goes anywhere else
			return err
		}
		return hold(ctx, seg)
	})
	seg, err := out.Copy(ctx, s.cfg.Cold, cold.Partition{Shard: s.cfg.ID, Table: t, Owner: e.User}, e.Segment)
	if err != nil {
		return m, err
	}
	change := SegmentsChange{Table: t.ID, User: e.User, Removed: []uint64{e.ID}, Added: []*storagev1.Segment{seg}}
	if err := s.ChangeSegments(ctx, term, change); err != nil {
		return m, err
	}
	return Merged{Removed: 1, Added: 1, Partitions: 1, Rows: seg.GetRows(), Bytes: seg.GetBytes()}, nil
}

// elsewhere lists the segments of a table that are not where they belong.
func (s *Shard) elsewhere(table uint32) (found []manifest.Entry, err error) {
	if s.cfg.Place == nil {
		return nil, nil
	}
	t, err := s.newest(&catalog.Table{ID: table})
	if err != nil {
		return nil, err
	}
	entries, err := manifest.ReadTable(s.cfg.DB, s.cfg.ID, t.ID)
	if err != nil {
		return nil, err
	}
	var place cold.Place
	for i, e := range entries {
		if i == 0 || e.User != entries[i-1].User {
			if place, err = s.cfg.Place(s.cfg.ID, t, e.User); err != nil {
				return nil, err
			}
		}
		if !place.Holds(e.Segment) {
			found = append(found, e)
		}
	}
	return found, nil
}
