package shard

import (
	"slices"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const (
	// writeRowsMax bounds the rows of one write: more would hold the shard's log for too long.
	writeRowsMax = 100_000
	// commandBytesMax bounds one Raft entry, which is held in memory several times on its way.
	commandBytesMax = 64 << 20
	// keyBytesMax bounds a row's key and a unique value's: they are index entries, kept in memory.
	keyBytesMax = 16 << 10
)

// plan is a write as far as it is known without reading: complete rows, and every key it touches.
type plan struct {
	user  string
	items []item
	bytes int
}

// tables are the tables of the items, each once.
func (p *plan) tables() []uint32 {
	var ids []uint32
	for i := range p.items {
		if id := p.items[i].table.ID; !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// item is one row to write.
type item struct {
	write    int // the position of its TableWrite
	ordinal  int // of the row within the TableWrite, from 1
	op       storagev1.Operation
	skip     bool // on conflict, do nothing
	table    *catalog.Table
	key      []byte
	row      []byte // the complete new row; of a DELETE empty
	expected uint64
	// generated: the leader made the key.
	generated bool
	// unique are the index keys of the row's values of the table's UNIQUE columns; nil for NULL.
	unique [][]byte
}

// planner makes the plan of one request.
type planner struct {
	shard  uint32
	shards shardmap.Map
	tables Tables
	// open refuses users whose accounts are closed for good.
	open func(user string) error
	fill filler
	plan plan
}

func (p *planner) run(req *storagev1.WriteRequest) error {
	p.plan.user = req.GetUserId()
	rows := 0
	for _, w := range req.GetWrites() {
		rows += len(w.GetRows())
	}
	if rows > writeRowsMax {
		return dberr.New(dberr.LimitExceeded, "a write of %d rows, the limit is %d (writeRowsMax): use several", rows, writeRowsMax)
	}
	p.plan.items = make([]item, 0, rows)
	for i, w := range req.GetWrites() {
		t, err := p.table(req, w)
		if err != nil {
			return err
		}
		if err := p.addWrite(i, t, w); err != nil {
			return ofWrite(err, i, len(req.GetWrites()))
		}
	}
	return nil
}

// Authorize finds the written table and checks that the write may and should come to this shard.
func (s *Shard) Authorize(req *storagev1.WriteRequest, w *storagev1.TableWrite) (*catalog.Table, error) {
	p := planner{shard: s.cfg.ID, shards: s.cfg.Shards, tables: s.cfg.Tables, open: s.checkOpen}
	return p.table(req, w)
}

func (p *planner) table(req *storagev1.WriteRequest, w *storagev1.TableWrite) (*catalog.Table, error) {
	t, ok := p.tables.Table(w.GetTableId())
	if !ok {
		return nil, dberr.New(dberr.TableNotFound, "table %d does not exist", w.GetTableId())
	}
	if w.GetSchemaVersion() != t.SchemaVersion {
		return nil, dberr.New(dberr.SchemaChanged, "%s has schema version %d, the statement was bound to %d",
			t.QualifiedName(), t.SchemaVersion, w.GetSchemaVersion())
	}
	place, err := p.place(t, req)
	if err != nil {
		return nil, err
	}
	if place.Shard != p.shard {
		return nil, dberr.New(dberr.InvalidArgument, "rows of %s belong to shard %d, not %d", t.QualifiedName(), place.Shard, p.shard)
	}
	return t, nil
}

// place is where the request's rows of t belong: the caller's own partition, or the one of a shared table it names.
func (p *planner) place(t *catalog.Table, req *storagev1.WriteRequest) (partition.Place, error) {
	if t.Partitioned() {
		n, ok := partition.Parse(t, req.GetUserId())
		if !ok {
			return partition.Place{}, dberr.New(dberr.InvalidArgument, "%s is partitioned, and the write names none of its partitions", t.QualifiedName())
		}
		return partition.At(p.shards, t, n), nil
	}
	user := req.GetIdentity().GetUserId()
	if t.Kind.PerUser() && (user == "" || req.GetUserId() != user) {
		return partition.Place{}, dberr.New(dberr.PermissionDenied, "rows of %s belong to another user", t.QualifiedName())
	}
	if t.Kind.PerUser() {
		if err := p.open(user); err != nil {
			return partition.Place{}, err
		}
	}
	return partition.Home(p.shards, t, user), nil
}

func (p *planner) addWrite(n int, t *catalog.Table, w *storagev1.TableWrite) error {
	op := w.GetOperation()
	switch op {
	case storagev1.Operation_OPERATION_INSERT:
	case storagev1.Operation_OPERATION_UPDATE, storagev1.Operation_OPERATION_DELETE:
		if len(w.GetExpectedSeqs()) != len(w.GetRows()) {
			return dberr.New(dberr.InvalidArgument, "%d rows with %d expected versions", len(w.GetRows()), len(w.GetExpectedSeqs()))
		}
	default:
		return dberr.New(dberr.InvalidArgument, "unknown operation %d", op)
	}
	if t.Kind == catalog.StreamTable {
		return dberr.New(dberr.InvalidOperation, "%s is a STREAM table: it cannot be written together with other tables", t.QualifiedName())
	}
	uniques := uniqueColumns(t)
	row := rowcodec.NewRow(t)
	for i, src := range w.GetRows() {
		if err := rowcodec.Decode(src, t, &row); err != nil {
			return err
		}
		it := item{write: n, ordinal: i + 1, op: op, table: t,
			skip: w.GetOnConflict() == storagev1.OnConflict_ON_CONFLICT_DO_NOTHING}
		if op != storagev1.Operation_OPERATION_INSERT {
			it.expected = w.GetExpectedSeqs()[i]
		}
		if err := p.complete(&it, &row, uniques); err != nil {
			return err
		}
		p.plan.bytes += len(it.key) + len(it.row)
		if p.plan.bytes > commandBytesMax {
			return tooLarge()
		}
		p.plan.items = append(p.plan.items, it)
	}
	return nil
}

func tooLarge() error {
	return dberr.New(dberr.LimitExceeded, "a write of more than %d bytes (commandBytesMax): use several", commandBytesMax)
}

// complete fills in the row and derives its keys.
func (p *planner) complete(it *item, row *rowcodec.Row, uniques []int) error {
	t := it.table
	switch it.op {
	case storagev1.Operation_OPERATION_INSERT:
		it.generated = generatesKey(t) && !row.Set[t.Key()[0]]
		if err := p.fill.fillDefaults(t, row); err != nil {
			return err
		}
	case storagev1.Operation_OPERATION_DELETE:
		key, err := p.rowKey(t, row, it.ordinal)
		it.key = key
		return err
	}
	if err := checkRow(t, row, it.ordinal); err != nil {
		return err
	}
	key, err := p.rowKey(t, row, it.ordinal)
	if err != nil {
		return err
	}
	it.key, it.row = key, rowcodec.Append(nil, t, row)
	it.unique, err = uniqueKeys(p.shard, t, p.owner(t), row, uniques)
	return err
}

// owner is the owner in the keys of t's rows.
func (p *planner) owner(t *catalog.Table) string {
	if t.Owned() {
		return p.plan.user
	}
	return ""
}

func (p *planner) rowKey(t *catalog.Table, row *rowcodec.Row, ordinal int) ([]byte, error) {
	var buf [4]datum.Datum
	key := buf[:0]
	for _, i := range t.Key() {
		if row.Values[i].IsNull() {
			return nil, dberr.New(dberr.NotNullViolation, "NOT NULL constraint violation: column '%s' cannot be NULL (row %d)",
				t.Columns[i].Name, ordinal)
		}
		key = append(key, row.Values[i])
	}
	if t.Partitioned() {
		if err := p.inPartition(t, row); err != nil {
			return nil, err
		}
	}
	k := keycodec.AppendRowKey(nil, p.shard, t.ID, p.owner(t), key)
	if len(k) > keyBytesMax {
		return nil, keyTooLong(t)
	}
	return k, nil
}

// inPartition refuses a row whose value belongs to another partition: there its key would not be unique, and
// nobody would look for it here.
func (p *planner) inPartition(t *catalog.Table, row *rowcodec.Row) error {
	for i := range t.Columns {
		if t.Columns[i].ID != t.PartitionColumnID {
			continue
		}
		n, err := partition.Of(t, row.Values[i])
		if err == nil && partition.Name(n) != p.plan.user {
			err = dberr.New(dberr.InvalidArgument, "a row of %s belongs to partition %d, and came to another", t.QualifiedName(), n)
		}
		return err
	}
	return dberr.New(dberr.Internal, "%s has no partition column", t.QualifiedName())
}

func keyTooLong(t *catalog.Table) error {
	return dberr.New(dberr.LimitExceeded, "a key of %s is longer than %d bytes (keyBytesMax)", t.QualifiedName(), keyBytesMax)
}

// uniqueColumns are the positions of columns that need an index: a primary key of one column is unique
// by its row key.
func uniqueColumns(t *catalog.Table) []int {
	var out []int
	for i := range t.Columns {
		if c := &t.Columns[i]; c.Unique && !(c.PrimaryKey && len(t.Key()) == 1) {
			out = append(out, i)
		}
	}
	return out
}

// uniqueKeys are the index keys of a row's values, nil where NULL: NULLs are never equal.
func uniqueKeys(shard uint32, t *catalog.Table, user string, row *rowcodec.Row, columns []int) ([][]byte, error) {
	if len(columns) == 0 {
		return nil, nil
	}
	keys := make([][]byte, len(columns))
	for n, i := range columns {
		if row.Values[i].IsNull() {
			continue
		}
		keys[n] = keycodec.UniqueKey(nil, shard, t.ID, t.Columns[i].ID, user, row.Values[i])
		if len(keys[n]) > keyBytesMax {
			return nil, keyTooLong(t)
		}
	}
	return keys, nil
}

// keys are all keys to reserve, sorted and distinct.
func (p *plan) keys() []string {
	keys := make([]string, 0, len(p.items))
	for i := range p.items {
		keys = append(keys, string(p.items[i].key))
		for _, u := range p.items[i].unique {
			if u != nil {
				keys = append(keys, string(u))
			}
		}
	}
	if len(keys) > 1 {
		slices.Sort(keys)
		keys = slices.Compact(keys)
	}
	return keys
}
