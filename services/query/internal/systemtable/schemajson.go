package systemtable

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/celljson"
	"github.com/kalamdb/kalamdb-go/internal/datum"
)

// defaultFunctions names the functions a DEFAULT may call.
var defaultFunctions = map[catalog.DefaultKind]string{catalog.DefaultNow: "NOW", catalog.DefaultSnowflakeID: "SNOWFLAKE_ID",
	catalog.DefaultUUIDV7: "UUID_V7", catalog.DefaultULID: "ULID", catalog.DefaultCurrentUser: "CURRENT_USER"}

// columnsJSON is system.schemas.columns (spec 2.1); generators of client code parse it.
func columnsJSON(t *catalog.Table) (string, error) {
	out := []byte{'['}
	for i, c := range t.VisibleColumns() {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, `{"column_id":`...)
		out = strconv.AppendUint(out, uint64(c.ID), 10)
		out = append(out, `,"column_name":`...)
		out = celljson.AppendJSONText(out, c.Name)
		out = append(out, `,"column_comment":null,"data_type":`...)
		out = append(out, c.Type.WireJSON()...)
		out = append(out, `,"default_value":`...)
		var err error
		if out, err = appendDefaultJSON(out, &c); err != nil {
			return "", err
		}
		out = fmt.Appendf(out, `,"ordinal_position":%d,"is_nullable":%t,"is_primary_key":%t,"is_partition_key":false}`,
			i+1, !c.NotNull, c.PrimaryKey)
	}
	return string(append(out, ']')), nil
}

func appendDefaultJSON(out []byte, c *catalog.Column) ([]byte, error) {
	switch c.Default.Kind {
	case catalog.NoDefault:
		return append(out, `"None"`...), nil
	case catalog.DefaultLiteral:
		d, _, err := datum.Decode(c.Default.Literal)
		if err != nil {
			return out, err
		}
		out = append(out, `{"Literal":`...)
		if out, err = celljson.AppendValue(out, d, c.Type, celljson.JSON); err != nil {
			return out, err
		}
		return append(out, '}'), nil
	}
	return fmt.Appendf(out, `{"FunctionCall":{"name":"%s","args":[]}}`, defaultFunctions[c.Default.Kind]), nil
}

// DefaultText is a column's DEFAULT as SQL; empty when it has none.
func DefaultText(c *catalog.Column) (string, error) {
	switch c.Default.Kind {
	case catalog.NoDefault:
		return "", nil
	case catalog.DefaultLiteral:
		d, _, err := datum.Decode(c.Default.Literal)
		if err != nil {
			return "", err
		}
		return literalText(d, c.Type), nil
	}
	return defaultFunctions[c.Default.Kind] + "()", nil
}

// literalText writes a value as SQL reads it: numbers and booleans bare, the rest quoted.
func literalText(d datum.Datum, t catalog.Type) string {
	switch d.Kind() {
	case datum.KindNull:
		return "NULL"
	case datum.KindBool, datum.KindInt, datum.KindFloat, datum.KindDecimal:
		return datum.FormatText(d, t)
	}
	return "'" + strings.ReplaceAll(datum.FormatText(d, t), "'", "''") + "'"
}

// optionsJSON is system.schemas.options, tagged by the table's kind.
func optionsJSON(t *catalog.Table) string {
	o := &t.Options
	out := []byte(`{"table_type":"`)
	switch t.Kind {
	case catalog.UserTable:
		out = append(out, `USER","storage_id":`...)
		out = celljson.AppendJSONText(out, StorageID(t))
		out = fmt.Appendf(out, `,"use_user_storage":%t,"flush_policy":%s`, o.UseUserStorage, flushPolicyJSON(o))
	case catalog.SharedTable:
		out = append(out, `SHARED","storage_id":`...)
		out = celljson.AppendJSONText(out, StorageID(t))
		out = fmt.Appendf(out, `,"access_level":%q,"flush_policy":%s`, t.Access.String(), flushPolicyJSON(o))
	case catalog.StreamTable:
		out = fmt.Appendf(out, `STREAM","ttl_seconds":%d,"ephemeral":%t,"max_buffer":%d`, o.TTLSeconds, o.Ephemeral, o.MaxBufferRows)
	}
	if t.Partitioned() {
		out = append(out, `,"partition_by":`...)
		out = celljson.AppendJSONText(out, t.PartitionColumn().Name)
		out = fmt.Appendf(out, `,"partitions":%d`, t.Partitions)
	}
	if o.DeletedRetentionHours > 0 {
		out = fmt.Appendf(out, `,"deleted_retention_hours":%d`, o.DeletedRetentionHours)
	}
	if o.Compression != "" {
		out = append(out, `,"compression":`...)
		out = celljson.AppendJSONText(out, o.Compression)
	}
	if o.OwnerID != "" {
		out = append(out, `,"owner_id":`...)
		out = celljson.AppendJSONText(out, o.OwnerID)
	}
	return string(append(out, '}'))
}

// StorageID is where a table's cold files go; "local" unless the table says otherwise.
func StorageID(t *catalog.Table) string {
	if t.Options.StorageID == "" {
		return "local"
	}
	return t.Options.StorageID
}

func flushPolicyJSON(o *catalog.TableOptions) string {
	switch {
	case o.FlushRows > 0 && o.FlushIntervalSeconds > 0:
		return fmt.Sprintf(`{"type":"combined","row_limit":%d,"interval_seconds":%d}`, o.FlushRows, o.FlushIntervalSeconds)
	case o.FlushRows > 0:
		return fmt.Sprintf(`{"type":"row_limit","row_limit":%d}`, o.FlushRows)
	case o.FlushIntervalSeconds > 0:
		return fmt.Sprintf(`{"type":"time_interval","interval_seconds":%d}`, o.FlushIntervalSeconds)
	}
	return "null"
}

// FlushPolicy is the policy in the spelling of WITH (FLUSH_POLICY = …); empty means never by itself.
func FlushPolicy(t *catalog.Table) string {
	o := &t.Options
	switch {
	case o.FlushRows > 0 && o.FlushIntervalSeconds > 0:
		return fmt.Sprintf("rows:%d,interval:%d", o.FlushRows, o.FlushIntervalSeconds)
	case o.FlushRows > 0:
		return fmt.Sprintf("rows:%d", o.FlushRows)
	case o.FlushIntervalSeconds > 0:
		return fmt.Sprintf("interval:%d", o.FlushIntervalSeconds)
	}
	return ""
}
