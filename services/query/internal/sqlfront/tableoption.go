package sqlfront

import (
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
)

const (
	// flushRowsMax and flushSecondsMax are the limits of FLUSH_POLICY (spec 1.3).
	flushRowsMax    = 1_000_000
	flushSecondsMax = 86_400
)

// clauses reads what follows the column list, in any order, each at most once.
func (t *tableReader) clauses() error {
	seen := map[string]bool{}
	for !t.done() {
		clause := t.word(0)
		if seen[clause] {
			return t.fail(dberr.InvalidSQL, 0, "the clause %s is given twice", strings.ToUpper(clause))
		}
		seen[clause] = true
		if err := t.clause(clause); err != nil {
			return err
		}
	}
	return nil
}

func (t *tableReader) clause(clause string) (err error) {
	o := &t.s.Options
	switch clause {
	case "using": // names a storage engine of the original; it has no effect there either
		t.pos++
		_, err = t.identifier("a name after USING")
	case "with":
		t.pos++
		t.s.SeedGrammar = false
		err = t.withOptions()
	case "storage":
		t.pos++
		err = t.setStorage()
	case "flush":
		t.pos++
		err = t.flush()
	case "ttl", "retention":
		if o.TTLSeconds != 0 {
			return t.fail(dberr.InvalidSQL, 0, "TTL and RETENTION mean the same: give one")
		}
		t.pos++
		o.TTLSeconds, err = t.seconds(strings.ToUpper(clause))
	case "ephemeral":
		t.pos++
		o.Ephemeral = true
	case "max_buffer":
		t.pos++
		o.MaxBufferRows, err = t.positive("MAX_BUFFER")
	case "table_type":
		t.pos++
		err = t.setKind()
	case "owner_id":
		t.pos++
		o.OwnerID, err = t.text("OWNER_ID")
	case "use_user_storage":
		t.pos++
		err = t.userStorage()
	case "partition":
		t.pos++
		err = t.partitionBy()
	default:
		return t.unexpected("a clause of CREATE TABLE")
	}
	return err
}

// partitionBy reads BY HASH (column) PARTITIONS n.
func (t *tableReader) partitionBy() error {
	if err := t.expect("by"); err != nil {
		return err
	}
	if w := t.word(0); w == "range" || w == "list" || w == "key" {
		return t.fail(dberr.Unsupported, 0, "PARTITION BY %s is not supported: use PARTITION BY HASH (column) PARTITIONS n", strings.ToUpper(w))
	}
	if err := t.expect("hash"); err != nil {
		return err
	}
	columns, err := t.columnList()
	if err != nil {
		return err
	}
	if len(columns) != 1 {
		return t.fail(dberr.Unsupported, -1, "PARTITION BY HASH takes one column")
	}
	if err := t.expect("partitions"); err != nil {
		return err
	}
	n, err := t.positive("PARTITIONS")
	if err != nil {
		return err
	}
	if n > partition.Max {
		return t.fail(dberr.InvalidSQL, -1, "PARTITIONS %d: a table has 1 to %d partitions", n, partition.Max)
	}
	t.s.PartitionBy, t.s.Partitions = t.s.Columns[columns[0]].Name, uint32(n)
	return nil
}

// setKind applies TYPE and TABLE_TYPE, which must not contradict the word before TABLE.
func (t *tableReader) setKind() error {
	word, err := t.nameOrText("USER, SHARED or STREAM")
	if err != nil {
		return err
	}
	kind, ok := tableKinds[strings.ToLower(word)]
	if !ok {
		return t.fail(dberr.InvalidSQL, -1, "unknown table type %.32q: use USER, SHARED or STREAM", word)
	}
	if t.s.Kind != 0 && t.s.Kind != kind {
		return t.fail(dberr.InvalidSQL, -1, "table type %s contradicts CREATE %s TABLE", strings.ToUpper(kind.String()),
			strings.ToUpper(t.s.Kind.String()))
	}
	t.s.Kind = kind
	return nil
}

