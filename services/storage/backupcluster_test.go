package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
)

// withBackups gives nodes a folder for backups, the same for all, and a master key.
func (c *cluster) withBackups(dir string) {
	for _, m := range c.nodes {
		m.cfg.BackupPaths, m.cfg.MasterKey = []string{dir}, masterText("a")
	}
}

func (c *cluster) running() (nodes []*Storage) {
	for _, id := range c.up() {
		nodes = append(nodes, c.nodes[id].node)
	}
	return nodes
}

func (c *cluster) mustApply(cmd *catalogv1.Command) {
	c.t.Helper()
	if _, err := catalogv1.NewCatalogServiceClient(c.router.Catalog()).Apply(c.t.Context(), &catalogv1.ApplyRequest{Command: cmd}); err != nil {
		c.t.Fatal(err)
	}
}

// run runs a job to its end, which every node learns.
func (c *cluster) run(kind, id string, p catalog.BackupJob) (j *catalogv1.Job) {
	c.t.Helper()
	c.mustApply(backupCommand(c.t, kind, id, p))
	for _, node := range c.running() {
		j = endOf(c.t, node, id)
	}
	return j
}

func (c *cluster) mustRun(kind, id string, p catalog.BackupJob) {
	c.t.Helper()
	if j := c.run(kind, id, p); j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_COMPLETED {
		c.t.Fatalf("%s is %s: %s", id, j.GetStatus(), j.GetError())
	}
}

// chains write so that row n of a user is begun after row n of the user before it was acknowledged: users are in different shards.
func (c *cluster) chains(ctx context.Context, t *catalog.Table, writers int) (stop func() int) {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	var mu sync.Mutex
	written := 0
	for w := range writers {
		work.Go(func() {
			for n := 1 + w; ctx.Err() == nil; n += writers {
				for _, user := range users {
					if err := c.insert(ctx, t, user, 1000+n); err != nil {
						if ctx.Err() == nil {
							c.t.Errorf("insert: %v", err)
						}
						return
					}
					mu.Lock()
					written++
					mu.Unlock()
				}
			}
		})
	}
	return func() int {
		cancel()
		work.Wait()
		return written
	}
}

// wantCut checks that rows have no effect without its cause.
func wantCut(t *testing.T, rows map[string]string) (chains int) {
	t.Helper()
	byUser := map[string]map[string]bool{}
	for _, u := range users {
		byUser[u] = map[string]bool{}
	}
	for k := range rows {
		user, key, _ := strings.Cut(k, "/")
		byUser[user][key] = true
	}
	for i := 1; i < len(users); i++ {
		for key := range byUser[users[i]] {
			if !byUser[users[i-1]][key] {
				t.Errorf("the backup has row %s of %s, which was written after that of %s, and not that one", key, users[i], users[i-1])
			}
		}
	}
	return len(byUser[users[0]])
}

func TestABackupOfThreeNodesIsRestoredIntoClustersOfOtherSizes(t *testing.T) {
	dir := t.TempDir()
	c := newCluster(t, 3)
	c.withBackups(dir)
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	messages := c.createTable("messages")
	c.mustInsert(messages, 1, 2, 3, 4, 5)
	c.flush(messages)
	stop := c.chains(t.Context(), messages, 4)
	c.mustRun(catalog.JobBackup, "BK-000000000001", catalog.BackupJob{Path: "full"})
	c.flush(messages)
	c.mustRun(catalog.JobBackup, "BK-000000000002", catalog.BackupJob{Path: "second", Parent: "full"})
	c.compact(messages)
	c.mustRun(catalog.JobBackup, "BK-000000000003", catalog.BackupJob{Path: "third", Parent: "second"})
	if stop() == 0 {
		t.Error("nothing was written meanwhile")
	}
	c.mustRun(catalog.JobBackup, "BK-000000000004", catalog.BackupJob{Path: "last", Parent: "third"})
	want := rowsOf(t, messages, c.running()...)
	c.stop(1, 2, 3)

	for _, nodes := range []int{1, 5} {
		o := newCluster(t, nodes)
		o.withBackups(dir)
		for _, m := range o.nodes {
			m.cfg.Shards = uint32(2 + nodes)
		}
		var ids []int
		for id := 1; id <= nodes; id++ {
			ids = append(ids, id)
		}
		o.start(ids...)
		all := map[string]map[string]string{}
		for i, path := range []string{"full", "second", "third", "last"} {
			o.mustRun(catalog.JobRestore, fmt.Sprintf("RS-%012x", i), catalog.BackupJob{Path: path, Namespace: "app", As: path})
			all[path] = rowsOf(t, tableNamed(t, o.nodes[1].node, path, "messages"), o.running()...)
			if n := wantCut(t, all[path]); n < 5 {
				t.Errorf("%s has %d chains", path, n)
			}
		}
		for path, rows := range all { // a row never changes here: each backup has what those before it had
			for k, v := range rows {
				if want[k] != v {
					t.Errorf("%s: row %s is %q, want %q", path, k, v, want[k])
				}
			}
		}
		wantSame(t, fmt.Sprintf("the last one in %d nodes", nodes), all["last"], want)
		o.stop(ids...)
	}
}

