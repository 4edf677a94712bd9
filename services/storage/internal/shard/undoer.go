package shard

import (
	"bytes"
	"context"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/faultpoint"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const (
	// undoneRows and undoneBytes are where a write of restored rows is full: other writes come between.
	undoneRows  = 1000
	undoneBytes = 1 << 20
	// restoreCycleRows and restoreCycleBytes bound a write of rows that must come back in one moment, as each waits for the UNIQUE value of the next.
	restoreCycleRows  = 40_000
	restoreCycleBytes = 32 << 20
	// restoreTriesMax is how often a write of restored rows is made anew because its rows were changed meanwhile. Each time at least one of
	// them is left to who changed it.
	restoreTriesMax = 100
)

// undoer writes rows of the past, as any writer would: expecting the versions it has read. It may run again from the beginning at any time.
//
// In tables with UNIQUE columns a row may want a value that another row has, which gives it up later: that one comes first, in the same
// write or one before. Of rows that wait for each other in a circle one is deleted first and inserted last, in one write.
type undoer struct {
	shard    *Shard
	table    uint32
	user     string
	position uint64
	// past is what a row was: nil, it was not there. known is false for rows that are not to be restored.
	past func(key string) (row []byte, known bool, err error)

	counts storagev1.RestoredRows
	marks  map[string]mark // of the rows of this and former batches, where there are UNIQUE columns
	// barred are rows that cannot come back, found while others relied on them.
	barred map[string]bool
	tries  int
	b      *restoreBatch
}

type mark uint8

const (
	marked  mark = iota + 1 // it waits for others
	settled                 // it is in the batch, or was in one
)

// restored is what becomes of a row.
type restored uint8

const (
	unchanged restored = iota
	broughtBack
	removed
	newer
	blocked
)

// restoreBatch is one write.
type restoreBatch struct {
	table *catalog.Table
	d     *decider
	keys  []string
	ops   []restoreOp
	bytes int
	// stack are rows that wait for others.
	stack []*restoreFrame
	// freed are the UNIQUE values that rows of the batch give up.
	freed map[string]bool
	// early counts rows that are deleted and not yet inserted again.
	early int
	// ends counts what becomes of the rows.
	ends [blocked + 1]uint64
}

type restoreOp struct {
	kind     storagev1.Operation
	row      []byte
	expected uint64
}

// restoreFrame is a row on its way into the batch.
type restoreFrame struct {
	key  string
	end  restored
	op   restoreOp
	cur  *current
	want [][]byte // UNIQUE values it needs
	next int
	// early: the row was deleted ahead. light: what it was and is are not kept, as it waits: chains are as long as tables.
	early, light bool
}

// errAnew says that the batch is to be made anew.
var errAnew = errors.New("rows were changed meanwhile")

// run restores rows.
func (r *undoer) run(ctx context.Context, keys []string) error {
	r.marks, r.barred = map[string]mark{}, map[string]bool{}
	if err := r.begin(ctx); err != nil {
		return err
	}
	for _, key := range keys {
		if err := r.insist(ctx, []string{key}, r.full); err != nil {
			return err
		}
	}
	return r.insist(ctx, nil, func() bool { return true })
}

// insist puts rows into the batch, and writes it if it is to be written; again with other versions when rows were changed meanwhile.
func (r *undoer) insist(ctx context.Context, todo []string, write func() bool) error {
	for {
		var err error
		for len(todo) > 0 && err == nil {
			if err = r.visit(ctx, todo[0]); err == nil {
				todo = todo[1:]
			}
		}
		if err == nil && write() {
			err = r.write(ctx)
		}
		if !errors.Is(err, errAnew) {
			return err
		}
		if r.tries++; r.tries > restoreTriesMax {
			return dberr.New(dberr.Unavailable, "rows of table %d of user '%s' change all the time: they were not restored after %d attempts (restoreTriesMax)",
				r.table, r.user, restoreTriesMax)
		}
		todo = append(r.abandon(), todo...)
		if err := r.begin(ctx); err != nil {
			return err
		}
	}
}

// abandon forgets the batch, and returns its rows.
func (r *undoer) abandon() (keys []string) {
	keys = r.b.keys
	for _, f := range r.b.stack {
		keys = append(keys, f.key)
	}
	for _, key := range keys {
		delete(r.marks, key)
	}
	return keys
}

// begin makes a new batch, of the table as it is now.
func (r *undoer) begin(ctx context.Context) error {
	s := r.shard
	t, err := s.userTable(r.table)
	if err != nil {
		return err
	}
	r.b = &restoreBatch{table: t, freed: map[string]bool{}, d: &decider{shard: s.cfg.ID, db: s.cfg.DB, user: r.user, highest: s.highest,
		cold: &coldRows{ctx: ctx, shard: s.cfg.ID, db: s.cfg.DB, readers: s.cfg.Cold, changes: &s.segmentChanges}}}
	return nil
}

func (r *undoer) full() bool {
	return len(r.b.keys) >= undoneRows || r.b.bytes >= undoneBytes
}

