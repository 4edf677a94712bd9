package shard

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/invariants"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// decider turns a plan into the rows of a command. It reads the applied state, which cannot change
// under it where it looks: every key is reserved. What the command itself has written so far lies over
// the state.
type decider struct {
	shard   uint32
	db      pebble.Reader
	user    string
	highest *highest
	cold    *coldRows

	rows   map[string]*current // by row key; only when the plan has several rows
	unique map[string][]byte   // by index key: key of the row that holds the value, empty when free
	out    []command.Row
	// affected counts rows per TableWrite; stored are the rows as RETURNING shows them.
	affected []int
	stored   [][]byte
}

// current is a row as the next item finds it.
type current struct {
	live   bool
	seq    uint64 // or, if here, the number of a row of this command
	here   bool
	schema uint32
	row    []byte
}

func (d *decider) run(p *plan, writes int) error {
	d.user = p.user
	d.affected = make([]int, writes)
	d.out = make([]command.Row, 0, len(p.items))
	d.stored = make([][]byte, 0, len(p.items))
	if len(p.items) > 1 {
		d.rows = make(map[string]*current, len(p.items))
	}
	for i := range p.items {
		if err := d.item(&p.items[i]); err != nil {
			return ofWrite(err, p.items[i].write, writes)
		}
	}
	return nil
}

// ofWrite adds to an error which one of a request's writes was refused.
func ofWrite(err error, n, of int) error {
	var e *dberr.Error
	if of > 1 && errors.As(err, &e) {
		return e.With(dberr.FieldWrite, strconv.Itoa(n))
	}
	return err
}

func (d *decider) item(it *item) error {
	cur, err := d.find(it)
	if err != nil {
		return err
	}
	row := command.Row{Shared: !it.table.Owned(), Table: it.table.ID, SchemaVersion: it.table.SchemaVersion, Key: it.key, Row: it.row}
	switch it.op {
	case storagev1.Operation_OPERATION_INSERT:
		if cur.live {
			if it.skip {
				return nil
			}
			return keyViolation(it, cur)
		}
		row.Kind = storagev1.ChangeKind_CHANGE_KIND_INSERT
	case storagev1.Operation_OPERATION_UPDATE:
		row.Kind = storagev1.ChangeKind_CHANGE_KIND_UPDATE
	default:
		row.Kind = storagev1.ChangeKind_CHANGE_KIND_DELETE
	}
	if row.Kind != storagev1.ChangeKind_CHANGE_KIND_INSERT {
		if !cur.matches(it.expected) {
			return dberr.New(dberr.Conflict, "a row of %s changed since it was read (row %d)", it.table.QualifiedName(), it.ordinal)
		}
		if cur.schema > it.table.SchemaVersion { // this node's catalog is behind: what the new row does not know of would be lost
			return dberr.New(dberr.SchemaChanged, "a row of %s has schema version %d, the statement was bound to %d",
				it.table.QualifiedName(), cur.schema, it.table.SchemaVersion)
		}
		row.OldSchemaVersion, row.OldSeq, row.OldHere, row.OldRow = cur.schema, cur.seq, cur.here, cur.row
	}
	taken, err := d.indexUnique(it, cur, &row)
	if err != nil {
		return err
	}
	if taken >= 0 {
		if it.skip {
			return nil
		}
		return uniqueViolation(it, taken)
	}
	d.accept(it, &row)
	return nil
}

// matches reports whether the row is the one that was read. Zero expects a row this same request wrote
// earlier, whose _seq nobody can know yet.
func (c *current) matches(expected uint64) bool {
	if !c.live {
		return false
	}
	if c.here {
		return expected == 0
	}
	return expected != 0 && c.seq == expected
}

func (d *decider) accept(it *item, row *command.Row) {
	for _, k := range row.UniqueDropped {
		d.setUnique(k, nil)
	}
	for _, k := range row.UniqueSet {
		d.setUnique(k, it.key)
	}
	if d.rows != nil {
		d.rows[string(it.key)] = &current{live: row.Kind != storagev1.ChangeKind_CHANGE_KIND_DELETE,
			seq: uint64(len(d.out)), here: true, schema: row.SchemaVersion, row: it.row}
	}
	shown := it.row
	if row.Kind == storagev1.ChangeKind_CHANGE_KIND_DELETE {
		shown = row.OldRow
	}
	d.out = append(d.out, *row)
	d.stored = append(d.stored, shown)
	d.affected[it.write]++
}

