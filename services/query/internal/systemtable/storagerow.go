package systemtable

import (
	"context"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/datum"
)

// maskedCredentials stand for credentials, which no query node has.
const maskedCredentials = "***"

func (t *Tables) storages(catalog.Identity) pager {
	return paged(func(context.Context) ([][]datum.Datum, error) { return StorageRows(t.cfg.Catalog.State()), nil })
}

// StorageRows are the rows of system.storages, local first, also for SHOW STORAGES.
func StorageRows(state *catalogview.State) [][]datum.Datum {
	rows := [][]datum.Datum{{datum.Text(catalog.LocalStorage), datum.Text("Local storage"), datum.Text("The disks of the storage nodes"),
		datum.Text("filesystem"), datum.Text(""), datum.Null, datum.Null, datum.Text("shared/{namespace}/{tableName}"),
		datum.Text("user/{userId}/{namespace}/{tableName}"), datum.Timestamp(0), datum.Timestamp(0)}}
	for _, s := range state.SortedStorages() {
		credentials := datum.Null
		if s.GetHasCredentials() {
			credentials = datum.Text(maskedCredentials)
		}
		rows = append(rows, []datum.Datum{datum.Text(s.GetStorageId()), datum.Text(s.GetName()), datum.TextOrNull(s.GetDescription()),
			datum.Text(s.GetType()), datum.Text(s.GetLocations()[s.GetLocation()]), credentials, datum.TextOrNull(s.GetConfig()),
			datum.Text(s.GetSharedTablesTemplate()), datum.Text(s.GetUserTablesTemplate()), datum.Timestamp(s.GetCreatedAtUs()),
			datum.Timestamp(s.GetUpdatedAtUs())})
	}
	return rows
}
