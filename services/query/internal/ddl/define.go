package ddl

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

const (
	// columnsMax bounds a table's columns: every row and every scan pays for each of them.
	columnsMax = 1000
	// ttlSecondsMax is ten years; rows of STREAM tables live in memory.
	ttlSecondsMax = 10 * 365 * 24 * 3600
)

// define builds the table a CREATE TABLE describes, with the defaults of spec 1.3 and 1.4.
func define(id catalog.Identity, namespace string, s *sqlfront.CreateTable) (*catalog.Table, error) {
	t := &catalog.Table{Namespace: namespace, Name: s.Table.Name, Kind: kindOf(id, namespace, s), Owner: id.UserID,
		Options: s.Options}
	var err error
	if t.Access, err = accessOf(t.Kind, s); err != nil {
		return nil, err
	}
	if err := checkOptions(t); err != nil {
		return nil, err
	}
	if t.Columns, err = columnsOf(t.Kind, s.Columns); err != nil {
		return nil, err
	}
	for i := range t.Columns {
		t.Columns[i].ID = uint32(i + 1)
	}
	t.NextColumnID = uint32(len(t.Columns) + 1)
	if c, ok := t.Index().Column(s.PartitionBy); ok && s.Partitions > 0 {
		t.PartitionColumnID, t.Partitions = c.ID, s.Partitions
	}
	return t, partition.Check(t)
}

// kindOf applies the default: SHARED, except for a plain or service user in the namespace of their own
// name.
func kindOf(id catalog.Identity, namespace string, s *sqlfront.CreateTable) catalog.TableKind {
	if s.Kind != 0 {
		return s.Kind
	}
	if !id.Role.Admin() && namespace == id.UserID {
		return catalog.UserTable
	}
	return catalog.SharedTable
}

// accessOf applies the default: a SHARED table is PRIVATE, unless it is written in the seed's grammar,
// which always says SHARED and promises that everybody reads and writes.
func accessOf(kind catalog.TableKind, s *sqlfront.CreateTable) (catalog.AccessLevel, error) {
	switch {
	case kind != catalog.SharedTable && s.Access != 0:
		return 0, dberr.New(dberr.InvalidOperation, "ACCESS_LEVEL applies to SHARED tables only")
	case kind != catalog.SharedTable || s.Access != 0:
		return s.Access, nil
	case s.SeedGrammar && s.Kind == catalog.SharedTable:
		return catalog.AccessOpen, nil
	}
	return catalog.AccessPrivate, nil
}

func checkOptions(t *catalog.Table) error {
	o := &t.Options
	stream := t.Kind == catalog.StreamTable
	switch {
	case stream && o.TTLSeconds == 0:
		return dberr.New(dberr.InvalidSQL, "STREAM tables need a time to live: TTL_SECONDS, TTL or RETENTION, above 0")
	case o.TTLSeconds > ttlSecondsMax:
		return dberr.New(dberr.InvalidSQL, "a time to live of %d seconds is above the limit of %d", o.TTLSeconds, ttlSecondsMax)
	case !stream && o.TTLSeconds != 0:
		return dberr.New(dberr.InvalidSQL, "TTL_SECONDS applies to STREAM tables only")
	case !stream && (o.Ephemeral || o.MaxBufferRows != 0):
		return dberr.New(dberr.InvalidSQL, "EPHEMERAL and MAX_BUFFER apply to STREAM tables only")
	case stream && (o.FlushRows != 0 || o.FlushIntervalSeconds != 0):
		return dberr.New(dberr.InvalidSQL, "STREAM tables are never flushed: FLUSH does not apply")
	case stream && o.StorageID != "":
		return dberr.New(dberr.InvalidSQL, "STREAM tables have no files: STORAGE does not apply")
	case t.Kind != catalog.UserTable && o.UseUserStorage:
		return dberr.New(dberr.InvalidSQL, "USE_USER_STORAGE applies to USER tables only")
	}
	return nil
}

// columnsOf checks the columns and adds the hidden key of a table without PRIMARY KEY.
func columnsOf(kind catalog.TableKind, in []catalog.Column) ([]catalog.Column, error) {
	if len(in) == 0 {
		return nil, dberr.New(dberr.InvalidSQL, "a table needs at least one column")
	}
	if len(in) > columnsMax {
		return nil, dberr.New(dberr.LimitExceeded, "a table has at most %d columns, not %d", columnsMax, len(in))
	}
	out := make([]catalog.Column, 0, len(in)+1)
	seen := make(map[string]bool, len(in))
	keyed := false
	for _, c := range in {
		if seen[c.Name] {
			return nil, dberr.New(dberr.InvalidSQL, "column \"%s\" is declared more than once", c.Name)
		}
		seen[c.Name] = true
		if err := checkColumn(kind, &c); err != nil {
			return nil, err
		}
		c.NotNull = c.NotNull || c.PrimaryKey
		keyed = keyed || c.PrimaryKey
		out = append(out, c)
	}
	if !keyed {
		out = append(out, catalog.Column{Name: catalog.HiddenKeyColumn, Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true,
			PrimaryKey: true, Hidden: true, Default: catalog.Default{Kind: catalog.DefaultSnowflakeID}})
	}
	return out, nil
}

// checkColumn also widens generated integer ids: a snowflake id has 63 bits, so SERIAL and INT
// AUTO_INCREMENT are BIGINT.
func checkColumn(kind catalog.TableKind, c *catalog.Column) error {
	if c.Default.Kind == catalog.DefaultSnowflakeID && (c.Type.Kind == catalog.Int || c.Type.Kind == catalog.SmallInt) {
		c.Type = catalog.Type{Kind: catalog.BigInt}
	}
	if allowed, generated := generatedTypes[c.Default.Kind]; generated && !allowed[c.Type.Kind] {
		return dberr.New(dberr.InvalidSQL, "column \"%s\": its DEFAULT does not give a %s", c.Name, c.Type)
	}
	if (c.PrimaryKey || c.Unique) && unkeyable[c.Type.Kind] {
		return dberr.New(dberr.InvalidSQL, "column \"%s\": a %s cannot be PRIMARY KEY or UNIQUE", c.Name, c.Type)
	}
	if kind == catalog.StreamTable && c.Unique && !c.PrimaryKey {
		return dberr.New(dberr.Unsupported, "column \"%s\": UNIQUE is not supported in STREAM tables", c.Name)
	}
	return nil
}

// generatedTypes lists the column types that a default function fills.
var generatedTypes = map[catalog.DefaultKind]map[catalog.TypeKind]bool{
	catalog.DefaultNow:         {catalog.Timestamp: true, catalog.DateTime: true},
	catalog.DefaultSnowflakeID: {catalog.BigInt: true},
	catalog.DefaultUUIDV7:      {catalog.Text: true, catalog.UUID: true},
	catalog.DefaultULID:        {catalog.Text: true},
	catalog.DefaultCurrentUser: {catalog.Text: true},
}

// unkeyable types have no order that makes sense.
var unkeyable = map[catalog.TypeKind]bool{catalog.JSON: true, catalog.Embedding: true, catalog.File: true}
