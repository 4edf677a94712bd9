// Package listing answers SHOW and DESCRIBE (spec 1.16).
//
// Each statement returns the union of the columns that both generations of the original return. A
// number that nobody counts is NULL.
package listing

import (
	"context"
	"errors"
	"io"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/exec"
	"github.com/kalamdb/kalamdb-go/services/query/internal/fleet"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// Listings answers the statements.
type Listings struct {
	Catalog *catalogview.View
	Storage *fleet.Nodes
	Live    *fleet.Nodes
	Tables  *systemtable.Tables
	Runner  *exec.Runner
	// DescribeBackup asks a storage node to read a backup.
	DescribeBackup func(ctx context.Context, req *storagev1.DescribeBackupRequest) (*storagev1.DescribeBackupResponse, error)
}

// Namespaces answers SHOW NAMESPACES with the columns of system.namespaces.
func (l *Listings) Namespaces(id catalog.Identity) (*systemtable.Stream, error) {
	if err := access.Can(id.Role, access.ShowCatalog); err != nil {
		return nil, err
	}
	t, _ := l.Tables.Lookup(systemtable.System, "namespaces")
	return systemtable.OneShot(t.Columns, systemtable.NamespaceRows(l.Catalog.State()))
}

// ShowTables answers SHOW TABLES [IN namespace] with the columns of system.schemas, for the tables the
// caller may use.
func (l *Listings) ShowTables(id catalog.Identity, namespace string) (*systemtable.Stream, error) {
	if err := access.Can(id.Role, access.ShowCatalog); err != nil {
		return nil, err
	}
	state := l.Catalog.State()
	if _, ok := state.Namespaces[namespace]; namespace != "" && !ok {
		return nil, dberr.New(dberr.NamespaceNotFound, "Namespace '%s' does not exist", namespace)
	}
	def, _ := l.Tables.Lookup(systemtable.System, "schemas")
	var rows [][]datum.Datum
	for _, t := range systemtable.Visible(state, id) {
		if namespace != "" && t.Namespace != namespace {
			continue
		}
		row, err := systemtable.SchemaRow(t, true)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return systemtable.OneShot(def.Columns, rows)
}

// Jobs answers SHOW JOBS with system.jobs.
func (l *Listings) Jobs(id catalog.Identity) (*systemtable.Stream, error) {
	t, _ := l.Tables.Lookup(systemtable.System, "jobs")
	return l.Tables.Read(id, t)
}

// Manifest answers SHOW MANIFEST with system.manifest.
func (l *Listings) Manifest(id catalog.Identity) (*systemtable.Stream, error) {
	t, _ := l.Tables.Lookup(systemtable.System, "manifest")
	return l.Tables.Read(id, t)
}

// Receipt answers SHOW RECEIPT with the row of system.erasures.
func (l *Listings) Receipt(ctx context.Context, id catalog.Identity, job string) (*systemtable.Stream, error) {
	return l.Tables.Receipt(ctx, id, job)
}

// usersPage is how many users SHOW USERS asks for at a time.
const usersPage = 1000

// Users answers SHOW USERS: those that are not dropped, paged from the catalog.
func (l *Listings) Users(id catalog.Identity) (*systemtable.Stream, error) {
	if err := access.Can(id.Role, access.ShowUsers); err != nil {
		return nil, err
	}
	after, more := "", true
	next := func(ctx context.Context) ([][]datum.Datum, error) {
		var rows [][]datum.Datum
		for more && len(rows) == 0 { // a page may hold dropped users only
			resp, err := l.Catalog.Client().ListUsers(ctx, &catalogv1.ListUsersRequest{AfterUserId: after, Limit: usersPage})
			if err != nil {
				return nil, err
			}
			more = resp.GetHasMore() && len(resp.GetUsers()) > 0
			for _, u := range resp.GetUsers() {
				after = u.GetUserId()
				if u.GetDeletedAtUs() == 0 {
					rows = append(rows, []datum.Datum{datum.Text(u.GetUserId()), datum.Text(catalog.Role(u.GetRole()).String()),
						datum.TextOrNull(u.GetEmail()), datum.Timestamp(u.GetCreatedAtUs())})
				}
			}
		}
		return rows, nil
	}
	return systemtable.NewStream(userColumns, next)
}

var userColumns = []catalog.Column{text("user_id"), text("role"), text("email"),
	{Name: "created_at", Type: catalog.Type{Kind: catalog.Timestamp}}}

// describeColumns is the union of spec 1.16: one row a column of the table; what concerns the whole
// table is repeated.
var describeColumns = []catalog.Column{text("column_name"), integer("ordinal_position"), bigint("column_id"),
	text("data_type"), boolean("is_nullable"), boolean("is_primary_key"), text("column_default"), text("column_comment"),
	integer("schema_version"), text("namespace"), text("table_name"), text("table_type"), text("access_level"),
	text("storage"), text("flush_policy"), bigint("ttl_seconds"), bigint("deleted_retention_hours")}

// Describe answers DESCRIBE: whoever may read a table may see its columns, with history those of all versions.
func (l *Listings) Describe(ctx context.Context, id catalog.Identity, namespace, name string, history bool) (*systemtable.Stream, error) {
	if systemtable.IsSystem(namespace) {
		return l.describeSystem(id, namespace, name)
	}
	t, err := l.table(id, namespace, name)
	if err != nil {
		return nil, err
	}
	versions := []*catalog.Table{t}
	if history {
		if versions, err = l.Tables.Versions(ctx, t); err != nil {
			return nil, err
		}
	}
	var rows [][]datum.Datum
	for _, v := range versions {
		if rows, err = appendDescription(rows, v); err != nil {
			return nil, err
		}
	}
	return systemtable.OneShot(describeColumns, rows)
}

// appendDescription appends a row for each column of a version of a table.
func appendDescription(rows [][]datum.Datum, t *catalog.Table) ([][]datum.Datum, error) {
	level, storage := datum.Null, datum.Text(systemtable.StorageID(t))
	if t.Kind == catalog.SharedTable {
		level = datum.Text(t.Access.String())
	}
	if t.Kind == catalog.StreamTable {
		storage = datum.Null
	}
	for i, c := range append(t.VisibleColumns(), systemColumnsOf(t)...) {
		def, err := systemtable.DefaultText(&c)
		if err != nil {
			return nil, err
		}
		rows = append(rows, []datum.Datum{datum.Text(c.Name), datum.Int(int64(i + 1)), datum.Int(int64(c.ID)),
			datum.Text(c.Type.String()), datum.Bool(!c.NotNull), datum.Bool(c.PrimaryKey), datum.TextOrNull(def), datum.Null,
			datum.Int(int64(t.SchemaVersion)), datum.Text(t.Namespace), datum.Text(t.Name), datum.Text(t.Kind.String()),
			level, storage, datum.TextOrNull(systemtable.FlushPolicy(t)), positive(t.Options.TTLSeconds),
			positive(t.Options.DeletedRetentionHours)})
	}
	return rows, nil
}

// systemColumnsOf are the system columns that SELECT * shows for a table.
func systemColumnsOf(t *catalog.Table) []catalog.Column {
	if t.Kind == catalog.StreamTable {
		return catalog.SystemColumns[:1] // _seq
	}
	return catalog.SystemColumns
}

func (l *Listings) describeSystem(id catalog.Identity, namespace, name string) (*systemtable.Stream, error) {
	t, ok := l.Tables.Lookup(namespace, name)
	if !ok {
		return nil, notFound(namespace, name)
	}
	if err := systemtable.CanRead(id, t); err != nil {
		return nil, err
	}
	var rows [][]datum.Datum
	for i, c := range t.Columns {
		row := make([]datum.Datum, len(describeColumns))
		copy(row, []datum.Datum{datum.Text(c.Name), datum.Int(int64(i + 1)), datum.Int(int64(c.ID)), datum.Text(c.Type.String()),
			datum.Bool(!c.NotNull), datum.Bool(c.PrimaryKey), datum.Null, datum.Null, datum.Int(1), datum.Text(namespace),
			datum.Text(t.Name), datum.Text("system")})
		rows = append(rows, row)
	}
	return systemtable.OneShot(describeColumns, rows)
}

// statsColumns is the union of spec 1.16.
var statsColumns = []catalog.Column{text("table_name"), text("namespace"), integer("schema_version"),
	bigint("logical_rows"), bigint("flushed_segments"), bigint("active_streams"), bigint("memory_bytes"),
	bigint("hot_rows"), bigint("cold_rows"), bigint("total_rows"), bigint("storage_bytes"),
	{Name: "last_flushed_at", Type: catalog.Type{Kind: catalog.Timestamp}}}

// Stats answers SHOW STATS FOR TABLE. Rows and segments are those of the caller's partition (of the table, when it is SHARED), counted now;
// bytes are the whole table's: an estimate for the hot store, and the segments' files. Rows that are not in the hot store are cold.
func (l *Listings) Stats(ctx context.Context, id catalog.Identity, namespace, name string) (*systemtable.Stream, error) {
	t, err := l.table(id, namespace, name)
	if err != nil {
		return nil, err
	}
	req := &storagev1.TableStatsRequest{TableId: t.ID}
	if t.Kind.PerUser() {
		req.UserId = &id.UserID
	}
	stats, err := l.Storage.TableStats(ctx, req)
	if err != nil {
		return nil, err
	}
	rows, err := l.countRows(ctx, id, t)
	if err != nil {
		return nil, err
	}
	// Writes in between may make the hot rows more than all that were there.
	hotRows := min(int64(stats.GetHotRows()), rows)
	hot, cold, bytes := datum.Int(hotRows), datum.Int(rows-hotRows), datum.Int(int64(stats.GetHotBytesEstimate()+stats.GetSegmentBytes()))
	if t.Kind == catalog.StreamTable { // in memory only
		hot, cold, bytes = datum.Null, datum.Null, datum.Null
	}
	flushed := datum.Null
	if us := stats.GetLastFlushedUs(); us != 0 {
		flushed = datum.Timestamp(us)
	}
	return systemtable.OneShot(statsColumns, [][]datum.Datum{{datum.Text(t.Name), datum.Text(t.Namespace),
		datum.Int(int64(t.SchemaVersion)), datum.Int(rows), datum.Int(int64(stats.GetSegments())), l.activeStreams(ctx, id, t), datum.Null, hot,
		cold, datum.Int(rows), bytes, flushed}})
}

// countRows counts the rows of t that the caller sees, by a scan without columns.
func (l *Listings) countRows(ctx context.Context, id catalog.Identity, t *catalog.Table) (int64, error) {
	rows, err := l.Runner.ScanTable(ctx, &plan.Env{Identity: id}, t, &storagev1.ScanRequest{})
	if err != nil {
		return 0, err
	}
	defer rows.Release()
	n := int64(0)
	for {
		batch, err := rows.Next(ctx)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		n += batch.NumRows()
		batch.Release()
	}
}

// activeStreams counts the table's subscriptions on the live node, those of the caller when the table
// has a partition per user. NULL means that the live role did not answer.
func (l *Listings) activeStreams(ctx context.Context, id catalog.Identity, t *catalog.Table) datum.Datum {
	all, err := l.Live.LiveQueries(ctx)
	if err != nil {
		return datum.Null
	}
	n := int64(0)
	for _, q := range all {
		if q.GetNamespace() == t.Namespace && q.GetTable() == t.Name && (!t.Kind.PerUser() || q.GetUserId() == id.UserID) {
			n++
		}
	}
	return datum.Int(n)
}

// table finds a table that the caller may see.
func (l *Listings) table(id catalog.Identity, namespace, name string) (*catalog.Table, error) {
	if err := access.Can(id.Role, access.ShowCatalog); err != nil {
		return nil, err
	}
	t, ok := l.Catalog.State().Table(namespace, name)
	if !ok {
		return nil, notFound(namespace, name)
	}
	return t, access.Describe(id, t)
}

func notFound(namespace, name string) error {
	return dberr.New(dberr.TableNotFound, "relation \"%s.%s\" does not exist", namespace, name)
}

func positive(n uint64) datum.Datum {
	if n == 0 {
		return datum.Null
	}
	return datum.Int(int64(n))
}

func text(name string) catalog.Column    { return column(name, catalog.Text) }
func integer(name string) catalog.Column { return column(name, catalog.Int) }
func bigint(name string) catalog.Column  { return column(name, catalog.BigInt) }
func boolean(name string) catalog.Column { return column(name, catalog.Boolean) }

func column(name string, k catalog.TypeKind) catalog.Column {
	return catalog.Column{Name: name, Type: catalog.Type{Kind: k}}
}
