package engine

import (
	"fmt"

	duckdb "github.com/duckdb/duckdb-go-bindings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// openOptions are set before the database opens: no extension can be installed or loaded.
func openOptions(cfg Config) [][2]string {
	return [][2]string{
		{"autoinstall_known_extensions", "false"},
		{"autoload_known_extensions", "false"},
		{"allow_community_extensions", "false"},
		{"allow_unsigned_extensions", "false"},
		{"memory_limit", fmt.Sprintf("%dB", cfg.MemoryBytes)},
		{"threads", fmt.Sprint(cfg.Threads)},
	}
}

// settings close the rest and make DuckDB answer as PostgreSQL does; no statement of a user has run
// before them. The last one forbids every further SET but one.
var settings = []string{
	"SET GLOBAL temp_directory = ''", // no spilling: what does not fit in memory_limit fails
	// Nothing outside of the process can be read or written. This also locks temp_directory.
	"SET GLOBAL enable_external_access = false",
	"SET GLOBAL TimeZone = 'UTC'",
	"SET GLOBAL integer_division = true",
	"SET GLOBAL default_null_order = 'nulls_last_on_asc_first_on_desc'",
	"SET GLOBAL preserve_insertion_order = true",
	// UUIDs leave as 16 bytes, not as text; and booleans as bytes (see finish).
	"SET GLOBAL arrow_lossless_conversion = true",
	"SET GLOBAL allowed_configs = ['streaming_buffer_size']", // for sessionSetting
	"SET GLOBAL lock_configuration = true",
}

// sessionSetting bounds how much of a result is computed before it is read. DuckDB does not count the
// text a chunk refers to, so the bound is what two chunks take without it: thirty chunks, the default,
// held a gigabyte of long texts.
const sessionSetting = "SET SESSION streaming_buffer_size = '64KiB'"

// open opens a locked-down DuckDB in memory.
func open(cfg Config) (duckdb.Database, error) {
	var db duckdb.Database
	var config duckdb.Config
	if duckdb.CreateConfig(&config) == duckdb.StateError {
		return db, dberr.New(dberr.Internal, "make the engine's configuration")
	}
	defer duckdb.DestroyConfig(&config)
	for _, o := range openOptions(cfg) {
		if duckdb.SetConfig(config, o[0], o[1]) == duckdb.StateError {
			return db, dberr.New(dberr.Internal, "the engine refuses %s = %q", o[0], o[1])
		}
	}
	var msg string
	if duckdb.OpenExt(":memory:", &db, config, &msg) == duckdb.StateError {
		return db, dberr.New(dberr.Internal, "open the engine: %s", msg)
	}
	return db, nil
}

// lock applies the settings through a first connection.
func lock(c duckdb.Connection) error {
	for _, sql := range settings {
		if err := exec(c, sql); err != nil {
			return dberr.New(dberr.Internal, "open the engine: %s: %w", sql, err)
		}
	}
	return nil
}

func exec(c duckdb.Connection, sql string) error {
	var res duckdb.Result
	defer duckdb.DestroyResult(&res)
	if duckdb.Query(c, sql, &res) == duckdb.StateError {
		return classify(duckdb.ResultError(&res))
	}
	return nil
}
