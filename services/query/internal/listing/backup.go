package listing

import (
	"context"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

var backupsColumns = []catalog.Column{text("backup_id"), text("path"), text("namespace"), {Name: "cut", Type: catalog.Type{Kind: catalog.Timestamp}},
	text("parent"), bigint("files"), bigint("bytes"), bigint("rows"), text("status"), {Name: "completed_at", Type: catalog.Type{Kind: catalog.Timestamp}}}

// Backups answers SHOW BACKUPS: those this cluster made, of one namespace or of all. Those of the whole database have every namespace.
func (l *Listings) Backups(ctx context.Context, id catalog.Identity, namespace string) (*systemtable.Stream, error) {
	if err := access.Can(id.Role, access.ManageBackups); err != nil {
		return nil, err
	}
	resp, err := l.Catalog.Client().ListBackups(ctx, &catalogv1.ListBackupsRequest{})
	if err != nil {
		return nil, err
	}
	var rows [][]datum.Datum
	for _, b := range resp.GetBackups() {
		if namespace == "" || b.GetNamespace() == "" || b.GetNamespace() == namespace {
			rows = append(rows, []datum.Datum{datum.Text(b.GetBackupId()), datum.Text(b.GetPath()), datum.TextOrNull(b.GetNamespace()),
				datum.Timestamp(b.GetCutUs()), datum.TextOrNull(b.GetParent()), datum.Int(int64(b.GetFiles())), datum.Int(int64(b.GetBytes())),
				datum.Int(int64(b.GetRows())), datum.Text("completed"), datum.Timestamp(b.GetCompletedUs())})
		}
	}
	return systemtable.OneShot(backupsColumns, rows)
}

var backupColumns = []catalog.Column{text("namespace"), text("table_name"), text("table_type"), bigint("rows"), text("backup_id"),
	{Name: "created", Type: catalog.Type{Kind: catalog.Timestamp}}, integer("table_count"), bigint("bytes"), text("parent"), text("status")}

// Backup answers SHOW BACKUP: one row a table. Every byte of the backup is read and compared before.
func (l *Listings) Backup(ctx context.Context, id catalog.Identity, path string) (*systemtable.Stream, error) {
	if err := access.Can(id.Role, access.ManageBackups); err != nil {
		return nil, err
	}
	resp, err := l.DescribeBackup(ctx, &storagev1.DescribeBackupRequest{Path: path, Verify: true})
	if err != nil {
		return nil, err
	}
	b := resp.GetBackup()
	var rows [][]datum.Datum
	for _, t := range resp.GetTables() {
		rows = append(rows, []datum.Datum{datum.Text(t.GetNamespace()), datum.Text(t.GetName()), datum.Text(t.GetKind()), datum.Int(int64(t.GetRows())),
			datum.Text(b.GetBackupId()), datum.Timestamp(b.GetCutUs()), datum.Int(int64(len(resp.GetTables()))), datum.Int(int64(b.GetBytes())),
			datum.TextOrNull(b.GetParent()), datum.Text("verified")})
	}
	return systemtable.OneShot(backupColumns, rows)
}
