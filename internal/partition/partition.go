// Package partition says where the rows of a table live: which shard, and under which owner in its keys.
//
// A USER or STREAM table has a partition per user. A SHARED table has one, or as many as PARTITION BY HASH
// (column) PARTITIONS n says: a row's is chosen by a stable hash of the column's value. What is computed here is
// part of the disk format: rows stay where they were written.
package partition

import (
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
)

// Max is how many partitions a table may have: more than shards would not spread it further.
const Max = shardmap.Slots

// Place is where a partition is.
type Place struct {
	Shard uint32
	// Owner is what stands for the partition in keys and requests: the user of a USER or STREAM table, the name
	// of a partition of a partitioned SHARED table, else "".
	Owner string
}

// Home is the place of the only partition of t that an identity sees: the user's own, or that of a SHARED table
// that is not partitioned.
func Home(m shardmap.Map, t *catalog.Table, userID string) Place {
	if t.Kind.PerUser() {
		return Place{Shard: m.User(userID), Owner: userID}
	}
	return Place{Shard: m.Table(t.ID)}
}

// At is the place of partition p of a partitioned table.
func At(m shardmap.Map, t *catalog.Table, p uint32) Place {
	return Place{Shard: m.TablePartition(t.ID, p, t.Partitions), Owner: Name(p)}
}

// Shards are the shards that can hold rows of t, ascending: of a table with a partition per user all, as any user may
// come.
func Shards(m shardmap.Map, t *catalog.Table) []uint32 {
	var shards []uint32
	switch {
	case t.Kind.PerUser():
		for n := range m.Shards() {
			shards = append(shards, n)
		}
	case t.Partitioned():
		for p := range t.Partitions {
			shards = append(shards, At(m, t, p).Shard)
		}
	default:
		shards = append(shards, m.Table(t.ID))
	}
	slices.Sort(shards)
	return slices.Compact(shards)
}

// prefix begins the names of partitions. No user id holds a NUL, so no user owns what a partition does.
const prefix = "\x00p"

// Name is what owns the rows of partition p in keys.
func Name(p uint32) string { return prefix + strconv.FormatUint(uint64(p), 10) }

// IsName reports whether an owner is a partition of some table, not a user.
func IsName(owner string) bool { return strings.HasPrefix(owner, prefix) }

// Parse reads a name of a partition of t. Only what Name makes is one.
func Parse(t *catalog.Table, name string) (p uint32, ok bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n >= uint64(t.Partitions) || Name(uint32(n)) != name {
		return 0, false
	}
	return uint32(n), true
}

// Of is the partition of the rows of t whose partition column has a value, which is of the column's type and not
// NULL: FNV-1a (64 bits) of its bytes (integers: eight, big-endian; text: UTF-8; UUID: sixteen), folded to 32 bits,
// modulo the number of partitions.
func Of(t *catalog.Table, v datum.Datum) (uint32, error) {
	var buf [16]byte
	var key []byte
	switch v.Kind() {
	case datum.KindInt:
		key = binary.BigEndian.AppendUint64(buf[:0], uint64(v.AsInt()))
	case datum.KindText:
		return fold(hash(v.AsText()), t.Partitions), nil
	case datum.KindUUID:
		u := v.AsUUID()
		key = append(buf[:0], u[:]...)
	case datum.KindNull:
		return 0, dberr.New(dberr.NotNullViolation, "NOT NULL constraint violation: column '%s' chooses the partition and cannot be NULL",
			t.PartitionColumn().Name)
	default:
		return 0, dberr.New(dberr.Internal, "a partition cannot be chosen by a value of %s", v.Kind())
	}
	return fold(hash(string(key)), t.Partitions), nil
}

// Matching are the partitions of a partitioned table that can hold rows for which filter is true, ascending; all says
// that the filter chooses none.
func Matching(t *catalog.Table, filter *exprv1.Expr) (chosen []uint32, all bool, err error) {
	all = true
	for _, term := range predicate.Terms(filter, t) {
		if len(term.Values) == 0 { // nothing matches, whatever the column
			return nil, false, nil
		}
		if term.Column != t.PartitionColumnID || term.Op != predicate.OpIn {
			continue
		}
		these := make([]uint32, 0, len(term.Values))
		for _, v := range term.Values {
			n, err := Of(t, v)
			if err != nil {
				return nil, false, err
			}
			if all || slices.Contains(chosen, n) {
				these = append(these, n)
			}
		}
		slices.Sort(these)
		chosen, all = slices.Compact(these), false
	}
	if all && t.Partitions == 1 {
		return []uint32{0}, false, nil
	}
	return chosen, all, nil
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func hash(s string) uint64 {
	h := uint64(fnvOffset)
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return h
}

func fold(h uint64, n uint32) uint32 { return (uint32(h) ^ uint32(h>>32)) % n }

// types are the column types that can choose a partition: those whose equal values have equal bytes.
var types = map[catalog.TypeKind]bool{catalog.SmallInt: true, catalog.Int: true, catalog.BigInt: true, catalog.Text: true, catalog.UUID: true}

// Check checks what PARTITION BY says of a table: every replica and every node must be able to do it.
func Check(t *catalog.Table) error {
	if t.PartitionColumnID == 0 && t.Partitions == 0 {
		return nil
	}
	c, ok := t.ColumnByID(t.PartitionColumnID)
	switch {
	case !ok || c.Hidden:
		return dberr.New(dberr.InvalidSQL, "PARTITION BY HASH names a column that table %s does not have", t.QualifiedName())
	case t.Kind != catalog.SharedTable:
		return dberr.New(dberr.InvalidSQL, "PARTITION BY applies to SHARED tables only: a %s table has a partition per user", strings.ToUpper(t.Kind.String()))
	case t.Partitions == 0 || t.Partitions > Max:
		return dberr.New(dberr.InvalidSQL, "PARTITIONS %d: a table has 1 to %d partitions", t.Partitions, Max)
	case !c.PrimaryKey:
		return dberr.New(dberr.InvalidSQL, "column \"%s\" chooses the partition and must be part of the PRIMARY KEY, "+
			"as keys are unique within a partition only", c.Name)
	case !types[c.Type.Kind]:
		return dberr.New(dberr.Unsupported, "column \"%s\" is %s: only SMALLINT, INT, BIGINT, TEXT and UUID choose partitions", c.Name, c.Type)
	case c.Default.Kind != catalog.NoDefault:
		return dberr.New(dberr.Unsupported, "column \"%s\" chooses the partition and cannot have a DEFAULT, "+
			"as a row is routed by its value before defaults are filled in", c.Name)
	}
	for i := range t.Columns {
		if u := &t.Columns[i]; u.Unique && !(u.PrimaryKey && len(t.Key()) == 1) {
			return dberr.New(dberr.Unsupported, "column \"%s\": UNIQUE cannot be kept over the partitions of a table", u.Name)
		}
	}
	return nil
}
