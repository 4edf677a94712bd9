// Package systemtable serves system.* and information_schema.*: tables computed from the catalog and
// from the counters of the roles when they are read. Nothing here is stored and nothing is invented: a
// number nobody counts is NULL, and a table of a feature that is not built does not exist.
package systemtable

import (
	"context"
	"slices"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/fleet"
)

// Namespaces of system tables.
const (
	System            = "system"
	InformationSchema = "information_schema"
)

// pageRows bounds the rows a Reader holds at a time.
const pageRows = 1024

// Table is the definition of a system table.
type Table struct {
	Namespace string
	Name      string
	Columns   []catalog.Column

	open func(*Tables, catalog.Identity) pager
}

// pager returns the next rows, each in the order of the table's columns, and none at the end.
type pager func(ctx context.Context) ([][]datum.Datum, error)

// Config is what the tables are computed from.
type Config struct {
	Catalog *catalogview.View
	Users   catalogv1.CatalogServiceClient
	Storage *fleet.Nodes
	Live    *fleet.Nodes
	// Manifests asks the leader of the shard that the request names.
	Manifests func(ctx context.Context, req *storagev1.ListManifestsRequest) (*storagev1.ListManifestsResponse, error)
	// Cluster is the leader of the catalog, who knows the nodes.
	Cluster clusterv1.ClusterServiceClient
	// Own returns this role's metrics for system.stats.
	Own func() map[string]string
	// NodeID is this node's, for is_self.
	NodeID uint32
	// Settings are shown by system.settings, secrets masked.
	Settings []config.Key
}

// Tables serves the system tables.
type Tables struct{ cfg Config }

// New makes the tables.
func New(cfg Config) *Tables { return &Tables{cfg: cfg} }

// IsSystem reports whether a namespace holds system tables.
func IsSystem(namespace string) bool { return namespace == System || namespace == InformationSchema }

// Lookup finds a table by its folded names.
func (t *Tables) Lookup(namespace, name string) (*Table, bool) {
	if namespace == System {
		if target, ok := aliases[name]; ok {
			name = target
		}
	}
	i := slices.IndexFunc(tables, func(d *Table) bool { return d.Namespace == namespace && d.Name == name })
	if i < 0 {
		return nil, false
	}
	return tables[i], true
}

// aliases are the seed's names (spec 2) and one the original declares twice.
var aliases = map[string]string{"table_schemas": "schemas", "live_queries": "live", "storage_locations": "storages"}

// CanRead decides who may read a system table.
func CanRead(id catalog.Identity, t *Table) error {
	action := access.ReadSystemTables
	if t.Namespace == InformationSchema {
		action = access.ReadInformationSchema
	}
	if err := access.Can(id.Role, action); err != nil {
		return dberr.New(dberr.PermissionDenied, "%s (%s.%s)", err.Error(), t.Namespace, t.Name)
	}
	return nil
}

// Open starts reading. The caller's rights are checked here, so no path around the planner skips them.
func (t *Tables) Open(id catalog.Identity, table *Table) (*Reader, error) {
	if err := CanRead(id, table); err != nil {
		return nil, err
	}
	return &Reader{next: table.open(t, id)}, nil
}

// Reader reads a system table's rows page by page.
type Reader struct{ next pager }

// Next returns the next rows, at most pageRows, and none at the end.
func (r *Reader) Next(ctx context.Context) ([][]datum.Datum, error) { return r.next(ctx) }

// paged cuts rows that are at hand (one per table, setting or namespace) into pages.
func paged(load func(ctx context.Context) ([][]datum.Datum, error)) pager {
	var rows [][]datum.Datum
	loaded := false
	return func(ctx context.Context) ([][]datum.Datum, error) {
		if !loaded {
			var err error
			if rows, err = load(ctx); err != nil {
				return nil, err
			}
			loaded = true
		}
		n := min(len(rows), pageRows)
		page := rows[:n]
		rows = rows[n:]
		return page, nil
	}
}