func (t *tableReader) setStorage() error {
	id, err := t.nameOrText("the id of a storage")
	if err != nil {
		return err
	}
	if s := &t.s.Options.StorageID; *s == "" || *s == id {
		*s = id
		return nil
	}
	return t.fail(dberr.InvalidSQL, -1, "the table is given two storages, %s and %s", t.s.Options.StorageID, id)
}

// userStorage reads USE_USER_STORAGE, alone, with true or false, or with the storage to use.
func (t *tableReader) userStorage() error {
	t.s.Options.UseUserStorage = true
	if w := t.word(0); w == "true" || w == "false" {
		t.s.Options.UseUserStorage = w == "true"
		t.pos++
		return nil
	}
	if t.at(0).kind == tokString {
		return t.setStorage()
	}
	return nil
}

func (t *tableReader) positive(what string) (uint64, error) {
	n, err := t.count(what)
	if err == nil && n == 0 {
		return 0, t.fail(dberr.InvalidSQL, -1, "%s must be above 0", what)
	}
	return n, err
}

// seconds reads n or ns: 300 and 300s.
func (t *tableReader) seconds(what string) (uint64, error) {
	raw := t.raw(t.at(0))
	n, err := strconv.ParseUint(strings.TrimSuffix(strings.ToLower(raw), "s"), 10, 63)
	if t.at(0).kind != tokNumber || err != nil {
		return 0, t.unexpected("a number of seconds for " + what)
	}
	t.pos++
	if n == 0 {
		return 0, t.fail(dberr.InvalidSQL, -1, "%s must be above 0", what)
	}
	if t.word(0) == "s" { // 300 s
		t.pos++
	}
	return n, nil
}

