package storage

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// flush moves a table's rows into segments, in all shards.
func (r *role) flush(t *catalog.Table) (rows uint64) {
	r.t.Helper()
	_, shards := r.node.catalog.Cluster()
	for id := range shards {
		resp, err := r.storage.Flush(r.t.Context(), &storagev1.FlushRequest{Shard: id, TableId: t.ID})
		if err != nil {
			r.t.Fatal(err)
		}
		rows += resp.GetRows()
	}
	return rows
}

// segmentsOf lists the segments a node has of all tables.
func segmentsOf(t testing.TB, node *Storage) (list []manifest.Entry) {
	t.Helper()
	for _, r := range node.replicas.All() {
		if err := manifest.EachOf(node.hot, r.Shard.ID(), func(e manifest.Entry) error {
			list = append(list, e)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func hasAll(t *testing.T, node *Storage) bool {
	t.Helper()
	for _, e := range segmentsOf(t, node) {
		if !node.segments.Files.Has(e.Segment) {
			return false
		}
	}
	return true
}

func TestFlushedRowsAreReadAlsoAfterARestart(t *testing.T) {
	dir := t.TempDir()
	r := start(t, Config{Dir: dir})
	messages := r.createTable("messages", catalog.UserTable)
	settings := r.createTable("settings", catalog.SharedTable)
	r.insert(messages, "Ann/..", 1, 2, 3)
	r.insert(messages, "bob", 1)
	r.insert(settings, "bob", 7, 8)
	if n := r.flush(messages); n != 4 {
		t.Errorf("%d rows flushed", n)
	}
	if n := r.flush(messages); n != 0 {
		t.Errorf("%d rows flushed again", n)
	}
	r.flush(settings)
	r.insert(messages, "bob", 2)
	if _, err := r.storage.Write(t.Context(), r.insertion(messages, "bob", 1)); !dberr.Is(err, dberr.PrimaryKeyViolation) {
		t.Errorf("insert a key that is in a segment: %v", err)
	}
	r.untilListed()
	r.stop()
	for _, folder := range []string{"user/%41nn%2f../app/messages", "user/bob/app/messages", "shared/app/settings"} {
		files, err := os.ReadDir(filepath.Join(dir, "segments", filepath.FromSlash(folder)))
		if err != nil || len(files) != 2 || !strings.HasPrefix(files[0].Name(), "batch-") || files[1].Name() != manifest.FileName {
			t.Errorf("%s has %v (%v)", folder, files, err)
		}
	}
	r = start(t, Config{Dir: dir})
	r.wantRows(messages, "Ann/..", 3)
	r.wantRows(messages, "bob", 2)
	r.wantRows(settings, "", 2)
}

func TestADroppedTablesFilesGo(t *testing.T) {
	fs := vfs.NewMem()
	r := start(t, Config{FS: fs})
	messages, kept := r.createTable("messages", catalog.UserTable), r.createTable("kept", catalog.UserTable)
	r.insert(messages, "ann", 1, 2, 3)
	r.insert(kept, "bob", 1)
	r.flush(messages)
	r.flush(kept)
	r.untilListed()
	if n, err := r.node.sweepSegments(0); n != 0 || err != nil {
		t.Errorf("%d files went that are needed, %v", n, err)
	}
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_DropTable{DropTable: &catalogv1.DropTable{Namespace: "app", Name: "messages"}}})
	for left := 1; left > 0; { // the catalog is told when the shards have done it
		ids, err := r.node.catalog.ToPurge()
		if err != nil {
			t.Fatal(err)
		}
		left = len(ids)
	}
	if n, err := r.node.sweepSegments(time.Hour); n != 0 || err != nil {
		t.Errorf("%d young files went, %v", n, err)
	}
	if n, err := r.node.sweepSegments(0); n != 2 || err != nil { // the segment and its manifest
		t.Errorf("%d files went, %v", n, err)
	}
	if list, err := fs.List("data/segments/user"); err != nil || len(list) != 1 || list[0] != "bob" {
		t.Errorf("users with folders: %v, %v", list, err)
	}
	r.wantRows(kept, "bob", 1)
}

// A segment that is damaged and nobody else has yields an error that names it, and no rows.
func TestADamagedSegmentIsReported(t *testing.T) {
	fs := vfs.NewMem()
	r := start(t, Config{FS: fs})
	messages := r.createTable("messages", catalog.UserTable)
	r.insert(messages, "ann", 1, 2, 3)
	r.flush(messages)
	name := damage(t, r.node)
	if n, err := r.count(messages, "ann"); !dberr.Is(err, dberr.Corrupt) || !strings.Contains(err.Error(), name) || n != 0 {
		t.Errorf("%d rows, %v", n, err)
	}
	if _, err := r.storage.Write(t.Context(), r.insertion(messages, "ann", 2)); !dberr.Is(err, dberr.Corrupt) {
		t.Errorf("insert what may be in it: %v", err)
	}
	r.insert(messages, "ann", 9) // outside of its keys
}

// damage changes a byte of a node's only segment, and returns its path.
func damage(t *testing.T, node *Storage) string {
	t.Helper()
	list := segmentsOf(t, node)
	if len(list) != 1 {
		t.Fatalf("%d segments", len(list))
	}
	path := list[0].GetPath()
	name := node.dir.fs.PathJoin(append([]string{node.dir.join("segments")}, strings.Split(path, "/")...)...)
	f, err := node.dir.fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xA5, 0x5A}, int64(list[0].GetBytes()/2)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func (c *cluster) flush(t *catalog.Table) (rows uint64) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	for id := range uint32(clusterShards) {
		resp, err := storagev1.NewStorageServiceClient(c.router.Shard(id)).Flush(ctx, &storagev1.FlushRequest{Shard: id, TableId: t.ID, CatalogVersion: c.version})
		if err != nil {
			c.t.Fatal(err)
		}
		rows += resp.GetRows()
	}
	return rows
}

// mustAgree compares all replicas, as soon as all of them answer.
func (c *cluster) mustAgree() {
	c.t.Helper()
	c.until("all replicas answer", func(*clusterv1.StatusResponse) bool {
		verified, err := clusterv1.NewClusterServiceClient(c.router.Catalog()).Verify(c.t.Context(), &clusterv1.VerifyRequest{})
		if err != nil {
			return false
		}
		for _, g := range verified.GetGroups() {
			if len(g.GetReplicas()) != 3 || slices.ContainsFunc(g.GetReplicas(), func(r *clusterv1.ReplicaSum) bool { return r.GetError() != "" }) {
				return false
			}
		}
		for _, g := range verified.GetGroups() {
			if !g.GetAgrees() {
				c.t.Errorf("group %d: %v", g.GetGroup(), g)
			}
		}
		return true
	})
}

func TestSegmentsSurviveTheLossOfEachNode(t *testing.T) {
	c := newCluster(t, 3)
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	messages := c.createTable("messages")
	c.mustInsert(messages, 1, 2, 3)
	if n := c.flush(messages); n != uint64(3*len(users)) {
		t.Errorf("%d rows flushed", n)
	}
	c.mustInsert(messages, 4)
	rows := 4
	for id := 1; id <= 3; id++ {
		c.stop(id)
		c.wantRows(messages, rows)
		if id == 2 {
			c.flush(messages) // two of three have it
			rows++
			c.mustInsert(messages, rows)
		}
		c.start(id)
		c.until("three voters of every group again", spread(3))
		if id == 2 {
			c.stop(1)
			c.wantRows(messages, rows) // node 2 fetches what it reads
			c.start(1)
			c.until("three voters of every group again", spread(3))
			c.nodes[2].cfg.Dir = t.TempDir() // and then loses everything
			c.stop(2)
			c.start(2)
			c.until("node 2 is a member again", func(s *clusterv1.StatusResponse) bool { return len(s.GetNodes()) == 3 && spread(3)(s) })
			c.until("node 2 has the segments and lists them", func(*clusterv1.StatusResponse) bool {
				return len(segmentsOf(t, c.nodes[2].node)) > 0 && hasAll(t, c.nodes[2].node) && unlisted(t, c.nodes[2].node) == ""
			})
		} else {
			c.mustAgree()
		}
		c.wantRows(messages, rows)
	}
	c.mustAgree()
}

// One replica's damaged file is replaced by another's.
func TestADamagedSegmentIsRepaired(t *testing.T) {
	c := newCluster(t, 3)
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	messages := c.createTable("messages")
	for id := range 3 {
		if err := c.insert(t.Context(), messages, "ann", id); err != nil {
			t.Fatal(err)
		}
	}
	c.flush(messages)
	leader := c.leaderOf(c.shardOf("ann") + 1)
	damage(t, c.nodes[leader].node)
	n, err := c.count(t.Context(), messages, "ann")
	if err != nil || n != 3 {
		t.Errorf("%d rows, %v", n, err)
	}
	for _, e := range segmentsOf(t, c.nodes[leader].node) {
		f, err := c.nodes[leader].node.segments.Files.OpenChecked(e.Segment)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Before the first segment the catalog knows that nodes which read none cannot be members any more.
func TestOldNodesAreRefusedOnceThereAreSegments(t *testing.T) {
	r := start(t, Config{FS: vfs.NewMem()})
	messages := r.createTable("messages", catalog.UserTable)
	r.insert(messages, "ann", 1)
	old := &catalogv1.Node{NodeId: 9, Role: "storage", ServerId: "n9-old", RpcAddr: "old", RaftAddr: "old/raft", Format: command.VersionSegments - 1}
	register := func() error {
		_, err := r.catalog.Apply(t.Context(), &catalogv1.ApplyRequest{Command: &catalogv1.Command{Command: &catalogv1.Command_RegisterNode{RegisterNode: &catalogv1.RegisterNode{Node: old}}}})
		return err
	}
	r.flush(messages)
	if err := register(); !dberr.Is(err, dberr.Unsupported) {
		t.Errorf("a node of format %d: %v", old.GetFormat(), err)
	}
	old.Format++
	if err := register(); err != nil {
		t.Errorf("a node of format %d: %v", old.GetFormat(), err)
	}
}

// An older node that is a member keeps rows where it finds them.
func TestNothingIsFlushedBesideAnOlderNode(t *testing.T) {
	r := start(t, Config{FS: vfs.NewMem()})
	messages := r.createTable("messages", catalog.UserTable)
	r.insert(messages, "ann", 1)
	old := &catalogv1.Node{NodeId: 9, Role: "storage", ServerId: "n9-old", RpcAddr: "old", RaftAddr: "old/raft", Format: command.VersionSegments - 1}
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_RegisterNode{RegisterNode: &catalogv1.RegisterNode{Node: old}}})
	if _, err := r.storage.Flush(t.Context(), &storagev1.FlushRequest{Shard: r.insertion(messages, "ann").GetShard(), TableId: messages.ID}); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("%v", err)
	}
}