// find returns the row as it is before the item. A key that was just generated is mostly known to be new.
func (d *decider) find(it *item) (*current, error) {
	isNew, err := d.isNew(it)
	if err != nil {
		return nil, err
	}
	if !isNew {
		return d.current(it)
	}
	if invariants.On {
		cur, err := d.current(it)
		invariants.Check(err != nil || !cur.live && cur.seq == 0, "a generated key of %s is not new", it.table.QualifiedName())
	}
	return &current{}, nil
}

// current reads a row. It looks into the hot store first: rows move from there to segments, never back.
func (d *decider) current(it *item) (*current, error) {
	if cur, ok := d.rows[string(it.key)]; ok {
		return cur, nil
	}
	v, closer, err := d.db.Get(it.key)
	if errors.Is(err, pebble.ErrNotFound) {
		return d.cold.current(it, d.owner(it))
	}
	if err != nil {
		return nil, readFailed(err)
	}
	defer func() { _ = closer.Close() }() // only gives the block back
	ver, err := keycodec.DecodeVersion(v)
	if err != nil {
		return nil, err
	}
	return &current{live: !ver.Deleted, seq: ver.Seq, schema: ver.SchemaVersion, row: bytes.Clone(ver.Row)}, nil
}

func readFailed(err error) error {
	return dberr.New(dberr.Unavailable, "read the shard's state: %w", err)
}

// indexUnique finds which index entries change. taken is the position of a UNIQUE column whose value
// another row holds, -1 when there is none.
func (d *decider) indexUnique(it *item, cur *current, row *command.Row) (taken int, err error) {
	columns := uniqueColumns(it.table)
	if len(columns) == 0 {
		return -1, nil
	}
	old, err := d.oldUnique(it, cur, columns)
	if err != nil {
		return -1, err
	}
	for n, column := range columns {
		var now, before []byte
		if it.unique != nil {
			now = it.unique[n]
		}
		if old != nil {
			before = old[n]
		}
		if bytes.Equal(now, before) {
			continue
		}
		if before != nil {
			row.UniqueDropped = append(row.UniqueDropped, before)
		}
		if now == nil {
			continue
		}
		free, err := d.free(now, it)
		if err != nil {
			return -1, err
		}
		if !free {
			return column, nil
		}
		row.UniqueSet = append(row.UniqueSet, now)
	}
	return -1, nil
}

// oldUnique are the index keys of the row being replaced.
func (d *decider) oldUnique(it *item, cur *current, columns []int) ([][]byte, error) {
	if !cur.live {
		return nil, nil
	}
	row := rowcodec.NewRow(it.table)
	if err := rowcodec.DecodeStored(cur.row, it.table, &row); err != nil {
		return nil, err
	}
	return uniqueKeys(d.shard, it.table, d.owner(it), &row, columns)
}

// owner is the owner in the key of an item's row.
func (d *decider) owner(it *item) string {
	if it.table.Owned() {
		return d.user
	}
	return ""
}

// free reports whether no other row holds a unique value.
func (d *decider) free(key []byte, it *item) (bool, error) {
	if holder, ok := d.unique[string(key)]; ok {
		return len(holder) == 0, nil
	}
	_, closer, err := d.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, readFailed(err)
	}
	return false, closer.Close()
}

func (d *decider) setUnique(key, holder []byte) {
	if d.unique == nil {
		d.unique = map[string][]byte{}
	}
	d.unique[string(key)] = holder
}

func keyViolation(it *item, cur *current) error {
	names := make([]string, 0, 1)
	for i := range it.table.Key() {
		names = append(names, it.table.KeyColumn(i).Name)
	}
	what := "already exists in " + it.table.QualifiedName()
	if cur.here {
		what = "is in the same statement, for " + it.table.QualifiedName()
	}
	return dberr.New(dberr.PrimaryKeyViolation, "Primary key violation: a row with the same %s %s (row %d)",
		strings.Join(names, ", "), what, it.ordinal)
}

func uniqueViolation(it *item, column int) error {
	return dberr.New(dberr.UniqueViolation, "Unique constraint violation: a row with the same %s exists in %s (row %d)",
		it.table.Columns[column].Name, it.table.QualifiedName(), it.ordinal)
}
