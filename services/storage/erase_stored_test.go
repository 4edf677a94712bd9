package storage

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// What an erased user has in a storage goes at once, segments that were merged before too, and so does what the node has cached of it.
func TestAnErasedUserLeavesStorages(t *testing.T) {
	dir, folder := t.TempDir(), filepath.Join(t.TempDir(), "s")
	r := start(t, Config{Dir: dir})
	for _, user := range []string{"ann", "bob"} {
		r.apply(&catalogv1.Command{Command: &catalogv1.Command_CreateUser{CreateUser: &catalogv1.CreateUser{
			User: &catalogv1.User{UserId: user, AuthType: "internal"}}}})
	}
	r.apply(createStorage("x", folder))
	messages, moved := r.createTable("messages", catalog.UserTable), r.createTable("moved", catalog.UserTable)
	r.setStorage(messages, "x")
	r.insert(moved, "ann", 1)
	r.flush(moved)
	r.setStorage(moved, "x")
	for i := range 6 { // the first four are merged, and stay beside what they became
		r.insert(messages, "ann", i)
		r.insert(messages, "bob", i)
		r.flush(messages)
	}
	if r.move(moved) != 1 {
		t.Fatal("nothing was moved")
	}
	r.wantRows(messages, "ann", 6)
	of := func(user string) (n int) {
		for _, name := range stored(t, folder) {
			if strings.Contains(name, "/"+user+"/") && strings.HasSuffix(name, ".parquet") {
				n++
			}
		}
		return n
	}
	if of("ann") != 8 || of("bob") != 7 {
		t.Fatalf("%d and %d files before: %v", of("ann"), of("bob"), stored(t, folder))
	}
	stray := filepath.Join(dir, "segments", "outgoing", "batch-0000000000000001-n0-aaaaaaaa-s0.parquet") // of a flush that a crash cut
	if err := os.MkdirAll(filepath.Dir(stray), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stray, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_BeginErase{BeginErase: &catalogv1.BeginErase{UserId: "ann",
		Job: &catalogv1.Job{JobId: "ER-000000000001", Type: catalog.JobErase, IdempotencyKey: catalog.EraseKey("ann"), CreatedBy: "root"}}}})
	for open, err := r.node.catalog.OpenJobs(); len(open) > 0; open, err = r.node.catalog.OpenJobs() {
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // between two looks
	}
	for _, name := range stored(t, folder) {
		if strings.Contains(name, "/ann/") {
			t.Errorf("%s is left", name)
		}
	}
	if of("bob") != 7 {
		t.Errorf("bob has %d files", of("bob"))
	}
	for _, below := range []string{"remote", filepath.Join("segments", "outgoing")} {
		if _, err := os.Stat(filepath.Join(dir, below)); err == nil && len(stored(t, filepath.Join(dir, below))) > 0 {
			t.Errorf("%s has %v", below, stored(t, filepath.Join(dir, below)))
		}
	}
	r.wantRows(messages, "bob", 6)
}
