package shard

import (
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// The account of a user who is erased is closed for good first: no leader that knows of it decides or logs a write of the user. Then one
// entry removes all that the user has in the shard. A leader to come may not know of it yet, so the job looks again when all nodes do.

// surveyFilesMax is how many files a survey names; the others are counted.
const surveyFilesMax = 100

// surveyCancelKeys is how many keys are counted between two looks at the context.
const surveyCancelKeys = 4096

func (s *Shard) erasing(user string) (job string) {
	if s.cfg.Erasing == nil {
		return ""
	}
	return s.cfg.Erasing(user)
}

// checkOpen refuses a user whose account is closed for good.
func (s *Shard) checkOpen(user string) error { return CheckOpen(user, s.erasing(user)) }

// CheckOpen is the error for reading or writing rows of a user who is erased by a job; nil when that is "".
func CheckOpen(user, job string) error {
	if job == "" {
		return nil
	}
	return dberr.New(dberr.UserNotFound, "user '%s' is being erased (job %s): the user's rows can neither be read nor written", user, job)
}

// checkErasing is asked when a command gets its place in the log: what was decided before this node heard that the account is closed must
// not come behind the Erase, and an Erase must not come when the name is somebody else's.
func (s *Shard) checkErasing(cmd *command.Command) error {
	switch cmd.Kind {
	case command.Write, command.Segments, command.Import:
		if cmd.User != "" {
			return s.checkOpen(cmd.User)
		}
	case command.Erase:
		if s.erasing(cmd.User) != cmd.Job {
			return dberr.New(dberr.InvalidOperation, "job %s does not erase user '%s' any more", cmd.Job, cmd.User)
		}
	}
	return nil
}

// EraseUser removes everything a user has from the shard's state, and returns the entry's index in the log. Its bytes are still on the
// disks then.
func (s *Shard) EraseUser(ctx context.Context, user, job string) (index uint64, err error) {
	term, err := s.office()
	if err != nil {
		return 0, err
	}
	if f := s.format(); f < command.VersionErase {
		return 0, dberr.New(dberr.Unavailable, "a storage node of an earlier version, which does not know erasure, is part of the cluster (format %d)", f)
	}
	pend, err := s.admit(ctx, &plan{})
	if err != nil {
		return 0, err
	}
	if err := s.log(pend, &command.Command{Kind: command.Erase, Term: term, User: user, Job: job}, nil); err != nil {
		return 0, err
	}
	if _, err := pend.Wait(ctx); err != nil {
		return 0, err
	}
	return pend.index, nil
}

// erase applies an entry. Everything before it is committed, so it may read. It costs a look at each table, and in the change log at each
// table in each hour.
func (a *application) erase(c *command.Command) error {
	id := a.shard.cfg.ID
	a.reshapes = true
	a.erased = append(a.erased, c.User)
	for _, space := range []keycodec.UserSpace{keycodec.RowSpace(id), keycodec.UniqueSpace(id), keycodec.ChangeSpace(id), keycodec.SegmentSpace(id)} {
		err := eachUserSpan(a.shard.cfg.DB, space, c.User, func(_ uint32, span keycodec.Span, _ *pebble.Iterator) error {
			return a.batch.DeleteRange(span.Start, span.End, nil)
		})
		if err != nil {
			return batchFailed(err)
		}
	}
	return nil
}

// forgetUser lets go of what memory has of a user who was erased.
func (s *Shard) forgetUser(user string) {
	s.highest.forgetUser(user)
	s.hub.EndUser(user, dberr.New(dberr.UserNotFound, "user '%s' was erased", user))
}

// eachUserSpan visits what a user has in each group of a space. The iterator stands at the first key; where visit leaves it does not matter.
func eachUserSpan(r manifest.Reader, space keycodec.UserSpace, user string,
	visit func(table uint32, span keycodec.Span, it *pebble.Iterator) error) (err error) {
	all := keycodec.PrefixSpan(space.Prefix)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: all.Start, UpperBound: all.End})
	if err != nil {
		return readFailed(err)
	}
	for ok := it.First(); ok && err == nil; {
		var group []byte
		var table uint32
		if group, table, err = space.Group(it.Key()); err != nil {
			break
		}
		span := keycodec.UserSpan(group, user)
		if it.SeekGE(span.Start) && string(it.Key()) < string(span.End) {
			err = visit(table, span, it)
		}
		ok = it.SeekGE(keycodec.PrefixEnd(group))
	}
	if closeErr := errors.Join(it.Error(), it.Close()); closeErr != nil && err == nil {
		err = readFailed(closeErr)
	}
	return err
}

