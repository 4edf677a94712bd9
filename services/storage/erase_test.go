package storage

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// victim is erased; the others are users.
const victim = "eve"

// eraseJob begins an erasure.
func (c *cluster) beginErase(user, job string) error {
	resp, err := c.apply(&catalogv1.Command{Command: &catalogv1.Command_BeginErase{BeginErase: &catalogv1.BeginErase{UserId: user,
		Job: &catalogv1.Job{JobId: job, Type: catalog.JobErase, IdempotencyKey: catalog.EraseKey(user), CreatedBy: "root"}}}})
	if err == nil {
		c.version = resp.GetVersion()
	}
	return err
}

func (c *cluster) apply(cmd *catalogv1.Command) (*catalogv1.ApplyResponse, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	return catalogv1.NewCatalogServiceClient(c.router.Catalog()).Apply(ctx, &catalogv1.ApplyRequest{Command: cmd})
}

// createTexts makes a table whose every column is text, the key and a unique one too.
func (c *cluster) createTexts(name string, kind catalog.TableKind) *catalog.Table {
	c.t.Helper()
	text := catalog.Type{Kind: catalog.Text}
	table := &catalog.Table{Namespace: "app", Name: name, Kind: kind, Columns: []catalog.Column{
		{Name: "id", Type: text, NotNull: true, PrimaryKey: true}, {Name: "mail", Type: text, Unique: kind == catalog.UserTable}, {Name: "body", Type: text}}}
	if kind == catalog.StreamTable {
		table.Options.TTLSeconds = 3600
	}
	_, err := c.apply(&catalogv1.Command{Command: &catalogv1.Command_CreateNamespace{CreateNamespace: &catalogv1.CreateNamespace{Name: "app", IfNotExists: true}}})
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := c.apply(&catalogv1.Command{Command: &catalogv1.Command_CreateTable{CreateTable: &catalogv1.CreateTable{Table: catalog.TableToProto(table)}}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.version = resp.GetVersion()
	return catalog.TableFromProto(resp.GetTable())
}

// write writes one row, whose values all have the text, and returns its _seq.
func (c *cluster) write(t *catalog.Table, user string, op storagev1.Operation, id int, text string, expected ...uint64) (uint64, error) {
	c.t.Helper()
	row := rowcodec.NewRow(t)
	row.Put(0, datum.Text(fmt.Sprintf("%s key %04d", text, id)))
	row.Put(1, datum.Text(fmt.Sprintf("%s mail %04d %d", text, id, len(expected))))
	row.Put(2, datum.Text(fmt.Sprintf("%s body %04d %d", text, id, len(expected))))
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	var request [16]byte
	_, _ = rand.Read(request[:])
	req := &storagev1.WriteRequest{Identity: &catalogv1.Identity{UserId: user, Role: catalogv1.Role_ROLE_USER}, UserId: user, Shard: c.shardOf(user),
		CatalogVersion: c.version, RequestId: request[:], Writes: []*storagev1.TableWrite{{TableId: t.ID, SchemaVersion: t.SchemaVersion, Operation: op,
			ExpectedSeqs: expected, Rows: [][]byte{rowcodec.Append(nil, t, &row)}}}}
	resp, err := storagev1.NewStorageServiceClient(c.router.Shard(req.GetShard())).Write(ctx, req)
	if err != nil {
		return 0, err
	}
	return resp.GetResults()[0].GetSeqs()[0], nil
}

// fill gives a user rows: written, changed, deleted.
func (c *cluster) fill(t *catalog.Table, user, text string, from, n int) {
	c.t.Helper()
	for id := from; id < from+n; id++ {
		seq, err := c.write(t, user, storagev1.Operation_OPERATION_INSERT, id, text)
		if err == nil && id%3 == 1 && t.Kind == catalog.UserTable {
			seq, err = c.write(t, user, storagev1.Operation_OPERATION_UPDATE, id, text, seq)
		}
		if err == nil && id%5 == 1 && t.Kind == catalog.UserTable {
			_, err = c.write(t, user, storagev1.Operation_OPERATION_DELETE, id, text, seq)
		}
		if err != nil {
			c.t.Fatalf("row %d of %s: %v", id, user, err)
		}
	}
}

// snapshotAll truncates all logs.
func (c *cluster) snapshotAll() {
	c.t.Helper()
	for _, id := range c.up() {
		for _, r := range c.nodes[id].node.replicas.All() {
			if err := r.Group.Snapshot(c.t.Context()); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// segmentSums are the files of all users but one, with their checksums.
func (c *cluster) segmentSums(id int, except string) map[string]string {
	c.t.Helper()
	sums := map[string]string{}
	root := filepath.Join(c.nodes[id].cfg.Dir, "segments")
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".parquet" {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if strings.HasPrefix(name, filepath.Join("user", except)+string(filepath.Separator)) {
			return nil
		}
		raw, err := os.ReadFile(path)
		sum := sha256.Sum256(raw)
		sums[name] = hex.EncodeToString(sum[:])
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return sums
}

// world3 is three nodes with a user to erase, whose every value has a marker, among others.
func world3(t *testing.T) (c *cluster, marker string, notes *catalog.Table) {
	var random [12]byte
	_, _ = rand.Read(random[:])
	marker = "MARK" + hex.EncodeToString(random[:])
	c = newCluster(t, 3)
	for _, m := range c.nodes {
		m.cfg.MemTableBytes, m.cfg.LogMemTableBytes, m.cfg.SegmentRows, m.cfg.TrailingLogs = 64<<10, 64<<10, 16, 40
	}
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	request := []byte(marker[:16])
	if _, err := c.apply(&catalogv1.Command{RequestId: request, Command: &catalogv1.Command_CreateUser{CreateUser: &catalogv1.CreateUser{User: &catalogv1.User{UserId: victim,
		Role: catalogv1.Role_ROLE_USER, AuthType: "password", PasswordHash: "hash " + marker, Email: marker + "@example.com",
		Metadata: `{"name":"` + marker + `"}`}}}}); err != nil {
		t.Fatal(err)
	}
	notes = c.createTexts("notes", catalog.UserTable)
	gone := c.createTexts("gone", catalog.UserTable)
	live := c.createTexts("live", catalog.StreamTable)
	for _, user := range users {
		text := "text of " + user
		if user == victim {
			text = marker
		}
		c.fill(notes, user, text, 0, 40)
		c.fill(gone, user, text, 0, 10)
		c.fill(live, user, text, 0, 3)
	}
	c.flush(notes)
	c.flush(gone)
	c.snapshotAll()
	for _, user := range users {
		text := "text of " + user
		if user == victim {
			text = marker
		}
		c.fill(notes, user, text, 100, 40)
	}
	c.flush(notes)
	c.compact(notes)
	for _, user := range users {
		text := "text of " + user
		if user == victim {
			text = marker
		}
		c.fill(notes, user, text, 200, 25) // these stay hot
	}
	if _, err := c.apply(&catalogv1.Command{Command: &catalogv1.Command_DropTable{DropTable: &catalogv1.DropTable{Namespace: "app", Name: "gone"}}}); err != nil {
		t.Fatal(err)
	}
	for _, id := range c.up() {
		if err := c.nodes[id].node.hot.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return c, marker, notes
}

func has(list []string, part string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, part) })
}

// wantNothing looks for a marker in everything all nodes have.
func (c *cluster) wantNothing(marker, when string) {
	c.t.Helper()
	for id, m := range c.nodes {
		if found := hits(c.t, m.cfg.Dir, marker); len(found) > 0 {
			c.t.Errorf("%s: node %d still has something of the user: %v", when, id, found)
		}
	}
}

func TestAnErasedUserLeavesNoByte(t *testing.T) {
	c, marker, notes := world3(t)
	for id, m := range c.nodes { // the search finds what is there
		found := hits(t, m.cfg.Dir, marker)
		for _, part := range []string{"catalog.db", "hot/", ".parquet", ".parquet", "raft/"} {
			if !has(found, part) {
				t.Fatalf("node %d has the marker not in %s: the test looks for nothing (%v)", id, part, found)
			}
		}
	}
	sums := c.segmentSums(1, victim)
	const away = 3
	c.stop(away)
	if _, err := c.write(notes, victim, storagev1.Operation_OPERATION_INSERT, 300, marker); err != nil {
		t.Fatal(err)
	}
	const job = "ER-00000000000a"
	if err := c.beginErase(victim, job); err != nil {
		t.Fatal(err)
	}
	if _, err := c.write(notes, victim, storagev1.Operation_OPERATION_INSERT, 301, marker); !dberr.Is(err, dberr.UserNotFound) {
		t.Errorf("a write of the user: %v", err)
	}
	if _, err := c.count(t.Context(), notes, victim); !dberr.Is(dberr.FromStatus(err), dberr.UserNotFound) {
		t.Errorf("a read of the user: %v", err)
	}
	defer func() { t.Logf("%.900v", fmt.Sprint(c.job(job), c.erasure(job).GetNodes())) }()
	c.until("the two nodes have confirmed, and the job waits for the third", func(*clusterv1.StatusResponse) bool {
		e := c.erasure(job)
		j := c.job(job)
		return len(e.GetNodes()) == 2 && j.GetStatus() == catalogv1.JobStatus_JOB_STATUS_RETRYING && strings.Contains(j.GetError(), "node 3")
	})
	c.start(away)
	c.until("the job has ended", func(*clusterv1.StatusResponse) bool { return catalog.JobEnded(c.job(job).GetStatus()) })
	if j := c.job(job); j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_COMPLETED {
		t.Fatalf("got %v", j)
	}
	c.wantNothing(marker, "while the nodes run")
	c.checkReceipt(job)
	for name, sum := range c.segmentSums(1, victim) {
		if sums[name] != sum {
			t.Errorf("the file %s of somebody else has changed", name)
		}
	}
	for _, user := range users {
		want := 105 - (8 + 8 + 5)
		if user == victim {
			continue
		}
		if n := c.mustCount(notes, user); n != want {
			t.Errorf("%s has %d rows, want %d", user, n, want)
		}
	}
	c.mustAgree()
	c.wantNewBeginning(notes)
	c.stop(1, 2, 3)
	c.wantNothing(marker, "after all have stopped")
}

// wantNewBeginning: the name is free, and who gets it has nothing of what was.
func (c *cluster) wantNewBeginning(notes *catalog.Table) {
	c.t.Helper()
	resp, err := c.apply(&catalogv1.Command{Command: &catalogv1.Command_CreateUser{CreateUser: &catalogv1.CreateUser{User: &catalogv1.User{UserId: victim,
		Role: catalogv1.Role_ROLE_USER, AuthType: "internal"}}}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.version = resp.GetVersion()
	if n := c.mustCount(notes, victim); n != 0 {
		c.t.Errorf("the new user has %d rows", n)
	}
	if _, err := c.write(notes, victim, storagev1.Operation_OPERATION_INSERT, 1, "new"); err != nil {
		c.t.Error(err)
	}
	if n := c.mustCount(notes, victim); n != 1 {
		c.t.Errorf("the new user has %d rows", n)
	}
}

// mustCount asks again while the shard has a new leader.
func (c *cluster) mustCount(t *catalog.Table, user string) int {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	for {
		n, err := c.count(ctx, t, user)
		if err == nil {
			return n
		}
		if ctx.Err() != nil || !dberr.Is(dberr.FromStatus(err), dberr.NotLeader) && !dberr.Is(dberr.FromStatus(err), dberr.Unavailable) {
			c.t.Fatalf("read the rows of %s: %v", user, err)
		}
	}
}

func (c *cluster) erasure(job string) *catalogv1.Erasure {
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	resp, err := catalogv1.NewCatalogServiceClient(c.router.Catalog()).ListErasures(ctx, &catalogv1.ListErasuresRequest{JobId: job})
	if err != nil || len(resp.GetErasures()) == 0 {
		return nil
	}
	return resp.GetErasures()[0]
}

func (c *cluster) job(id string) *catalogv1.Job {
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	resp, err := catalogv1.NewCatalogServiceClient(c.router.Catalog()).ListJobs(ctx, &catalogv1.ListJobsRequest{})
	if err != nil {
		return nil
	}
	for _, j := range resp.GetJobs() {
		if j.GetJobId() == id {
			return j
		}
	}
	return nil
}

func (c *cluster) checkReceipt(job string) {
	c.t.Helper()
	e := c.erasure(job)
	if e.GetUserId() != victim || e.GetAskedBy() != "root" || e.GetFinishedAtUs() == 0 || len(e.GetNodes()) != 3 || e.GetEraseIndex() == 0 {
		c.t.Fatalf("got %v", e)
	}
	found := false
	for _, s := range e.GetSurvey().GetTables() {
		if s.GetName() == "notes" {
			found = s.GetHotRows() > 0 && s.GetUniqueEntries() > 0 && s.GetChanges() > 0 && s.GetSegments() > 0 && s.GetSegmentRows() > 0
		}
	}
	if !found || len(e.GetSurvey().GetFiles()) == 0 || len(e.GetSurvey().GetFiles()[0].GetSha256()) != sha256.Size {
		c.t.Errorf("got %v", e.GetSurvey())
	}
	for _, n := range e.GetNodes() {
		if n.GetShardLogCut() < e.GetEraseIndex() || n.GetCatalogLogCut() < e.GetBeginIndex() {
			c.t.Errorf("node %d: logs are cut at %d and %d, the entries are %d and %d", n.GetNodeId(), n.GetShardLogCut(), n.GetCatalogLogCut(),
				e.GetEraseIndex(), e.GetBeginIndex())
		}
	}
}

// A dropped user can be restored for a while, and is erased by itself then.
func TestADroppedUserIsErasedWhenTheTimeIsOver(t *testing.T) {
	dir := t.TempDir()
	r := start(t, Config{Dir: dir, NodeID: 3, UserRetention: "24h"})
	notes := r.createTable("notes", catalog.UserTable)
	create := &catalogv1.Command{Command: &catalogv1.Command_CreateUser{CreateUser: &catalogv1.CreateUser{User: &catalogv1.User{UserId: victim,
		Role: catalogv1.Role_ROLE_USER, AuthType: "internal"}}}}
	r.apply(create)
	r.insert(notes, victim, 1, 2)
	r.insert(notes, "joe", 1)
	drop := &catalogv1.Command{Command: &catalogv1.Command_DropUser{DropUser: &catalogv1.DropUser{UserId: victim}}}
	r.apply(drop)
	if next, err := r.node.cleanRound(t.Context()); err != nil || next > time.Hour {
		t.Errorf("next %v, %v", next, err)
	}
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_RestoreUser{RestoreUser: &catalogv1.RestoreUser{UserId: victim}}})
	r.wantRows(notes, victim, 2)
	r.apply(drop)
	r.stop()
	r = start(t, Config{Dir: dir, NodeID: 3, UserRetention: "0s"})
	ctx, cancel := context.WithTimeout(t.Context(), jobWait)
	defer cancel()
	for {
		moved := r.node.catalog.Moved()
		list, _, err := r.node.catalog.Erasures("", 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 && list[0].GetFinishedAtUs() != 0 {
			if !strings.HasPrefix(list[0].GetJobId(), catalog.JobUserCleanupPrefix) || list[0].GetUserId() != victim || list[0].GetAskedBy() != "" {
				t.Errorf("got %v", list[0])
			}
			break
		}
		select {
		case <-moved:
		case <-ctx.Done():
			t.Fatalf("the user was not erased: %v", list)
		}
	}
	r.apply(create) // the name is free
	r.wantRows(notes, victim, 0)
	r.wantRows(notes, "joe", 1)
}

// A node that had a replica of the user's shard and has none any more has bytes of the user on its disk all the same, and a node that
// came later must not bring any.
func TestWhatAFormerReplicaLeftGoesToo(t *testing.T) {
	const marker = "MARK-3390-former"
	c := newCluster(t, 4)
	for _, m := range c.nodes {
		m.cfg.MemTableBytes, m.cfg.LogMemTableBytes = 64<<10, 64<<10
	}
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	if _, err := c.apply(&catalogv1.Command{Command: &catalogv1.Command_CreateUser{CreateUser: &catalogv1.CreateUser{User: &catalogv1.User{UserId: victim,
		Role: catalogv1.Role_ROLE_USER, AuthType: "internal", Email: marker}}}}); err != nil {
		t.Fatal(err)
	}
	notes := c.createTexts("notes", catalog.UserTable)
	c.fill(notes, victim, marker, 0, 30)
	c.flush(notes)
	c.fill(notes, victim, marker, 100, 10)
	for _, id := range c.up() {
		if err := c.nodes[id].node.hot.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	c.start(4)
	if _, err := clusterv1.NewClusterServiceClient(c.router.Catalog()).Drain(t.Context(), &clusterv1.DrainRequest{NodeId: 2}); err != nil {
		t.Fatal(err)
	}
	c.until("node 2 has left", func(s *clusterv1.StatusResponse) bool {
		return spread(3)(s) && slices.ContainsFunc(s.GetNodes(), func(n *clusterv1.NodeStatusReport) bool {
			return n.GetNode().GetNodeId() == 2 && n.GetNode().GetStatus() == catalogv1.NodeStatus_NODE_STATUS_LEFT
		})
	})
	c.until("node 2 has removed its replicas", func(*clusterv1.StatusResponse) bool { return len(c.nodes[2].node.replicas.All()) == 0 })
	for _, id := range []int{2, 4} {
		if len(hits(t, c.nodes[id].cfg.Dir, marker)) == 0 {
			t.Fatalf("node %d has nothing of the user before: the test shows nothing", id)
		}
	}
	const job = "ER-00000000000f"
	if err := c.beginErase(victim, job); err != nil {
		t.Fatal(err)
	}
	c.until("the job has ended", func(*clusterv1.StatusResponse) bool { return catalog.JobEnded(c.job(job).GetStatus()) })
	if e := c.erasure(job); len(e.GetNodes()) != 4 {
		t.Errorf("confirmed by %v", e.GetNodes())
	}
	c.wantNothing(marker, "a former replica's node too")
}