// Names of segments come from other nodes.
func TestPathsOfSegmentsStayBelowTheirFolder(t *testing.T) {
	net := rpcnet.NewLocal()
	r, err := tryStart(t, Config{FS: vfs.NewMem()}, net)
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range []string{"", "..", "../FORMAT", "/etc/passwd", "a/../../FORMAT", "a//b", "a\\..\\..\\FORMAT", "a\x00b", "./a"} {
		s, err := r.storage.FetchSegment(t.Context(), &storagev1.FetchSegmentRequest{Path: path})
		if err == nil {
			_, err = s.Recv()
		}
		if !dberr.Is(dberr.FromStatus(err), dberr.InvalidArgument) {
			t.Errorf("path %d: %v", i, err)
		}
	}
	s, err := r.storage.FetchSegment(t.Context(), &storagev1.FetchSegmentRequest{Path: "user/ann/x.parquet"})
	if err == nil {
		_, err = s.Recv()
	}
	if !dberr.Is(dberr.FromStatus(err), dberr.NotFound) {
		t.Errorf("a path that is not there: %v", err)
	}
}

// flushedBy waits until a user has a number of segments.
func (r *role) flushedBy(user string, segments int) {
	r.t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		n := 0
		for _, e := range segmentsOf(r.t, r.node) {
			if e.User == user {
				n++
			}
		}
		if n == segments {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("%s has %d segments, want %d", user, n, segments)
		}
	}
}