// visit puts a row into the batch, behind those that it waits for.
func (r *undoer) visit(ctx context.Context, key string) error {
	if r.marks[key] != 0 {
		return nil // another row waited for it
	}
	if err := r.push(key); err != nil {
		return err
	}
	for len(r.b.stack) > 0 {
		if err := ctx.Err(); err != nil {
			return dberr.FromStatus(err)
		}
		f := r.b.stack[len(r.b.stack)-1]
		if f.next < len(f.want) {
			f.next++
			if err := r.makeRoom(f, f.want[f.next-1]); err != nil {
				return err
			}
			continue
		}
		if err := r.settle(f); err != nil {
			return err
		}
		r.b.stack = r.b.stack[:len(r.b.stack)-1]
		if len(r.b.stack) > 0 && r.full() { // a long chain: its end is written first
			if err := r.cut(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// cut writes a batch while rows wait for it, unless it has half of a circle.
func (r *undoer) cut(ctx context.Context) error {
	if r.b.early > 0 {
		if len(r.b.ops) > restoreCycleRows || r.b.bytes > restoreCycleBytes {
			return dberr.New(dberr.LimitExceeded, "more than %d rows (restoreCycleRows) or %d bytes (restoreCycleBytes) of %s have exchanged values of a UNIQUE column: "+
				"they cannot come back in one moment", restoreCycleRows, restoreCycleBytes, r.b.table.QualifiedName())
		}
		return nil
	}
	waiting := r.b.stack
	if err := r.write(ctx); err != nil {
		return err
	}
	r.b.stack = waiting
	for _, f := range waiting { // it is looked at again, in the table as it is then
		f.lighten()
	}
	return nil
}

// lighten forgets what is looked up again.
func (f *restoreFrame) lighten() { f.cur, f.op, f.light = nil, restoreOp{}, true }

// again looks up what a row that waited was and is.
func (r *undoer) again(f *restoreFrame) error {
	if !f.light {
		return nil
	}
	now, err := r.look(f.key)
	if err != nil {
		return err
	}
	f.end, f.op, f.cur, f.light = now.end, now.op, now.cur, false
	if !f.early {
		return nil
	}
	if f.op.kind != storagev1.Operation_OPERATION_UPDATE { // as it was when it was deleted ahead
		return errAnew
	}
	f.op.kind, f.op.expected = storagev1.Operation_OPERATION_INSERT, 0
	return nil
}

// push begins with a row.
func (r *undoer) push(key string) error {
	f, err := r.look(key)
	if err != nil {
		return err
	}
	if len(uniqueColumns(r.b.table)) > 0 {
		r.marks[key] = marked
	}
	r.b.stack = append(r.b.stack, f)
	return nil
}

// look decides what is to be done with a row.
func (r *undoer) look(key string) (*restoreFrame, error) {
	src, _, err := r.past(key)
	if err != nil {
		return nil, err
	}
	t := r.b.table
	f := &restoreFrame{key: key}
	it := &item{table: t, key: append(keycodec.PartitionPrefix(nil, r.shard.cfg.ID, t.ID, r.user), key...)}
	if f.cur, err = r.b.d.current(it); err != nil {
		return nil, err
	}
	since := f.cur.seq > r.position
	if src == nil {
		switch {
		case f.cur.live && since:
			f.end = newer
		case f.cur.live:
			f.end, f.op = removed, restoreOp{storagev1.Operation_OPERATION_DELETE, f.cur.row, f.cur.seq}
		case since:
			f.end = removed
		}
		return f, nil
	}
	row, was, err := wholeRow(t, src)
	if err != nil {
		return nil, err
	}
	if f.cur.live {
		_, is, err := wholeRow(t, f.cur.row)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(is, was) {
			if since {
				f.end = broughtBack
			}
			return f, nil
		}
	}
	if since {
		f.end = newer
		return f, nil
	}
	if r.barred[key] {
		f.end = blocked
		return f, nil
	}
	f.end, f.op = broughtBack, restoreOp{kind: storagev1.Operation_OPERATION_INSERT, row: was}
	if f.cur.live {
		f.op.kind, f.op.expected = storagev1.Operation_OPERATION_UPDATE, f.cur.seq
	}
	f.want, err = uniqueKeys(r.shard.cfg.ID, t, r.user, &row, uniqueColumns(t))
	return f, err
}

// wholeRow is a stored row as a SELECT shows it, with a value for every column of the table: what is left out of an INSERT would get the
// column's default.
func wholeRow(t *catalog.Table, src []byte) (row rowcodec.Row, encoded []byte, err error) {
	row = rowcodec.NewRow(t)
	if err := rowcodec.DecodeStored(src, t, &row); err != nil {
		return row, nil, err
	}
	for i := range row.Set {
		if !row.Set[i] {
			row.Put(i, datum.Null)
		}
	}
	return row, rowcodec.Append(nil, t, &row), nil
}

// makeRoom has the row that holds a UNIQUE value give it up first.
func (r *undoer) makeRoom(f *restoreFrame, value []byte) error {
	holder, err := r.holder(value, f.key)
	if err != nil || holder == "" || r.b.freed[string(value)] {
		return err
	}
	switch r.marks[holder] {
	case 0:
		_, known, err := r.past(holder)
		if err != nil || !known {
			return err
		}
		f.lighten()
		return r.push(holder)
	case marked:
		for _, w := range r.b.stack {
			if w.key == holder && !w.early {
				return r.deleteEarly(w)
			}
		}
	}
	return nil
}

// deleteEarly deletes a row that waits, in a circle, for one that waits for it.
func (r *undoer) deleteEarly(w *restoreFrame) error {
	if err := r.again(w); err != nil || w.op.kind != storagev1.Operation_OPERATION_UPDATE {
		return err
	}
	r.b.add(restoreOp{storagev1.Operation_OPERATION_DELETE, w.cur.row, w.cur.seq})
	r.b.early++
	w.early = true
	err := r.free(w.cur)
	w.lighten()
	return err
}

// holder is the other row that has a UNIQUE value, "" when none has.
func (r *undoer) holder(value []byte, key string) (string, error) {
	if value == nil {
		return "", nil
	}
	v, closer, err := r.shard.cfg.DB.Get(value)
	if errors.Is(err, pebble.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", readFailed(err)
	}
	holder := string(v)
	if holder == key {
		holder = ""
	}
	return holder, closer.Close()
}

// free notes that a row gives up its UNIQUE values. One that it keeps is nobody else's, so that does not matter.
func (r *undoer) free(cur *current) error {
	columns := uniqueColumns(r.b.table)
	if !cur.live || len(columns) == 0 {
		return nil
	}
	row := rowcodec.NewRow(r.b.table)
	if err := rowcodec.DecodeStored(cur.row, r.b.table, &row); err != nil {
		return err
	}
	values, err := uniqueKeys(r.shard.cfg.ID, r.b.table, r.user, &row, columns)
	for _, v := range values {
		if v != nil {
			r.b.freed[string(v)] = true
		}
	}
	return err
}

// settle puts a row into the batch that waits no longer.
func (r *undoer) settle(f *restoreFrame) error {
	if err := r.again(f); err != nil {
		return err
	}
	stuck := false
	for _, value := range f.want {
		holder, err := r.holder(value, f.key)
		if err != nil {
			return err
		}
		stuck = stuck || holder != "" && !r.b.freed[string(value)]
	}
	if stuck && f.early { // others rely on what it gave up
		r.barred[f.key] = true
		return errAnew
	}
	if stuck && f.op.kind != 0 {
		f.end, f.op = blocked, restoreOp{}
	}
	if f.op.kind != 0 {
		r.b.add(f.op)
		if err := r.free(f.cur); err != nil {
			return err
		}
	}
	if f.early {
		r.b.early--
	}
	if r.marks[f.key] != 0 {
		r.marks[f.key] = settled
	}
	r.b.keys = append(r.b.keys, f.key)
	r.b.ends[f.end]++
	return nil
}

func (b *restoreBatch) add(op restoreOp) {
	b.ops, b.bytes = append(b.ops, op), b.bytes+len(op.row)
}

// write writes the batch and begins another.
func (r *undoer) write(ctx context.Context) error {
	if len(r.b.ops) > 0 {
		err := faultpoint.Hit("restoreuser/batch")
		if err == nil {
			_, err = r.shard.Write(ctx, r.request())
		}
		if err == nil {
			err = faultpoint.Hit("restoreuser/written")
		}
		if changedMeanwhile(err) {
			return errAnew
		}
		if err != nil {
			return err
		}
		r.tries = 0
	}
	ends := r.b.ends
	r.counts.Unchanged += ends[unchanged]
	r.counts.Restored += ends[broughtBack]
	r.counts.Deleted += ends[removed]
	r.counts.Newer += ends[newer]
	r.counts.Blocked += ends[blocked]
	return r.begin(ctx)
}

// changedMeanwhile reports whether a write was refused because the rows, or the table, are not as they were read.
func changedMeanwhile(err error) bool {
	for _, code := range []dberr.Code{dberr.Conflict, dberr.PrimaryKeyViolation, dberr.UniqueViolation, dberr.SchemaChanged} {
		if dberr.Is(err, code) {
			return true
		}
	}
	return false
}

// request is the batch as a write of the user.
func (r *undoer) request() *storagev1.WriteRequest {
	req := &storagev1.WriteRequest{Identity: &catalogv1.Identity{UserId: r.user, Role: catalogv1.Role_ROLE_USER}, UserId: r.user, Shard: r.shard.cfg.ID}
	var w *storagev1.TableWrite
	for _, op := range r.b.ops {
		if w == nil || w.GetOperation() != op.kind {
			w = &storagev1.TableWrite{TableId: r.table, SchemaVersion: r.b.table.SchemaVersion, Operation: op.kind}
			req.Writes = append(req.Writes, w)
		}
		w.Rows = append(w.Rows, op.row)
		if op.kind != storagev1.Operation_OPERATION_INSERT {
			w.ExpectedSeqs = append(w.ExpectedSeqs, op.expected)
		}
	}
	return req
}