// fullDisk fails writes below a folder once it is told to.
type fullDisk struct {
	vfs.FS
	below string
	full  bool
	mu    sync.Mutex
}

func (d *fullDisk) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full && strings.Contains(name, d.below) {
		return nil, errors.New("no space left on device")
	}
	return d.FS.Create(name, category)
}

func (d *fullDisk) set(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

func TestAFullTargetLeavesNoBackup(t *testing.T) {
	disk := &fullDisk{FS: vfs.NewMem(), below: "/backups/"}
	r := start(t, Config{Dir: "/data", FS: disk, MasterKey: masterText("a"), Shards: 2})
	messages, _ := filled(t, r)
	disk.set(true)
	p := backupCommand(t, catalog.JobBackup, "BK-000000000002", catalog.BackupJob{Path: "one"})
	p.GetCreateJob().GetJob().MaxRetries = 0
	r.apply(p)
	if j := endOf(t, r.node, "BK-000000000002"); j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_FAILED || !strings.Contains(j.GetError(), "no space left") {
		t.Errorf("%s: %q", j.GetStatus(), j.GetError())
	}
	target, err := r.node.targets().Open("one")
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := target.Exists("backup.json"); ok || err != nil {
		t.Errorf("there is a backup.json: %v, %v", ok, err)
	}
	if list, err := r.node.catalog.Backups(); len(list) != 0 || err != nil {
		t.Errorf("recorded: %v, %v", list, err)
	}
	disk.set(false)
	r.insert(messages, "ann", 77) // nothing is frozen
	r.mustRun(catalog.JobBackup, "BK-000000000003", catalog.BackupJob{Path: "one"})
	if list, err := r.node.catalog.Backups(); len(list) != 1 || list[0].GetPath() != "one" || err != nil {
		t.Errorf("recorded: %v, %v", list, err)
	}
}

// The job goes on where another node leads, and a killed one leaves nothing.
func TestARestoreOutlivesItsLeaderAndAKilledOneLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	c := newCluster(t, 3)
	c.withBackups(dir)
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	messages := c.createTable("messages")
	for n := range 20 {
		c.mustInsert(messages, n)
	}
	want := rowsOf(t, messages, c.running()...)
	c.mustApply(backupCommand(t, catalog.JobBackup, "BK-000000000001", catalog.BackupJob{Path: "one"}))
	leader := c.leaderOf(0)
	c.stop(leader)
	for _, node := range c.running() {
		if j := endOf(t, node, "BK-000000000001"); j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_COMPLETED {
			t.Fatalf("%s: %s", j.GetStatus(), j.GetError())
		}
	}
	c.start(leader)
	c.until("three voters of every group again", spread(3))
	c.mustApply(backupCommand(t, catalog.JobRestore, "RS-000000000001", catalog.BackupJob{Path: "one", Namespace: "app", As: "other"}))
	leader = c.leaderOf(0)
	c.stop(leader)
	for _, node := range c.running() {
		if j := endOf(t, node, "RS-000000000001"); j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_COMPLETED {
			t.Fatalf("%s: %s", j.GetStatus(), j.GetError())
		}
	}
	c.start(leader)
	c.until("three voters of every group at last", spread(3))
	wantSame(t, "restored", rowsOf(t, tableNamed(t, c.running()[0], "other", "messages"), c.running()...), want)

	c.mustApply(backupCommand(t, catalog.JobRestore, "RS-000000000002", catalog.BackupJob{Path: "one", Namespace: "app", As: "killed"}))
	c.mustApply(&catalogv1.Command{Command: &catalogv1.Command_UpdateJob{UpdateJob: &catalogv1.UpdateJob{JobId: "RS-000000000002",
		Status: catalogv1.JobStatus_JOB_STATUS_CANCELLED, Message: "killed"}}})
	for _, node := range c.running() {
		endOf(t, node, "RS-000000000002")
		if left, err := node.catalog.Restoring(); len(left) != 0 || err != nil {
			t.Errorf("%d tables are being restored still, %v", len(left), err)
		}
		if ns, tables := node.catalog.Entries("killed"); len(ns)+len(tables) != 0 {
			t.Errorf("%d tables are visible", len(tables))
		}
	}
	c.mustAgree()
}

// Each node has a folder of its own here: what the others wrote is not there for the job's node.
func TestTheFolderMustBeShared(t *testing.T) {
	c := newCluster(t, 3)
	for _, m := range c.nodes {
		m.cfg.MasterKey = masterText("a")
	}
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	c.mustInsert(c.createTable("messages"), 1)
	leader := c.leaderOf(0)
	if r, ok := c.nodes[leader].node.replicas.Get(0); ok && r.Group.Term() != 0 { // another node has to write a part
		if err := replica.HandOver(t.Context(), r.Group); err != nil {
			t.Fatal(err)
		}
	}
	j := c.run(catalog.JobBackup, "BK-000000000001", catalog.BackupJob{Path: "one"})
	if j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_FAILED || !strings.Contains(j.GetError(), "must be shared by all of them") {
		t.Errorf("%s: %q", j.GetStatus(), j.GetError())
	}
}
