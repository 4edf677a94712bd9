package storage

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// rowsOf are all rows that nodes have of a table, as they are stored, tombstones too, by owner and key. Each shard is read where it is led.
func rowsOf(t *testing.T, table *catalog.Table, nodes ...*Storage) map[string]string {
	t.Helper()
	rows := map[string]string{}
	for _, node := range nodes {
		for _, r := range node.replicas.All() {
			if !r.Shard.Leads() {
				continue
			}
			if err := r.Shard.ReadBarrier(t.Context()); err != nil {
				t.Fatal(err)
			}
			addHot(t, rows, node.hot, r.Shard.ID(), table)
			addCold(t, rows, node, r.Shard.ID(), table)
		}
	}
	return rows
}

func addRow(rows map[string]string, owner string, key []byte, v keycodec.Version) {
	name := fmt.Sprintf("%s/%x", owner, key)
	row := fmt.Sprintf("%020d %t %d %x", v.Seq, v.Deleted, v.SchemaVersion, v.Row)
	rows[name] = max(rows[name], row) // _seq comes first: the newest version
}

func addHot(t *testing.T, rows map[string]string, db *pebble.DB, shard uint32, table *catalog.Table) {
	t.Helper()
	span := keycodec.PrefixSpan(keycodec.TablePrefix(shard, table.ID))
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = it.Close() }()
	for it.First(); it.Valid(); it.Next() {
		partition, owner, err := keycodec.UserOf(it.Key())
		if err != nil {
			t.Fatal(err)
		}
		v, err := keycodec.DecodeVersion(it.Value())
		if err != nil {
			t.Fatal(err)
		}
		addRow(rows, owner, it.Key()[len(partition):], v)
	}
}

