package catalogstate

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// restoring begins a restore that runs, of a table app.t.
func (a *applier) restoring(job string) (table uint32) {
	a.t.Helper()
	a.must(text(a.t, fmt.Sprintf(`create_job { job { job_id: %q type: "restore" idempotency_key: %[1]q } }`, job), 1))
	a.must(text(a.t, fmt.Sprintf(`update_job { job_id: %q status: JOB_STATUS_RUNNING }`, job), 2))
	c := text(a.t, fmt.Sprintf(`restore_table { restore_id: %q table { namespace: "app" name: "t" kind: TABLE_KIND_USER schema_version: 3 next_column_id: 9
		columns { id: 7 name: "id" type { kind: TYPE_KIND_INT } primary_key: true not_null: true } } }`, job), 3)
	first := a.must(c).GetTable().GetId()
	if again := a.must(c).GetTable().GetId(); again != first {
		a.t.Errorf("restored twice: %d and %d", first, again)
	}
	a.must(text(a.t, fmt.Sprintf(`restore_versions { restore_id: %q table_id: %d versions { namespace: "app" name: "t" schema_version: 2 } }`, job, first), 4))
	return first
}

func TestNobodySeesWhatIsBeingRestored(t *testing.T) {
	a := openState(t)
	id := a.restoring("RS-000000000001")
	version := a.state.Version()
	if _, ok := a.state.Table(id); ok {
		t.Error("the table is visible")
	}
	finish := func(ids string) *catalogv1.Command {
		return text(t, `finish_restore { restore_id: "RS-000000000001" namespaces { name: "app" } message: "done" `+ids+` }`, 5)
	}
	if _, err := a.apply(finish(`table_ids: 77`)); !dberr.Is(err, dberr.Conflict) {
		t.Errorf("a late attempt: %v", err)
	}
	resp := a.must(finish(fmt.Sprintf("table_ids: %d", id)))
	if resp.GetJob().GetStatus() != catalogv1.JobStatus_JOB_STATUS_COMPLETED || resp.GetJob().GetMessage() != "done" || resp.GetVersion() == version {
		t.Errorf("got %v", resp)
	}
	table, ok := a.state.Table(id)
	if !ok || table.SchemaVersion != 3 || table.Columns[0].ID != 7 {
		t.Errorf("got %+v, %t", table, ok)
	}
	versions, _, err := a.state.FormerVersions(id, 0, 0)
	if left, err2 := a.state.Restoring(); len(left) != 0 || len(versions) != 1 || err != nil || err2 != nil {
		t.Errorf("%d are left, %d versions, %v, %v", len(left), len(versions), err, err2)
	}
	for _, late := range []string{`abandon_restore { restore_id: "RS-000000000001" }`} {
		if resp := a.must(text(t, late, 6)); resp.GetChanged() {
			t.Errorf("%s changed something", late)
		}
	}
	if _, err := a.apply(text(t, `restore_table { restore_id: "RS-000000000001" table { namespace: "app" name: "u" } }`, 7)); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("after the end: %v", err)
	}
}

// However a restore ends but well, its tables go, and their rows are removed.
func TestTheEndOfARestoreDropsItsTables(t *testing.T) {
	for i, end := range []string{`update_job { job_id: %q status: JOB_STATUS_CANCELLED }`, `update_job { job_id: %q status: JOB_STATUS_FAILED }`, `abandon_restore { restore_id: %q }`} {
		a := openState(t)
		job := fmt.Sprintf("RS-%012x", i)
		id := a.restoring(job)
		a.must(text(t, fmt.Sprintf(end, job), 5))
		left, err := a.state.Restoring()
		purge, err2 := a.state.ToPurge()
		versions, _, err3 := a.state.FormerVersions(id, 0, 0)
		if len(left) != 0 || len(purge) != 1 || purge[0] != id || len(versions) != 0 || err != nil || err2 != nil || err3 != nil {
			t.Errorf("%s: %d are left, %v to purge, %d versions; %v, %v, %v", end, len(left), purge, len(versions), err, err2, err3)
		}
	}
}

func TestTheFirstDataKeyOfAUserStays(t *testing.T) {
	a := openState(t)
	a.must(text(t, `create_user_keys { keys { user_id: "ann" wrapped: "one" } }`, 1))
	resp := a.must(text(t, `create_user_keys { keys { user_id: "bob" wrapped: "two" } keys { user_id: "ann" wrapped: "three" } }`, 2))
	if k := resp.GetUserKeys(); len(k) != 2 || string(k[0].GetWrapped()) != "two" || string(k[1].GetWrapped()) != "one" {
		t.Errorf("answered %v", k)
	}
	keys, err := a.state.UserKeys([]string{"ann", "bob", "eve"})
	if err != nil || len(keys) != 2 || !bytes.Equal(keys["ann"], []byte("one")) {
		t.Errorf("got %v, %v", keys, err)
	}
	page, more, err := a.state.UserKeysOf(shardmap.UserSlot("ann"), "")
	if err != nil || more || len(page) != 1 || page[0].GetUserId() != "ann" {
		t.Errorf("got %v, %t, %v", page, more, err)
	}
	if _, err := a.apply(text(t, `create_user_keys { keys { user_id: "eve" } }`, 3)); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("no key: %v", err)
	}
}

func TestTheOldestBackupsAreForgotten(t *testing.T) {
	a := openState(t)
	var cmds []*catalogv1.Command
	for i := range backupsMax + 2 {
		cmds = append(cmds, text(t, fmt.Sprintf(`record_backup { backup { backup_id: "BK-%012x" path: "p" } }`, i), 1))
	}
	a.mustAll(append(cmds, cmds[backupsMax])...) // recorded again
	list, err := a.state.Backups()
	if err != nil || len(list) != backupsMax || list[0].GetBackupId() != fmt.Sprintf("BK-%012x", 2) {
		t.Errorf("%d backups, %v", len(list), err)
	}
}

func TestAnAccountThatExistsStays(t *testing.T) {
	a := openState(t)
	a.must(text(t, `create_user { user { user_id: "ann" password_hash: "new" role: ROLE_USER auth_type: "password" } }`, 1))
	a.must(text(t, `restore_accounts { users { user_id: "ann" password_hash: "old" role: ROLE_DBA } users { user_id: "bob" password_hash: "his" role: ROLE_DBA deleted_at_us: 5 } }`, 2))
	ann, err := a.state.User("ann")
	bob, err2 := a.state.User("bob")
	if ann.GetPasswordHash() != "new" || bob.GetPasswordHash() != "his" || bob.GetDeletedAtUs() != 5 || err != nil || err2 != nil {
		t.Errorf("%v, %v, %v, %v", ann, bob, err, err2)
	}
}
