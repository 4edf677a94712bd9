package dml

import (
	"slices"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/transaction"
)

// batch collects the rows of one statement, by partition.
type batch struct {
	target
	operation  storagev1.Operation
	onConflict storagev1.OnConflict
	row        rowcodec.Row // scratch
	rows       int
	bytes      int
	// parts are in order of their first row. A table that is not partitioned has one, from the start.
	parts    []*part
	byNumber map[uint32]*part
	// scope are the partitions that the statement can write, when its condition says so; nil means all.
	scope []uint32
	// complete, when set, fills in what an INSERT leaves to the storage role: a transaction's rows are read before they
	// get there.
	complete func(*rowcodec.Row) error
	// chooses is the position of the column that chooses a row's part; -1 when there is only one.
	chooses int
}

// part is the rows of one partition.
type part struct {
	number uint32 // of the partition, 0 when there is only one
	place  partition.Place
	write  *storagev1.TableWrite
}

func (tg target) newBatch(op storagev1.Operation) *batch {
	b := &batch{target: tg, operation: op, row: rowcodec.NewRow(tg.table), byNumber: map[uint32]*part{}, chooses: -1}
	if !tg.table.Partitioned() {
		b.addPart(0, partition.Home(tg.shards, tg.table, tg.id.UserID))
		return b
	}
	b.chooses = slices.IndexFunc(tg.table.Columns, func(c catalog.Column) bool { return c.ID == tg.table.PartitionColumnID })
	return b
}

// setOnConflict is called before rows are added.
func (b *batch) setOnConflict(c storagev1.OnConflict) {
	b.onConflict = c
	for _, p := range b.parts {
		p.write.OnConflict = c
	}
}

func (b *batch) addPart(number uint32, place partition.Place) *part {
	p := &part{number: number, place: place, write: &storagev1.TableWrite{TableId: b.table.ID, SchemaVersion: b.table.SchemaVersion,
		Operation: b.operation, OnConflict: b.onConflict}}
	b.parts, b.byNumber[number] = append(b.parts, p), p
	return p
}

// part is where b.row belongs.
func (b *batch) part() (*part, error) {
	if b.chooses < 0 {
		return b.parts[0], nil
	}
	v := datum.Null
	if b.row.Set[b.chooses] {
		v = b.row.Values[b.chooses]
	}
	n, err := partition.Of(b.table, v)
	if err != nil {
		return nil, err
	}
	return b.partition(n), nil
}

// partition is the part of partition n, which is made when it is the first time.
func (b *batch) partition(n uint32) *part {
	if p := b.byNumber[n]; p != nil {
		return p
	}
	return b.addPart(n, partition.At(b.shards, b.table, n))
}

// addScope makes a part of every partition that an earlier attempt of the statement may have written.
func (b *batch) addScope() {
	if !b.table.Partitioned() {
		return
	}
	if b.scope != nil {
		for _, n := range b.scope {
			b.partition(n)
		}
		return
	}
	for n := range b.table.Partitions {
		b.partition(n)
	}
}

// add encodes b.row.
func (b *batch) add() error {
	_, err := b.append()
	return err
}

func (b *batch) append() (*part, error) {
	p, err := b.part()
	if err != nil {
		return nil, err
	}
	if b.complete != nil {
		if err := b.complete(&b.row); err != nil {
			return nil, err
		}
	}
	encoded := rowcodec.Append(nil, b.table, &b.row)
	b.bytes += len(encoded)
	if b.rows++; b.rows > statementRowsMax {
		return nil, dberr.New(dberr.LimitExceeded, "one statement writes at most %d rows (limit statement_rows_max)", statementRowsMax)
	}
	if b.bytes > statementBytesMax {
		return nil, dberr.New(dberr.LimitExceeded, "one statement writes at most %d bytes of rows (limit statement_bytes_max)", statementBytesMax)
	}
	p.write.Rows = append(p.write.Rows, encoded)
	return p, nil
}

// addExpecting encodes b.row for a version that must still be the newest.
func (b *batch) addExpecting(seq uint64) error {
	if transaction.IsStaged(seq) {
		seq = 0 // a row of the same request
	}
	p, err := b.append()
	if err == nil {
		p.write.ExpectedSeqs = append(p.write.ExpectedSeqs, seq)
	}
	return err
}

// request is the write of one part. A statement is one write in one partition, so its id, or the one derived for the
// partition, is the write's, also when a conflict makes it compute the rows again: a write that failed was not
// remembered.
func (b *batch) request(p *part, id requestid.ID, returnRows bool) *storagev1.WriteRequest {
	if b.table.Partitioned() {
		id = id.Part(uint64(p.number))
	}
	return &storagev1.WriteRequest{Identity: catalog.IdentityToProto(b.id), Shard: p.place.Shard, UserId: p.place.Owner,
		Writes: []*storagev1.TableWrite{p.write}, ReturnRows: returnRows, RequestId: id[:], CatalogVersion: b.version}
}
