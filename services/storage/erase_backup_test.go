package storage

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// What backups have of an erased user cannot be read any more: the data key is gone, and so is the account; restoring passes over the user. Other
// users are restored as they were, from the same backups.
func TestAnErasedUserLeavesBackups(t *testing.T) {
	dir := t.TempDir()
	r := start(t, Config{Dir: dir, MasterKey: masterText("a")})
	for _, user := range []string{"ann", "bob"} {
		r.apply(&catalogv1.Command{Command: &catalogv1.Command_CreateUser{CreateUser: &catalogv1.CreateUser{
			User: &catalogv1.User{UserId: user, AuthType: "internal", Email: user + "@marker"}}}})
	}
	messages := r.createTable("messages", catalog.UserTable)
	r.insert(messages, "ann", 1, 2)
	r.insert(messages, "bob", 1, 2, 3)
	r.flush(messages)
	r.insert(messages, "ann", 3)
	r.mustRun(catalog.JobBackup, "BK-000000000001", catalog.BackupJob{Path: "whole"})
	r.insert(messages, "ann", 4)
	r.mustRun(catalog.JobBackup, "BK-000000000002", catalog.BackupJob{Path: "namespace", Namespace: "app", Parent: "whole"})
	bob := only(rowsOf(t, messages, r.node), "bob")
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_BeginErase{BeginErase: &catalogv1.BeginErase{UserId: "ann",
		Job: &catalogv1.Job{JobId: "ER-000000000001", Type: catalog.JobErase, IdempotencyKey: catalog.EraseKey("ann"), CreatedBy: "root"}}}})
	for open, err := r.node.catalog.OpenJobs(); len(open) > 0; open, err = r.node.catalog.OpenJobs() {
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // between two looks
	}
	receipt, err := r.node.catalog.Erasure("ER-000000000001")
	if err != nil || len(receipt.GetBackups()) != 2 || !receipt.GetBackups()[0].GetKeyDestroyed() || !receipt.GetBackups()[1].GetKeyDestroyed() {
		t.Errorf("%v, %v", receipt, err)
	}
	if found := hits(t, filepath.Join(dir, "backups"), "ann@marker"); len(found) > 0 {
		t.Errorf("in %v", found)
	}
	for i, from := range []string{"whole", "namespace"} {
		as := "again" + from
		j := r.mustRun(catalog.JobRestore, []string{"RS-000000000001", "RS-000000000002"}[i], catalog.BackupJob{Path: from, Namespace: "app", As: as})
		if !strings.Contains(j.GetMessage(), "erased") {
			t.Errorf("%s: %s", from, j.GetMessage())
		}
		restored := tableNamed(t, r.node, as, "messages")
		rows := rowsOf(t, restored, r.node)
		if n := len(only(rows, "ann")); n != 0 {
			t.Errorf("%s: %d rows of ann", from, n)
		}
		wantSame(t, from, only(rows, "bob"), bob)
	}
	// The accounts of the whole database have bob's, and not ann's.
	other := start(t, Config{Dir: t.TempDir(), MasterKey: masterText("a"), BackupPaths: []string{filepath.Join(dir, "backups")}})
	other.mustRun(catalog.JobRestore, "RS-000000000003", catalog.BackupJob{Path: filepath.Join(dir, "backups", "whole")})
	ann, err := other.node.catalog.User("ann")
	if err != nil || ann != nil {
		t.Errorf("the account is back: %v, %v", ann, err)
	}
	if u, err := other.node.catalog.User("bob"); err != nil || u.GetEmail() != "bob@marker" {
		t.Errorf("%v, %v", u, err)
	}
}

// only are the rows of one user.
func only(rows map[string]string, user string) map[string]string {
	out := map[string]string{}
	for name, row := range rows {
		if strings.HasPrefix(name, user+"/") {
			out[name] = row
		}
	}
	return out
}