// Survey says what a user has in this shard: nothing that is empty is in it.
func (s *Shard) Survey(ctx context.Context, user string) (*catalogv1.ErasureSurvey, error) {
	if err := s.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	v := &surveyor{ctx: ctx, shard: s, user: user, tables: map[uint32]*catalogv1.ErasedTable{}, survey: &catalogv1.ErasureSurvey{}}
	snap := s.cfg.DB.NewSnapshot()
	err := v.look(snap)
	return v.survey, errors.Join(err, snap.Close())
}

type surveyor struct {
	ctx    context.Context
	shard  *Shard
	user   string
	tables map[uint32]*catalogv1.ErasedTable
	survey *catalogv1.ErasureSurvey
}

func (v *surveyor) look(snap *pebble.Snapshot) error {
	id := v.shard.cfg.ID
	for _, part := range []struct {
		space keycodec.UserSpace
		count func(*catalogv1.ErasedTable) *uint64
	}{
		{keycodec.RowSpace(id), func(t *catalogv1.ErasedTable) *uint64 { return &t.HotRows }},
		{keycodec.UniqueSpace(id), func(t *catalogv1.ErasedTable) *uint64 { return &t.UniqueEntries }},
		{keycodec.ChangeSpace(id), func(t *catalogv1.ErasedTable) *uint64 { return &t.Changes }},
	} {
		if err := eachUserSpan(snap, part.space, v.user, func(table uint32, span keycodec.Span, it *pebble.Iterator) error {
			return v.count(part.count(v.table(table)), span, it)
		}); err != nil {
			return err
		}
	}
	return eachUserSpan(snap, keycodec.SegmentSpace(id), v.user, func(table uint32, span keycodec.Span, _ *pebble.Iterator) error {
		return manifest.Each(snap, span, func(e manifest.Entry) error {
			v.segment(v.table(table), e)
			return v.ctx.Err()
		})
	})
}

func (v *surveyor) count(n *uint64, span keycodec.Span, it *pebble.Iterator) error {
	for ok := true; ok && string(it.Key()) < string(span.End); ok = it.Next() {
		if *n++; *n%surveyCancelKeys == 0 && v.ctx.Err() != nil {
			return dberr.FromStatus(v.ctx.Err())
		}
	}
	return nil
}

func (v *surveyor) segment(t *catalogv1.ErasedTable, e manifest.Entry) {
	t.Segments++
	t.SegmentRows += e.GetRows()
	t.SegmentBytes += e.GetBytes()
	v.survey.FilesTotal++
	if len(v.survey.GetFiles()) < surveyFilesMax {
		v.survey.Files = append(v.survey.Files, &catalogv1.ErasedFile{Path: e.GetPath(), Bytes: e.GetBytes(), Sha256: e.GetSha256(), StorageId: e.GetStorageId()})
	}
}

// table is the line of a table, by id as they are first met.
func (v *surveyor) table(id uint32) *catalogv1.ErasedTable {
	t, ok := v.tables[id]
	if !ok {
		t = &catalogv1.ErasedTable{TableId: id}
		if now, exists := v.shard.cfg.Tables.Table(id); exists {
			t.Namespace, t.Name = now.Namespace, now.Name
		}
		v.tables[id] = t
		v.survey.Tables = append(v.survey.Tables, t)
	}
	return t
}

// AddStreams adds rows of STREAM tables, which only memory has, to a survey.
func AddStreams(survey *catalogv1.ErasureSurvey, rows map[uint32]int, table func(uint32) (*catalog.Table, bool)) {
	for id, n := range rows {
		t := &catalogv1.ErasedTable{TableId: id, HotRows: uint64(n)}
		if now, ok := table(id); ok {
			t.Namespace, t.Name = now.Namespace, now.Name
		}
		survey.Tables = append(survey.Tables, t)
	}
}
