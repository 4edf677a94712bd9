// Package storageddl runs CREATE, ALTER and DROP STORAGE, STORAGE CHECK, SHOW STORAGES and ALTER TABLE … SET STORAGE (spec 1.14). Credentials
// pass through it in one message to the catalog's leader, which seals them; they are kept and shown nowhere.
package storageddl

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// Storages runs the statements.
type Storages struct {
	Catalog *catalogview.View
	Now     func() time.Time
}

// Create executes CREATE STORAGE. The storage is tried before it is there.
func (s *Storages) Create(ctx context.Context, id catalog.Identity, c *sqlfront.CreateStorage) (string, error) {
	if err := access.Can(id.Role, access.ManageStorages); err != nil {
		return "", err
	}
	config, err := withRegion(c.Config, c.Region)
	if err != nil {
		return "", err
	}
	st := &catalogv1.Storage{StorageId: c.ID, Type: c.Type, Name: text(c.Name), Description: text(c.Description), Locations: []string{text(c.Path)},
		Config: config, SharedTablesTemplate: text(c.SharedTablesTemplate), UserTablesTemplate: text(c.UserTablesTemplate)}
	if st.Name == "" {
		st.Name = c.ID
	}
	resp, err := s.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_CreateStorage{CreateStorage: &catalogv1.CreateStorage{
		Storage: st, Credentials: text(c.Credentials), IfNotExists: c.IfNotExists}}})
	if err != nil {
		return "", err
	}
	if !resp.GetChanged() {
		return "Storage '" + c.ID + "' already exists", nil
	}
	return "Storage '" + c.ID + "' created successfully", nil
}

// withRegion puts REGION to CONFIG.
func withRegion(config, region *string) (string, error) {
	if region == nil {
		return text(config), nil
	}
	values := map[string]any{}
	if config != nil && json.Unmarshal([]byte(*config), &values) != nil {
		return "", dberr.New(dberr.InvalidArgument, "CONFIG of a storage must be an object of JSON")
	}
	if old, ok := values["region"]; ok && old != *region {
		return "", dberr.New(dberr.InvalidArgument, "REGION of a storage contradicts \"region\" of its CONFIG")
	}
	values["region"] = *region
	raw, err := json.Marshal(values)
	return string(raw), err
}

func text(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

// Alter executes ALTER STORAGE. The storage is tried as it will be.
func (s *Storages) Alter(ctx context.Context, id catalog.Identity, a *sqlfront.AlterStorage) (string, error) {
	if err := access.Can(id.Role, access.ManageStorages); err != nil {
		return "", err
	}
	if a.ID == catalog.LocalStorage {
		return "", dberr.New(dberr.InvalidOperation, "Storage 'local' is the disks of the nodes and cannot be altered")
	}
	resp, err := s.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_AlterStorage{AlterStorage: &catalogv1.AlterStorage{
		StorageId: a.ID, Name: a.Name, Description: a.Description, Path: a.Path, Config: a.Config, SharedTablesTemplate: a.SharedTablesTemplate,
		UserTablesTemplate: a.UserTablesTemplate, Credentials: a.Credentials}}})
	if err != nil {
		return "", err
	}
	if !resp.GetChanged() {
		return "Storage '" + a.ID + "' unchanged", nil
	}
	return "Storage '" + a.ID + "' altered successfully", nil
}

// Drop executes DROP STORAGE.
func (s *Storages) Drop(ctx context.Context, id catalog.Identity, d *sqlfront.DropStorage) (string, error) {
	if err := access.Can(id.Role, access.ManageStorages); err != nil {
		return "", err
	}
	resp, err := s.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_DropStorage{DropStorage: &catalogv1.DropStorage{StorageId: d.ID, IfExists: d.IfExists}}})
	if err != nil {
		return "", err
	}
	if !resp.GetChanged() {
		return "Storage '" + d.ID + "' does not exist", nil
	}
	return "Storage '" + d.ID + "' dropped successfully", nil
}

func (s *Storages) apply(ctx context.Context, c *catalogv1.Command) (*catalogv1.ApplyResponse, error) {
	c.TimeUs = s.Now().UnixMicro()
	resp, err := s.Catalog.Apply(ctx, c)
	if err != nil {
		return nil, err
	}
	return resp, s.Catalog.WaitVersion(ctx, resp.GetVersion())
}