// flush reads the seed's clauses; rows and interval may each be given once, at least one must be.
func (t *tableReader) flush() error {
	rows, interval := true, true
	switch {
	case t.accept("policy", "combined"):
	case t.accept("policy"):
	}
	before := t.pos
	for {
		var err error
		o := &t.s.Options
		switch {
		case rows && (t.accept("row_threshold") || t.accept("rows") || t.accept("row_limit")):
			o.FlushRows, err = t.flushRows()
			rows = false
		case interval && (t.accept("interval") || t.accept("seconds") || t.accept("time_interval")):
			o.FlushIntervalSeconds, err = t.flushSeconds()
			interval = false
		case t.pos == before:
			return t.unexpected("ROW_THRESHOLD, INTERVAL or POLICY after FLUSH")
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *tableReader) flushRows() (uint64, error) {
	n, err := t.positive("the number of rows")
	if err == nil && n >= flushRowsMax {
		return 0, t.fail(dberr.InvalidSQL, -1, "a flush policy of %d rows is not below the limit of %d", n, flushRowsMax)
	}
	return n, err
}

func (t *tableReader) flushSeconds() (uint64, error) {
	n, err := t.seconds("the flush interval")
	if err == nil && n >= flushSecondsMax {
		return 0, t.fail(dberr.InvalidSQL, -1, "a flush interval of %d seconds is not below the limit of %d", n, flushSecondsMax)
	}
	return n, err
}

// withOptions reads WITH (OPTION = value, …).
func (t *tableReader) withOptions() error {
	if err := t.expectPunct("("); err != nil {
		return err
	}
	seen := map[string]bool{}
	for !t.acceptPunct(")") {
		name, err := t.identifier("the name of an option")
		if err != nil {
			return err
		}
		if seen[name] {
			return t.fail(dberr.InvalidSQL, -1, "option %s is given twice", strings.ToUpper(name))
		}
		seen[name] = true
		read, ok := tableOptions[name]
		if !ok {
			return t.fail(dberr.InvalidSQL, -1, "unknown table option %s", strings.ToUpper(name))
		}
		if err := t.expectPunct("="); err != nil {
			return err
		}
		if err := read(t); err != nil {
			return err
		}
		if !t.acceptPunct(",") {
			if err := t.expectPunct(")"); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// tableOptions read the value of each WITH option (spec 1.3).
var tableOptions = map[string]func(t *tableReader) error{
	"type":       (*tableReader).setKind,
	"storage_id": (*tableReader).setStorage,
	"use_user_storage": func(t *tableReader) (err error) {
		t.s.Options.UseUserStorage, err = t.boolean("USE_USER_STORAGE")
		return err
	},
	"flush_policy": (*tableReader).flushPolicy,
	"ttl_seconds": func(t *tableReader) (err error) {
		t.s.Options.TTLSeconds, err = t.positive("TTL_SECONDS")
		return err
	},
	"access_level": (*tableReader).accessLevel,
	"deleted_retention_hours": func(t *tableReader) (err error) {
		t.s.Options.DeletedRetentionHours, err = t.count("DELETED_RETENTION_HOURS")
		return err
	},
	"compression":           (*tableReader).compression,
	"eviction_strategy":     (*tableReader).evictionStrategy,
	"max_stream_size_bytes": (*tableReader).maxStreamSize,
}

// flushPolicy reads 'rows:N', 'interval:S' or both.
func (t *tableReader) flushPolicy() error {
	text, err := t.text("FLUSH_POLICY")
	if err != nil {
		return err
	}
	o := &t.s.Options
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), ":")
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 63)
		switch {
		case err != nil || n == 0:
			return t.badFlushPolicy(text)
		case key == "rows" && o.FlushRows == 0 && n < flushRowsMax:
			o.FlushRows = n
		case key == "interval" && o.FlushIntervalSeconds == 0 && n < flushSecondsMax:
			o.FlushIntervalSeconds = n
		default:
			return t.badFlushPolicy(text)
		}
	}
	return nil
}

func (t *tableReader) badFlushPolicy(text string) error {
	return t.fail(dberr.InvalidSQL, -1,
		"bad FLUSH_POLICY %.64q: use 'rows:N', 'interval:S' or 'rows:N,interval:S' with N below %d and S below %d",
		text, flushRowsMax, flushSecondsMax)
}

func (t *tableReader) accessLevel() error {
	word, err := t.nameOrText("an access level")
	if err != nil {
		return err
	}
	for _, level := range []catalog.AccessLevel{catalog.AccessPublic, catalog.AccessPrivate, catalog.AccessRestricted, catalog.AccessDBA} {
		if strings.EqualFold(word, level.String()) {
			t.s.Access = level
			return nil
		}
	}
	return t.fail(dberr.InvalidSQL, -1, "unknown access level %.32q: use PUBLIC, PRIVATE, RESTRICTED or DBA", word)
}

func (t *tableReader) compression() error {
	word, err := t.nameOrText("a compression")
	if err != nil {
		return err
	}
	switch word = strings.ToLower(word); word {
	case "none", "snappy", "lz4", "zstd":
		t.s.Options.Compression = word
		return nil
	}
	return t.fail(dberr.InvalidSQL, -1, "unknown compression %.32q: use none, snappy, lz4 or zstd", word)
}

func (t *tableReader) evictionStrategy() error {
	word, err := t.nameOrText("an eviction strategy")
	if err == nil && !strings.EqualFold(word, "time_based") {
		return t.fail(dberr.Unsupported, -1, "EVICTION_STRATEGY %.32q is not supported: streams are evicted by time", word)
	}
	return err
}

func (t *tableReader) maxStreamSize() error {
	n, err := t.count("MAX_STREAM_SIZE_BYTES")
	if err == nil && n != 0 {
		return t.fail(dberr.Unsupported, -1, "MAX_STREAM_SIZE_BYTES is not supported: use MAX_BUFFER")
	}
	return err
}
