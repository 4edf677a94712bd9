package shard

import (
	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// applyBatchBytesMax cuts a run of entries into several batches: each is a whole number of entries
// with the applied index behind them, so a crash between them loses nothing.
const applyBatchBytesMax = 32 << 20

// application is one Pebble batch under way.
type application struct {
	shard    *Shard
	batch    *pebble.Batch
	applied  keycodec.Applied
	changes  []published
	purged   []uint32
	erased   []string
	outcomes []outcome
	// reshapes: it changes segments; segmented are the partitions that have others than before.
	reshapes  bool
	segmented []ChangedSegments
	scratch   []byte
	key       []byte
	// buckets of remembered requests, nil as long as none is added; requests are those added.
	buckets  []uint32
	requests []rememberedRequest
	// verify is the entry behind which the state is to be summed up: it is the batch's last.
	verify *command.Command
}

// published is a change to hand to the hub once its batch is committed.
type published struct {
	table  uint32
	user   string
	key    []byte // the row's
	change *storagev1.Change
}

// outcome is what a command's writer is told then.
type outcome struct {
	first, index uint64
	err          error
}

// Apply applies committed entries: rows, change log, unique index and applied index of many entries in
// one batch. Only then are changes published and writers answered. It reads nothing but memory, unless segments change, rows are forgotten or a user is erased.
func (s *Shard) Apply(logs []*raft.Log) []any {
	results := make([]any, len(logs))
	if s.broken.Load() {
		return refuseAll(results)
	}
	a := s.newApplication()
	for i, l := range logs {
		if l.Index <= a.applied.Index {
			continue // replayed after a restart: the state has it
		}
		c, err := command.Decode(l.Data)
		if err == nil && (c.Kind == command.Segments || c.Kind == command.Forget || c.Kind == command.Erase) { // it reads the state: what is before it must be there
			if !a.commit() {
				return refuseAll(results)
			}
			a = s.newApplication()
		}
		if err == nil {
			err = a.entry(l, c)
		}
		if dberr.Is(err, dberr.Corrupt) { // skipping it would make this replica differ from others
			a.abandon(err)
			return refuseAll(results)
		}
		if err != nil {
			results[i] = err
		}
		a.applied.Index, a.applied.Term = l.Index, l.Term
		if a.batch.Len() > applyBatchBytesMax || a.verify != nil {
			if !a.commit() {
				return refuseAll(results)
			}
			a = s.newApplication()
		}
	}
	if !a.commit() {
		return refuseAll(results)
	}
	return results
}

// refuseAll answers entries this node could not apply. Writers of those it did apply have been
// answered before.
func refuseAll(results []any) []any {
	for i := range results {
		results[i] = errFailed
	}
	return results
}

func (s *Shard) newApplication() *application {
	return &application{shard: s, batch: s.cfg.DB.NewBatch(), applied: *s.applied.Load()}
}

// entry adds one entry to the batch. An error other than Corrupt is the command's outcome: the same on
// every replica.
func (a *application) entry(l *raft.Log, c *command.Command) error {
	var err error
	switch {
	case c.Term != l.Term:
		err = dberr.New(dberr.Unavailable, "shard %d changed leaders while the write was decided: nothing was written", a.shard.cfg.ID)
	case c.Kind == command.Purge:
		err = a.purge(c)
	case c.Kind == command.Verify:
		a.verify = c
	case c.Kind == command.Segments:
		err = a.segments(c)
	case c.Kind == command.Forget:
		err = a.forget(c)
	case c.Kind == command.Erase:
		err = a.erase(c)
	case c.Kind == command.Import:
		err = a.imported(c)
	default:
		err = a.write(c)
	}
	a.outcomes = append(a.outcomes, outcome{c.FirstSeq, l.Index, err})
	return err
}

func (a *application) write(c *command.Command) error {
	for i := range c.Rows {
		if a.shard.dropped[c.Rows[i].Table] {
			return dberr.New(dberr.TableNotFound, "table %d was dropped", c.Rows[i].Table)
		}
	}
	for i := range c.Rows {
		if err := a.row(c, i); err != nil {
			return err
		}
	}
	if n := len(c.Rows); n > 0 {
		a.applied.Seq = max(a.applied.Seq, snowflake.At(c.FirstSeq, n-1))
	}
	return a.remember(c)
}

func (a *application) row(c *command.Command, i int) error {
	r := &c.Rows[i]
	user := c.User
	if r.Shared {
		user = ""
	}
	ch := &storagev1.Change{Kind: r.Kind, Seq: snowflake.At(c.FirstSeq, i), SchemaVersion: r.SchemaVersion,
		Row: r.Row, OldRow: r.OldRow, OldSeq: r.OldSeq}
	if r.OldHere {
		ch.OldSeq = snowflake.At(c.FirstSeq, int(r.OldSeq))
	}
	v := keycodec.Version{Seq: ch.Seq, SchemaVersion: r.SchemaVersion, Row: r.Row}
	if r.Kind == storagev1.ChangeKind_CHANGE_KIND_DELETE {
		v = keycodec.Version{Seq: ch.Seq, Deleted: true, SchemaVersion: r.OldSchemaVersion, Row: r.OldRow}
	}
	a.scratch = keycodec.AppendVersion(a.scratch[:0], &v)
	if err := a.batch.Set(r.Key, a.scratch, nil); err != nil {
		return batchFailed(err)
	}
	if err := a.uniques(r, user); err != nil {
		return err
	}
	if err := changelog.Append(a.batch, a.shard.cfg.ID, r.Table, user, ch); err != nil {
		return batchFailed(err)
	}
	a.changes = append(a.changes, published{r.Table, user, r.Key, ch})
	return nil
}

func (a *application) uniques(r *command.Row, user string) error {
	for _, k := range r.UniqueDropped {
		if err := a.batch.Delete(k, nil); err != nil {
			return batchFailed(err)
		}
	}
	if len(r.UniqueSet) == 0 {
		return nil
	}
	a.scratch = keycodec.PartitionPrefix(a.scratch[:0], a.shard.cfg.ID, r.Table, user)
	if len(r.Key) < len(a.scratch) {
		return dberr.New(dberr.Corrupt, "apply: a row key shorter than its partition's prefix")
	}
	for _, k := range r.UniqueSet {
		if err := a.batch.Set(k, r.Key[len(a.scratch):], nil); err != nil {
			return batchFailed(err)
		}
	}
	return nil
}

// purge removes a table. Its changes stay in the change log until retention drops them; nobody can
// watch or read a table that is gone.
func (a *application) purge(c *command.Command) error {
	rows := keycodec.PrefixSpan(keycodec.TablePrefix(a.shard.cfg.ID, c.Table))
	index := keycodec.PrefixSpan(keycodec.TableUniquePrefix(a.shard.cfg.ID, c.Table))
	segments := keycodec.PrefixSpan(keycodec.TableSegmentPrefix(a.shard.cfg.ID, c.Table))
	for _, span := range []keycodec.Span{rows, index, segments} {
		if err := a.batch.DeleteRange(span.Start, span.End, nil); err != nil {
			return batchFailed(err)
		}
	}
	if err := a.batch.Set(keycodec.DroppedKey(a.shard.cfg.ID, c.Table), nil, nil); err != nil {
		return batchFailed(err)
	}
	a.shard.dropped[c.Table] = true
	a.reshapes = true
	a.purged = append(a.purged, c.Table)
	return nil
}

// batchFailed is an error that no replica may pass over.
func batchFailed(err error) error { return dberr.New(dberr.Corrupt, "apply: %w", err) }

// commit makes the batch visible, publishes its changes and answers its writers.
func (a *application) commit() bool {
	s := a.shard
	before := s.applied.Load()
	if a.applied.Index == before.Index {
		_ = a.batch.Close() // empty
		return true
	}
	s.requests.applied(a.buckets, a.requests)
	err := a.batch.Set(keycodec.AppliedKey(s.cfg.ID), keycodec.AppendApplied(nil, a.applied), nil)
	if err == nil {
		s.pruning.Lock()
		if a.reshapes {
			s.segmentChanges.begin()
		}
		err = a.batch.Commit(pebble.NoSync)
		if a.reshapes {
			s.segmentChanges.end()
		}
		s.pruning.Unlock()
	}
	if err != nil {
		a.abandon(err)
		return false
	}
	applied := a.applied
	s.applied.Store(&applied)
	s.highest.raise(a.changes)
	if a.verify != nil {
		s.sum(applied.Index, a.verify.Bucket)
	}
	s.progress.advance()
	if s.Leads() {
		s.noteWritten(a.changes)
	}
	if len(a.segmented) > 0 && s.cfg.SegmentsChanged != nil {
		s.cfg.SegmentsChanged(s.cfg.ID, a.segmented)
	}
	for _, t := range a.purged {
		s.hub.DropTable(t)
	}
	for _, user := range a.erased {
		s.forgetUser(user)
	}
	for _, c := range a.changes {
		s.hub.Publish(c.table, c.user, c.change)
	}
	if applied.Seq != before.Seq {
		s.hub.Advance(applied.Seq)
	}
	if s.cfg.Observe != nil {
		s.cfg.Observe(len(a.outcomes), a.batch.Len())
	}
	for _, o := range a.outcomes {
		if p, ours := s.take(o.first); ours {
			p.index = o.index
			p.finish(o.err)
		}
	}
	_ = a.batch.Close() // returns memory only
	return true
}

// abandon stops the node: an entry that is committed and cannot be applied here.
func (a *application) abandon(err error) {
	_ = a.batch.Close() // nothing of it was written
	a.shard.broken.Store(true)
	a.shard.cfg.Fail(dberr.New(dberr.CodeOf(err), "apply to shard %d after entry %d: %w", a.shard.cfg.ID, a.applied.Index, err))
}