func (r *role) createWithPolicy(name string, rows, seconds uint64) *catalog.Table {
	r.t.Helper()
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_CreateNamespace{CreateNamespace: &catalogv1.CreateNamespace{Name: "app", IfNotExists: true}}})
	table := &catalog.Table{Namespace: "app", Name: name, Kind: catalog.UserTable, Columns: []catalog.Column{
		{Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true, PrimaryKey: true},
		{Name: "body", Type: catalog.Type{Kind: catalog.Text}}}, Options: catalog.TableOptions{FlushRows: rows, FlushIntervalSeconds: seconds}}
	resp := r.apply(&catalogv1.Command{Command: &catalogv1.Command_CreateTable{CreateTable: &catalogv1.CreateTable{Table: catalog.TableToProto(table)}}})
	return catalog.TableFromProto(resp.GetTable())
}

// A policy looks at each partition by itself, and works on for rows of before a restart.
func TestPolicies(t *testing.T) {
	fs := vfs.NewMem()
	cfg := Config{FS: fs, FlushCheckInterval: config.Duration(5 * time.Millisecond)}
	r := start(t, cfg)
	byRows, byTime, never := r.createWithPolicy("byrows", 3, 0), r.createWithPolicy("bytime", 0, 1), r.createTable("never", catalog.UserTable)
	r.insert(byRows, "ann", 1, 2, 3)
	r.insert(byRows, "bob", 1, 2)
	r.insert(never, "eve", 1, 2, 3, 4, 5)
	r.flushedBy("ann", 1)
	r.insert(byTime, "joe", 1)
	r.flushedBy("joe", 1)
	r.flushedBy("bob", 0)
	r.stop()
	r = start(t, cfg)
	r.insert(byRows, "bob", 3)
	r.flushedBy("bob", 1)
	r.flushedBy("eve", 0)
	r.wantRows(byRows, "bob", 3)
	r.wantRows(never, "eve", 5)
}