func addCold(t *testing.T, rows map[string]string, node *Storage, shard uint32, table *catalog.Table) {
	t.Helper()
	if err := manifest.EachPartition(node.hot, keycodec.PrefixSpan(keycodec.TableSegmentPrefix(shard, table.ID)), func(entries []manifest.Entry) (bool, error) {
		m := node.cold.NewMerge(shard, entries, cold.Range{Table: table})
		defer m.Close()
		for {
			key, v, ok, err := m.Next(t.Context())
			if err != nil || !ok {
				return true, err
			}
			addRow(rows, entries[0].User, key, v)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// backupCommand makes a job that backs up or restores.
func backupCommand(t testing.TB, kind, id string, p catalog.BackupJob) *catalogv1.Command {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	key := catalog.RestoreKey
	if kind == catalog.JobBackup {
		key = catalog.BackupKey(p.Path)
	}
	return &catalogv1.Command{Command: &catalogv1.Command_CreateJob{CreateJob: &catalogv1.CreateJob{Job: &catalogv1.Job{
		JobId: id, Type: kind, Namespace: p.Namespace, Parameters: string(raw), IdempotencyKey: key, MaxRetries: 3}}}}
}

// run runs a job to its end.
func (r *role) run(kind, id string, p catalog.BackupJob) *catalogv1.Job {
	r.t.Helper()
	r.apply(backupCommand(r.t, kind, id, p))
	return endOf(r.t.(*testing.T), r.node, id)
}

func (r *role) mustRun(kind, id string, p catalog.BackupJob) *catalogv1.Job {
	r.t.Helper()
	j := r.run(kind, id, p)
	if j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_COMPLETED {
		r.t.Fatalf("%s is %s: %s", id, j.GetStatus(), j.GetError())
	}
	return j
}

// tableNamed finds a table.
func tableNamed(t *testing.T, node *Storage, namespace, name string) *catalog.Table {
	t.Helper()
	_, tables := node.catalog.Entries(namespace)
	for _, p := range tables {
		if p.GetName() == name {
			return catalog.TableFromProto(p)
		}
	}
	t.Fatalf("there is no table %s.%s", namespace, name)
	return nil
}

func wantSame(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	if len(want) == 0 {
		t.Errorf("%s: there is nothing to compare", what)
	}
	if maps.Equal(got, want) {
		return
	}
	for k, w := range want {
		if got[k] != w {
			t.Errorf("%s: row %s is %q, want %q", what, k, got[k], w)
			break
		}
	}
	t.Errorf("%s: %d rows, want %d", what, len(got), len(want))
}

// change updates or deletes rows by their ids.
func (r *role) change(t *catalog.Table, user string, op storagev1.Operation, body string, ids ...int) {
	r.t.Helper()
	req := r.insertion(t, user)
	w := req.GetWrites()[0]
	w.Operation = op
	stored := rowsOf(r.t.(*testing.T), t, r.node)
	for _, id := range ids {
		w.Rows = append(w.Rows, encodeRow(t, id, body))
		var seq uint64
		if _, err := fmt.Sscanf(stored[fmt.Sprintf("%s/%x", user, keycodec.AppendKeyValues(nil, []datum.Datum{datum.Int(int64(id))}))], "%d", &seq); err != nil {
			r.t.Fatal(err)
		}
		w.ExpectedSeqs = append(w.ExpectedSeqs, seq)
	}
	if _, err := r.storage.Write(r.t.Context(), req); err != nil {
		r.t.Fatal(err)
	}
}

// filled has rows in every state: in segments, changed and deleted since, and never flushed.
func filled(t *testing.T, r *role) (messages, settings *catalog.Table) {
	messages, settings = r.createTable("messages", catalog.UserTable), r.createTable("settings", catalog.SharedTable)
	for _, user := range append([]string{"Ann/..", "<" + strings.Repeat("é", 127)}, users...) {
		r.insert(messages, user, 1, 2, 3, 4)
	}
	r.insert(settings, "bob", 7, 8)
	r.flush(messages)
	r.flush(settings)
	for _, user := range users {
		r.change(messages, user, storagev1.Operation_OPERATION_UPDATE, "changed", 2)
		r.change(messages, user, storagev1.Operation_OPERATION_DELETE, "", 3)
		r.insert(messages, user, 5)
	}
	r.insert(settings, "bob", 9)
	return messages, settings
}

func TestANamespaceIsRestoredUnderAnotherName(t *testing.T) {
	r := start(t, Config{Dir: t.TempDir(), MasterKey: masterText("a"), Shards: 3})
	messages, settings := filled(t, r)
	stream := r.createTable("ticks", catalog.StreamTable)
	r.insert(stream, "ann", 1)
	want, wantShared := rowsOf(t, messages, r.node), rowsOf(t, settings, r.node)
	r.mustRun(catalog.JobBackup, "BK-000000000001", catalog.BackupJob{Path: "one", Namespace: "app"})
	wantSame(t, "what was backed up", rowsOf(t, messages, r.node), want)
	r.insert(messages, "ann", 6) // behind the cut
	j := r.mustRun(catalog.JobRestore, "RS-000000000001", catalog.BackupJob{Path: "one", Namespace: "app", As: "other"})
	restored := tableNamed(t, r.node, "other", "messages")
	wantSame(t, "messages", rowsOf(t, restored, r.node), want)
	wantSame(t, "settings", rowsOf(t, tableNamed(t, r.node, "other", "settings"), r.node), wantShared)
	tableNamed(t, r.node, "other", "ticks")
	if !strings.Contains(j.GetMessage(), "of 3 tables restored from one") {
		t.Errorf("message %q", j.GetMessage())
	}
	// What is restored is a table like any other: keys are known, and every new _seq is above the restored ones.
	if _, err := r.storage.Write(t.Context(), r.insertion(restored, "ann", 1)); !dberr.Is(err, dberr.PrimaryKeyViolation) {
		t.Errorf("insert a restored key: %v", err)
	}
	r.insert(restored, "ann", 3) // was deleted
	r.wantRows(restored, "ann", 5)
	r.flush(restored)
	r.wantRows(restored, "ann", 5)
	for _, refused := range []struct {
		kind string
		p    catalog.BackupJob
		want string
	}{
		{catalog.JobRestore, catalog.BackupJob{Path: "one", Namespace: "app"}, "Table app.messages already exists"},
		{catalog.JobRestore, catalog.BackupJob{Path: "one", Namespace: "nosuch"}, "is a backup of namespace 'app'"},
		{catalog.JobRestore, catalog.BackupJob{Path: "two"}, "there is no backup here"},
		{catalog.JobBackup, catalog.BackupJob{Path: "one"}, "has a backup already"},
		{catalog.JobBackup, catalog.BackupJob{Path: "x", Namespace: "nosuch"}, "Namespace 'nosuch' does not exist"},
		{catalog.JobBackup, catalog.BackupJob{Path: "../x"}, "has no '..'"},
		{catalog.JobBackup, catalog.BackupJob{Path: "/etc/x"}, "storage.backup_paths"},
		{catalog.JobBackup, catalog.BackupJob{Path: "a\x00b"}, "no path of a backup"},
	} {
		id := fmt.Sprintf("XX-%012x", len(refused.want)*100+len(refused.p.Path))
		if j := r.run(refused.kind, id, refused.p); j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_FAILED || !strings.Contains(j.GetError(), refused.want) {
			t.Errorf("%s %+v: %s, %q, want %q", refused.kind, refused.p, j.GetStatus(), j.GetError(), refused.want)
		}
	}
	if left, err := r.node.catalog.Restoring(); len(left) != 0 || err != nil {
		t.Errorf("%d tables are being restored still, %v", len(left), err)
	}
	r.mustRun(catalog.JobRestore, "RS-000000000009", catalog.BackupJob{Path: "one", Namespace: "app", IfNotExists: true})
}

// filesBelow lists the files of a folder.
func filesBelow(t *testing.T, dir string) (names []string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, p)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return names
}

func TestOneWrongByteIsRefused(t *testing.T) {
	dir := t.TempDir()
	r := start(t, Config{Dir: t.TempDir(), MasterKey: masterText("a"), Shards: 2, BackupPaths: []string{dir}})
	filled(t, r)
	r.mustRun(catalog.JobBackup, "BK-000000000001", catalog.BackupJob{Path: "one"})
	kinds := map[string]bool{}
	for n, name := range filesBelow(t, dir) {
		rel, err := filepath.Rel(filepath.Join(dir, "one"), name)
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := strings.Cut(rel, "/")
		if kinds[kind] {
			continue
		}
		kinds[kind] = true
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, len(raw) / 2, len(raw) - 1} {
			raw[at] ^= 1
			if err := os.WriteFile(name, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := r.storage.DescribeBackup(t.Context(), &storagev1.DescribeBackupRequest{Path: "one", Verify: true}); !dberr.Is(err, dberr.Corrupt) || !strings.Contains(err.Error(), rel) {
				t.Errorf("byte %d of %s: %v", at, rel, err)
			}
			j := r.run(catalog.JobRestore, fmt.Sprintf("RS-%06x%06x", n, at), catalog.BackupJob{Path: "one", Namespace: "app", As: "other"})
			if j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_FAILED || !strings.Contains(j.GetError(), rel) {
				t.Errorf("byte %d of %s: %s, %q", at, rel, j.GetStatus(), j.GetError())
			}
			raw[at] ^= 1
		}
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"backup.json", "accounts.sealed", "hot", "keys", "segments", "shards"} {
		if !kinds[kind] {
			t.Errorf("the backup has no %s", kind)
		}
	}
	if ns, _ := r.node.catalog.Entries("other"); len(ns) != 0 {
		t.Error("something became visible")
	}
	resp, err := r.storage.DescribeBackup(t.Context(), &storagev1.DescribeBackupRequest{Path: "one", Verify: true})
	if err != nil || len(resp.GetTables()) != 2 || resp.GetBackup().GetRows() == 0 {
		t.Errorf("got %v, %v", resp, err)
	}
}

func TestWithoutAMasterKeyNothingIsBackedUp(t *testing.T) {
	dir := t.TempDir()
	r := start(t, Config{Dir: t.TempDir(), BackupPaths: []string{dir}})
	r.createTable("messages", catalog.UserTable)
	if j := r.run(catalog.JobBackup, "BK-000000000001", catalog.BackupJob{Path: "one"}); !strings.Contains(j.GetError(), "needs a master key") {
		t.Errorf("got %v", j)
	}
	if names := filesBelow(t, dir); len(names) != 0 {
		t.Errorf("it left %q", names)
	}
}

// Each of a chain has what was there at its cut, whatever was flushed, merged, changed and deleted between.
func TestAChainOfIncrementalBackups(t *testing.T) {
	dir := t.TempDir()
	r := start(t, Config{Dir: t.TempDir(), MasterKey: masterText("a"), Shards: 3, BackupPaths: []string{dir}})
	messages, settings := filled(t, r)
	var want, wantShared []map[string]string
	files := []uint64{}
	take := func() {
		n := len(want)
		p := catalog.BackupJob{Path: fmt.Sprint("b", n)}
		if n > 0 {
			p.Parent = fmt.Sprint("b", n-1)
		}
		r.mustRun(catalog.JobBackup, fmt.Sprintf("BK-%012x", n), p)
		want, wantShared = append(want, rowsOf(t, messages, r.node)), append(wantShared, rowsOf(t, settings, r.node))
		list, err := r.node.catalog.Backups()
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, list[n].GetFiles())
	}
	take()
	r.change(messages, "ann", storagev1.Operation_OPERATION_DELETE, "", 1) // its row is in a segment of the parent
	take()
	r.flush(messages)
	r.change(messages, "bob", storagev1.Operation_OPERATION_UPDATE, "later", 1, 4)
	take()
	for shard := range uint32(3) {
		if _, err := r.storage.Compact(t.Context(), &storagev1.CompactRequest{Shard: shard, TableId: messages.ID}); err != nil {
			t.Fatal(err)
		}
	}
	r.insert(settings, "bob", 10)
	take()
	take() // nothing has changed
	if files[4] >= files[0] || files[4] == 0 {
		t.Errorf("files of each: %d: the last has hot rows only", files)
	}
	for n := range want {
		as := fmt.Sprint("r", n)
		r.mustRun(catalog.JobRestore, fmt.Sprintf("RS-%012x", n), catalog.BackupJob{Path: fmt.Sprint("b", n), Namespace: "app", As: as})
		wantSame(t, as, rowsOf(t, tableNamed(t, r.node, as, "messages"), r.node), want[n])
		wantSame(t, as+" (shared)", rowsOf(t, tableNamed(t, r.node, as, "settings"), r.node), wantShared[n])
	}
	for _, name := range filesBelow(t, filepath.Join(dir, "b0", "segments")) { // what the others build upon
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if j := r.run(catalog.JobRestore, "RS-0000000000ff", catalog.BackupJob{Path: "b1", Namespace: "app", As: "x"}); !strings.Contains(j.GetError(), "backup b0, file segments/") {
		t.Errorf("%s: %q", j.GetStatus(), j.GetError())
	}
}