var checkColumns = []catalog.Column{column("storage_id", catalog.Text), column("status", catalog.Text), column("readable", catalog.Boolean),
	column("writable", catalog.Boolean), column("listable", catalog.Boolean), column("deletable", catalog.Boolean), column("latency_ms", catalog.BigInt),
	column("total_bytes", catalog.BigInt), column("used_bytes", catalog.BigInt), column("error", catalog.Text), column("tested_at", catalog.Timestamp)}

// Check answers STORAGE CHECK: the catalog's leader tries the storage, and has the other storage nodes read what it wrote.
func (s *Storages) Check(id catalog.Identity, c *sqlfront.CheckStorage) (*systemtable.Stream, error) {
	if err := access.Can(id.Role, access.ManageStorages); err != nil {
		return nil, err
	}
	begun := false
	return systemtable.NewStream(checkColumns, func(ctx context.Context) ([][]datum.Datum, error) {
		if begun {
			return nil, nil
		}
		begun = true
		r, err := s.Catalog.Client().CheckStorage(ctx, &catalogv1.CheckStorageRequest{StorageId: c.ID, Extended: c.Extended})
		if err != nil {
			return nil, err
		}
		return [][]datum.Datum{{datum.Text(r.GetStorageId()), datum.Text(status(r)), datum.Bool(r.GetReadable()), datum.Bool(r.GetWritable()),
			datum.Bool(r.GetListable()), datum.Bool(r.GetDeletable()), datum.Int(r.GetLatencyUs() / 1000), size(r.TotalBytes), size(r.UsedBytes),
			datum.TextOrNull(r.GetError()), datum.Timestamp(r.GetTestedAtUs())}}, nil
	})
}

func status(r *catalogv1.CheckStorageResponse) string {
	switch {
	case r.GetReadable() && r.GetWritable() && r.GetListable() && r.GetDeletable() && r.GetError() == "":
		return "healthy"
	case r.GetReadable() || r.GetWritable() || r.GetListable() || r.GetDeletable():
		return "degraded"
	}
	return "unreachable"
}

func size(n *uint64) datum.Datum {
	if n == nil {
		return datum.Null
	}
	return datum.Int(int64(*n))
}

func column(name string, k catalog.TypeKind) catalog.Column {
	return catalog.Column{Name: name, Type: catalog.Type{Kind: k}}
}

// showColumns are the seed's, and behind them those of system.storages that are not among them.
var showColumns = []catalog.Column{column("storage_id", catalog.Text), column("type", catalog.Text), column("path", catalog.Text),
	column("table_count", catalog.BigInt), column("storage_name", catalog.Text), column("description", catalog.Text),
	column("credentials", catalog.Text), column("config_json", catalog.JSON), column("shared_tables_template", catalog.Text),
	column("user_tables_template", catalog.Text), column("created_at", catalog.Timestamp), column("updated_at", catalog.Timestamp)}

// Show answers SHOW STORAGES: local first. Where a storage is, is for administrators.
func (s *Storages) Show(id catalog.Identity) (*systemtable.Stream, error) {
	if err := access.Can(id.Role, access.ShowCatalog); err != nil {
		return nil, err
	}
	state := s.Catalog.State()
	counts := map[string]int64{}
	for _, t := range state.Tables {
		if t.Kind != catalog.StreamTable {
			counts[systemtable.StorageID(t)]++
		}
	}
	var rows [][]datum.Datum
	for _, r := range systemtable.StorageRows(state) {
		// system.storages: id, name, description, type, base_directory, credentials, config, templates, times
		row := []datum.Datum{r[0], r[3], r[4], datum.Int(counts[r[0].AsText()]), r[1], r[2], r[5], r[6], r[7], r[8], r[9], r[10]}
		if !id.Role.Admin() {
			row[7] = datum.Null // endpoints and accounts
		}
		rows = append(rows, row)
	}
	return systemtable.OneShot(showColumns, rows)
}

// Moved starts the job that moves a table's segments to where they belong, and adds its id to the answer of ALTER TABLE.
func Moved(answer, job string, err error) (string, error) {
	switch {
	case dberr.Is(err, dberr.AlreadyExists):
		return answer + ". A move of the table is queued or running already", nil
	case err != nil:
		return "", dberr.New(dberr.CodeOf(err), "%s; the segments there are were not moved: %w", strings.TrimSuffix(answer, "."), err)
	}
	return fmt.Sprintf("%s. Move started. Job ID: %s", answer, job), nil
}
