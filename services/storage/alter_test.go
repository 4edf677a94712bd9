package storage

import (
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// Versions and rows of an altered table outlive a restart, and a write that was bound to a former version is refused.
func TestAnAlteredTableAfterARestart(t *testing.T) {
	dir := t.TempDir()
	r := start(t, Config{Dir: dir})
	messages := r.createTable("messages", catalog.UserTable)
	r.insert(messages, "ann", 1, 2)
	r.flush(messages)
	r.insert(messages, "ann", 3)
	add := &catalogv1.Column{Name: "note", Type: &catalogv1.Type{Kind: catalogv1.TypeKind_TYPE_KIND_TEXT}}
	altered := catalog.TableFromProto(r.apply(&catalogv1.Command{Command: &catalogv1.Command_AlterTable{AlterTable: &catalogv1.AlterTable{
		Namespace: "app", Name: "messages", SchemaVersion: 1, Change: &catalogv1.AlterTable_AddColumn{AddColumn: add}}}}).GetTable())
	if _, err := r.storage.Write(t.Context(), r.insertion(messages, "ann", 4)); !dberr.Is(err, dberr.SchemaChanged) {
		t.Errorf("a write of the former version: %v", err)
	}
	r.stop()
	r = start(t, Config{Dir: dir})
	r.insert(altered, "ann", 4)
	if n := r.flush(altered); n != 2 {
		t.Errorf("%d rows flushed", n)
	}
	r.wantRows(altered, "ann", 4)
	resp, err := r.catalog.ListTableVersions(t.Context(), &catalogv1.ListTableVersionsRequest{TableId: altered.ID})
	if err != nil || len(resp.GetTables()) != 1 || resp.GetTables()[0].GetSchemaVersion() != 1 || len(resp.GetTables()[0].GetColumns()) != len(messages.Columns) {
		t.Errorf("former versions: %v, %v", resp, err)
	}
}
