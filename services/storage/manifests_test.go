package storage

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

// untilListed waits until the manifests of a node are what its state says.
func (r *role) untilListed() {
	r.t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		why := unlisted(r.t, r.node)
		if why == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatal(why)
		}
	}
}

// unlisted says what manifest of a node is not what its state says, "" when all are.
func unlisted(t testing.TB, node *Storage) (why string) {
	t.Helper()
	eachPartition(t, node, func(entries []manifest.Entry) {
		raw, err := node.segments.Files.ReadAll(manifest.Path(entries))
		if err != nil && !dberr.Is(err, dberr.NotFound) {
			t.Fatal(err)
		}
		if got := manifest.ParseVersion(raw); got != manifest.VersionOf(entries) {
			why = fmt.Sprintf("%s has version %v, the state %v", manifest.Path(entries), got, manifest.VersionOf(entries))
		}
	})
	return why
}

func eachPartition(t testing.TB, node *Storage, visit func([]manifest.Entry)) {
	t.Helper()
	for _, r := range node.replicas.All() {
		err := manifest.EachPartition(node.hot, keycodec.PrefixSpan(keycodec.SegmentPrefix(r.Shard.ID())), func(entries []manifest.Entry) (bool, error) {
			visit(entries)
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// listing is what the test reads of a manifest.
type listing struct {
	TableID struct {
		Namespace string `json:"namespace_id"`
		Name      string `json:"table_name"`
	} `json:"table_id"`
	User     *string `json:"user_id"`
	Segments []struct {
		Path   string `json:"path"`
		Rows   uint64 `json:"row_count"`
		Status string `json:"status"`
		Stats  map[string]struct {
			Min, Max map[string]string
			Nulls    uint64 `json:"null_count"`
		} `json:"column_stats"`
	} `json:"segments"`
}

// filesOf lists the files a node has in its segments' folder.
func filesOf(t *testing.T, node *Storage) (files []string) {
	t.Helper()
	var walk func(dir string)
	walk = func(dir string) {
		list, err := node.dir.fs.List(node.dir.join("segments") + "/" + dir)
		if err != nil && dir != "" {
			t.Fatal(err)
		}
		for _, name := range list {
			p := path.Join(dir, name)
			info, err := node.dir.fs.Stat(node.dir.join("segments") + "/" + p)
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(p)
			} else {
				files = append(files, p)
			}
		}
	}
	walk("")
	slices.Sort(files)
	return files
}

// listed reads a node's manifests: their text by path, and the files they name, themselves too.
func listed(t *testing.T, node *Storage) (texts map[string]string, files []string) {
	t.Helper()
	texts = map[string]string{}
	for _, p := range filesOf(t, node) {
		if path.Base(p) != manifest.FileName {
			continue
		}
		raw, err := node.segments.Files.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		var l listing
		if err := json.Unmarshal(raw, &l); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		texts[p] = string(raw)
		files = append(files, p)
		for _, s := range l.Segments {
			files = append(files, path.Join(path.Dir(p), s.Path))
		}
	}
	slices.Sort(files)
	return texts, files
}

// sameEverywhere waits until every node has so many segments and has written its manifests, sweeps, and compares: equal texts, and the files they name are
// those that are there. It returns the texts.
func (c *cluster) sameEverywhere(segments int) (want map[string]string) {
	c.t.Helper()
	c.until("all manifests everywhere", func(*clusterv1.StatusResponse) bool {
		for _, id := range c.up() {
			node := c.nodes[id].node
			if unlisted(c.t, node) != "" || len(segmentsOf(c.t, node)) != segments {
				return false
			}
		}
		return true
	})
	for _, id := range c.up() {
		node := c.nodes[id].node
		if _, err := node.sweepSegments(0); err != nil {
			c.t.Fatal(err)
		}
		texts, files := listed(c.t, node)
		if there := filesOf(c.t, node); !slices.Equal(files, there) {
			c.t.Errorf("node %d has %v, its manifests name %v", id, there, files)
		}
		if want == nil {
			want = texts
		}
		if len(texts) != len(want) {
			c.t.Errorf("node %d has %d manifests, another %d", id, len(texts), len(want))
		}
		for p, text := range texts {
			if text != want[p] {
				c.t.Errorf("%s differs:\n%s\n%s", p, text, want[p])
			}
		}
	}
	return want
}

func (c *cluster) compact(t *catalog.Table) (removed, added uint64) {
	c.t.Helper()
	for id := range uint32(clusterShards) {
		resp, err := storagev1.NewStorageServiceClient(c.router.Shard(id)).Compact(c.t.Context(),
			&storagev1.CompactRequest{Shard: id, TableId: t.ID, CatalogVersion: c.version})
		if err != nil {
			c.t.Fatal(err)
		}
		removed, added = removed+resp.GetSegmentsRemoved(), added+resp.GetSegmentsAdded()
	}
	return removed, added
}

func TestManifestsAreTheSameEverywhere(t *testing.T) {
	c := newCluster(t, 3)
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	messages := c.createTable("messages")
	for n := 1; n <= 3; n++ {
		c.mustInsert(messages, n)
		c.flush(messages)
	}
	texts := c.sameEverywhere(3 * len(users))
	if len(texts) != len(users) {
		t.Fatalf("%d manifests of %d users", len(texts), len(users))
	}
	for p, text := range texts {
		if n := strings.Count(text, `"status":"committed"`); n != 3 || !strings.Contains(text, `"table_id":{"namespace_id":"app","table_name":"messages"}`) {
			t.Errorf("%s has %d segments: %s", p, n, text)
		}
	}
	if removed, added := c.compact(messages); removed != uint64(3*len(users)) || added != uint64(len(users)) {
		t.Errorf("merged %d into %d", removed, added)
	}
	if removed, _ := c.compact(messages); removed != 0 {
		t.Errorf("merged %d again", removed)
	}
	for p, text := range c.sameEverywhere(len(users)) {
		if n := strings.Count(text, `"status":"committed"`); n != 1 || !strings.Contains(text, `"row_count":3,`) {
			t.Errorf("%s has %d segments: %s", p, n, text)
		}
	}
	c.wantRows(messages, 3)
	_, err := catalogv1.NewCatalogServiceClient(c.router.Catalog()).Apply(t.Context(), &catalogv1.ApplyRequest{Command: &catalogv1.Command{
		Command: &catalogv1.Command_DropTable{DropTable: &catalogv1.DropTable{Namespace: "app", Name: "messages"}}}})
	if err != nil {
		t.Fatal(err)
	}
	if texts := c.sameEverywhere(0); len(texts) != 0 {
		t.Errorf("left: %v", texts)
	}
	for _, id := range c.up() {
		if list, err := c.nodes[id].node.dir.fs.List(c.nodes[id].node.dir.join("segments")); err != nil || len(list) > 1 {
			t.Errorf("node %d has %v, %v", id, list, err)
		}
	}
}

// What was not written before the node stopped, and what somebody removed or changed, is there after the next check.
func TestManifestsAreRepaired(t *testing.T) {
	fs := vfs.NewMem()
	r := start(t, Config{FS: fs})
	messages := r.createTable("messages", catalog.UserTable)
	for n, user := range []string{"ann", "bob", "eve"} {
		r.insert(messages, user, n)
	}
	r.flush(messages)
	r.untilListed()
	want, files := listed(t, r.node)
	r.stop()
	name := func(user string) string { return cold.Dir(messages, user) + "/" + manifest.FileName }
	if err := fs.Remove("data/segments/" + name("ann")); err != nil {
		t.Fatal(err)
	}
	stale := cold.NewFiles(fs, "data/segments")
	if err := stale.Replace(name("bob"), []byte(`{"version":7,"segments":[{}]}`)); err != nil {
		t.Fatal(err)
	}
	if err := stale.Replace(name("eve"), []byte(want[name("eve")][:100])); err != nil {
		t.Fatal(err)
	}
	r = start(t, Config{FS: fs})
	r.untilListed()
	got, there := listed(t, r.node)
	if !slices.Equal(files, there) {
		t.Errorf("%v became %v", files, there)
	}
	for p := range want {
		if got[p] != want[p] {
			t.Errorf("%s was %s, is %s", p, want[p], got[p])
		}
	}
	for _, user := range []string{"ann", "bob", "eve"} {
		r.wantRows(messages, user, 1)
	}
}

// A list names no file that is not there.
func TestAManifestWaitsForItsFiles(t *testing.T) {
	fs := vfs.NewMem()
	r := start(t, Config{FS: fs})
	messages := r.createTable("messages", catalog.UserTable)
	r.insert(messages, "ann", 1)
	r.flush(messages)
	r.untilListed()
	e := segmentsOf(t, r.node)[0]
	for _, p := range []string{e.GetPath(), manifest.Path([]manifest.Entry{e})} {
		if err := fs.Remove("data/segments/" + p); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.node.checkManifests(t.Context()); err != nil {
		t.Fatal(err)
	}
	if files := filesOf(t, r.node); len(files) != 0 {
		t.Errorf("there is %v", files)
	}
}

func TestManifestsArePaged(t *testing.T) {
	r := start(t, Config{FS: vfs.NewMem(), Shards: 1})
	messages, settings := r.createTable("messages", catalog.UserTable), r.createTable("settings", catalog.SharedTable)
	gone := r.createTable("gone", catalog.UserTable)
	for _, user := range []string{"ann", "bob", "joe"} {
		r.insert(messages, user, 1, 2)
		r.insert(gone, user, 1)
	}
	r.insert(settings, "", 1)
	for _, table := range []*catalog.Table{messages, settings, gone} {
		r.flush(table)
	}
	r.node.jobs.Follow()
	var got []string
	req := &storagev1.ListManifestsRequest{Limit: 2}
	for pages := 1; ; pages++ {
		resp, err := r.storage.ListManifests(t.Context(), req)
		if err != nil || len(resp.GetManifests()) > 2 {
			t.Fatalf("%v, %v", resp, err)
		}
		for _, m := range resp.GetManifests() {
			got = append(got, fmt.Sprintf("%s.%s %s", m.GetNamespace(), m.GetTableName(), m.GetScope()))
			req.AfterTableId, req.AfterUserId = m.GetTableId(), m.GetUserId()
			var l listing
			if err := json.Unmarshal([]byte(m.GetJson()), &l); err != nil || l.TableID.Name != m.GetTableName() || len(l.Segments) != 1 ||
				(l.User == nil) != (m.GetUserId() == "") || m.GetUpdatedUs() == 0 {
				t.Errorf("%v: %v", m, err)
			}
			if s := l.Segments[0].Stats["1"]; m.GetTableName() == "messages" && (s.Min["Int64"] != "1" || s.Max["Int64"] != "2" || s.Nulls != 0) {
				t.Errorf("statistics %+v in %s", s, m.GetJson())
			}
		}
		if !resp.GetHasMore() {
			if pages != 4 {
				t.Errorf("%d pages", pages)
			}
			break
		}
	}
	want := []string{"app.messages ann", "app.messages bob", "app.messages joe", "app.settings shared", "app.gone ann", "app.gone bob", "app.gone joe"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
