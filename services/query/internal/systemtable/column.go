package systemtable

import (
	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
)

// tables are all system tables, in the order of spec 2. The order of columns is part of the interface.
var tables = []*Table{
	{System, "users", columns(key("user_id", catalog.Text), nn("password_hash", catalog.Text),
		nn("role", catalog.Text), null("email", catalog.Text), nn("auth_type", catalog.Text),
		null("auth_data", catalog.JSON), nn("storage_mode", catalog.Text), null("storage_id", catalog.Text),
		nn("failed_login_attempts", catalog.Int), null("locked_until", catalog.Timestamp),
		null("last_login_at", catalog.Timestamp), nn("created_at", catalog.Timestamp),
		nn("updated_at", catalog.Timestamp), null("last_seen", catalog.Timestamp),
		null("deleted_at", catalog.Timestamp), nn("username", catalog.Text), null("metadata", catalog.JSON),
		nn("allow_remote", catalog.Boolean)), (*Tables).users},
	{System, "namespaces", columns(key("namespace_id", catalog.Text), nn("name", catalog.Text),
		nn("created_at", catalog.Timestamp), null("options", catalog.JSON), nn("table_count", catalog.Int)),
		(*Tables).namespaces},
	{System, "schemas", columns(key("table_id", catalog.Text), nn("table_name", catalog.Text),
		nn("namespace_id", catalog.Text), nn("table_type", catalog.Text), nn("created_at", catalog.Timestamp),
		nn("schema_version", catalog.Int), nn("columns", catalog.JSON), null("table_comment", catalog.Text),
		nn("updated_at", catalog.Timestamp), null("options", catalog.JSON), null("access_level", catalog.Text),
		nn("is_latest", catalog.Boolean), null("storage_id", catalog.Text),
		null("use_user_storage", catalog.Boolean)), (*Tables).schemas},
	{System, "tables", columns(nn("namespace_id", catalog.Text), nn("table_name", catalog.Text),
		nn("table_type", catalog.Text), null("storage_id", catalog.Text), nn("version", catalog.BigInt),
		null("options", catalog.Text), null("comment", catalog.Text), nn("updated_at", catalog.Timestamp),
		nn("created_at", catalog.Timestamp)), (*Tables).tables},
	{System, "columns", columns(nn("namespace_id", catalog.Text), nn("table_name", catalog.Text),
		nn("version", catalog.BigInt), nn("column_id", catalog.BigInt), nn("column_name", catalog.Text),
		null("comment", catalog.Text), nn("data_type", catalog.Text), null("default_value", catalog.Text),
		nn("ordinal", catalog.Int), nn("nullable", catalog.Boolean), nn("primary_key", catalog.Boolean),
		null("primary_key_pos", catalog.Int)), (*Tables).columns},
	{System, "live", columns(nn("live_id", catalog.Text), nn("connection_id", catalog.Text),
		nn("subscription_id", catalog.Text), nn("namespace_id", catalog.Text), nn("table_name", catalog.Text),
		nn("user_id", catalog.Text), nn("query", catalog.Text), null("options", catalog.JSON),
		nn("status", catalog.Text), nn("created_at", catalog.Timestamp), nn("last_update", catalog.Timestamp),
		nn("changes", catalog.BigInt), nn("node_id", catalog.BigInt), null("last_ping_at", catalog.Timestamp)),
		(*Tables).live},
	{System, "jobs", columns(key("job_id", catalog.Text), nn("job_type", catalog.Text), nn("status", catalog.Text),
		null("leader_status", catalog.Text), null("parameters", catalog.JSON), null("message", catalog.Text),
		null("exception_trace", catalog.Text), null("idempotency_key", catalog.Text), null("queue", catalog.Text),
		null("priority", catalog.Int), nn("retry_count", catalog.SmallInt), nn("max_retries", catalog.SmallInt),
		null("memory_used", catalog.BigInt), null("cpu_used", catalog.BigInt), nn("created_at", catalog.Timestamp),
		nn("updated_at", catalog.Timestamp), null("started_at", catalog.Timestamp), null("finished_at", catalog.Timestamp),
		nn("node_id", catalog.BigInt), null("leader_node_id", catalog.BigInt), null("result", catalog.Text),
		null("completed_at", catalog.Timestamp)), (*Tables).jobs},
	{System, "erasures", columns(key("job_id", catalog.Text), nn("job_type", catalog.Text), nn("user_id", catalog.Text),
		null("asked_by", catalog.Text), nn("status", catalog.Text), nn("begun_at", catalog.Timestamp), null("finished_at", catalog.Timestamp),
		nn("files_total", catalog.BigInt), nn("begin_index", catalog.BigInt), nn("erase_index", catalog.BigInt), nn("tables", catalog.JSON),
		nn("files", catalog.JSON), nn("nodes", catalog.JSON), nn("backups", catalog.JSON), nn("not_erased", catalog.Text)), (*Tables).erasures},
	{System, "manifest", columns(key("cache_key", catalog.Text), nn("namespace_id", catalog.Text), nn("table_name", catalog.Text),
		nn("scope", catalog.Text), null("etag", catalog.Text), nn("last_refreshed", catalog.Timestamp),
		null("last_accessed", catalog.Timestamp), null("in_memory", catalog.Boolean), nn("sync_state", catalog.Text),
		nn("manifest_json", catalog.JSON)), (*Tables).manifest},
	{System, "storages", columns(key("storage_id", catalog.Text), nn("storage_name", catalog.Text), null("description", catalog.Text),
		nn("storage_type", catalog.Text), nn("base_directory", catalog.Text), null("credentials", catalog.JSON), null("config_json", catalog.JSON),
		nn("shared_tables_template", catalog.Text), nn("user_tables_template", catalog.Text), nn("created_at", catalog.Timestamp),
		nn("updated_at", catalog.Timestamp)), (*Tables).storages},
	{System, "settings", columns(nn("name", catalog.Text), nn("value", catalog.Text),
		nn("description", catalog.Text), nn("category", catalog.Text)), (*Tables).settings},
	{System, "stats", columns(nn("metric_name", catalog.Text), nn("metric_value", catalog.Text)), (*Tables).stats},
	{System, "datatypes", columns(nn("arrow_type", catalog.Text), nn("kalam_type", catalog.Text),
		nn("sql_name", catalog.Text), nn("description", catalog.Text)), (*Tables).datatypes},
	{System, "nodes", columns(key("node_id", catalog.BigInt), nn("server_id", catalog.Text), nn("role", catalog.Text),
		nn("status", catalog.Text), null("rpc_addr", catalog.Text), null("raft_addr", catalog.Text),
		null("api_addr", catalog.Text), null("zone", catalog.Text), null("version", catalog.Text),
		null("registered_at", catalog.Timestamp), null("status_since", catalog.Timestamp),
		null("hostname", catalog.Text), null("uptime_seconds", catalog.BigInt), null("memory_mb", catalog.BigInt),
		null("load", catalog.BigInt)), (*Tables).nodes},
	{System, "cluster", columns(nn("cluster_id", catalog.Text), key("node_id", catalog.BigInt), nn("role", catalog.Text),
		nn("status", catalog.Text), null("rpc_addr", catalog.Text), null("api_addr", catalog.Text),
		nn("is_self", catalog.Boolean), nn("is_leader", catalog.Boolean), nn("groups_leading", catalog.Int),
		nn("total_groups", catalog.Int), null("current_term", catalog.BigInt), null("last_applied_log", catalog.BigInt),
		null("leader_last_log_index", catalog.BigInt), null("snapshot_index", catalog.BigInt),
		null("catchup_progress_pct", catalog.Int), null("replication_lag", catalog.BigInt),
		null("hostname", catalog.Text), null("version", catalog.Text), null("memory_mb", catalog.BigInt),
		null("memory_usage_mb", catalog.BigInt), null("cpu_usage_percent", catalog.Double),
		null("uptime_seconds", catalog.BigInt), null("uptime_human", catalog.Text), null("os", catalog.Text),
		null("arch", catalog.Text)), (*Tables).cluster},
	{System, "cluster_groups", columns(nn("group_id", catalog.BigInt), nn("cluster_id", catalog.Text),
		nn("node_id", catalog.BigInt), nn("group_type", catalog.Text), null("current_term", catalog.BigInt),
		null("vote", catalog.JSON), null("last_log_index", catalog.BigInt), null("last_applied", catalog.BigInt),
		null("snapshot", catalog.BigInt), null("purged", catalog.BigInt), null("committed", catalog.BigInt),
		null("state", catalog.Text), null("current_leader", catalog.BigInt),
		null("millis_since_quorum_ack", catalog.BigInt)), (*Tables).clusterGroups},
	{InformationSchema, "schemata", columns(nn("catalog_name", catalog.Text), nn("schema_name", catalog.Text),
		null("schema_owner", catalog.Text)), (*Tables).infoSchemata},
	{InformationSchema, "tables", columns(nn("table_catalog", catalog.Text), nn("table_schema", catalog.Text),
		nn("table_name", catalog.Text), nn("table_type", catalog.Text)), (*Tables).infoTables},
	{InformationSchema, "columns", columns(nn("table_catalog", catalog.Text), nn("table_schema", catalog.Text),
		nn("table_name", catalog.Text), nn("column_name", catalog.Text), nn("ordinal_position", catalog.Int),
		null("column_default", catalog.Text), nn("is_nullable", catalog.Text), nn("data_type", catalog.Text),
		null("numeric_precision", catalog.Int), null("numeric_scale", catalog.Int)), (*Tables).infoColumns},
}

func key(name string, k catalog.TypeKind) catalog.Column {
	return catalog.Column{Name: name, Type: catalog.Type{Kind: k}, NotNull: true, PrimaryKey: true}
}

func nn(name string, k catalog.TypeKind) catalog.Column {
	return catalog.Column{Name: name, Type: catalog.Type{Kind: k}, NotNull: true}
}

func null(name string, k catalog.TypeKind) catalog.Column {
	return catalog.Column{Name: name, Type: catalog.Type{Kind: k}}
}

// columns numbers columns from 1.
func columns(in ...catalog.Column) []catalog.Column {
	for i := range in {
		in[i].ID = uint32(i + 1)
	}
	return in
}

// moment is a point in time that is NULL when zero.
func moment(us int64) datum.Datum {
	if us == 0 {
		return datum.Null
	}
	return datum.Timestamp(us)
}
