package sqltest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/fsouza/fake-gcs-server/fakestorage"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/storage"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

const (
	bucketName = "segments"
	// secretKey is looked for wherever it must not be.
	secretKey = "hush/S3cretKey+of=tests"
)

// objects is a server of S3 on loopback that misbehaves when it is told to.
type objects struct {
	t       *testing.T
	url     string
	backend gofakes3.Backend

	mu sync.Mutex
	// fault answers in place of the server when it returns true.
	fault func(w http.ResponseWriter, r *http.Request) bool
}

func startObjects(t *testing.T) *objects {
	t.Helper()
	o := &objects{t: t, backend: s3mem.New()}
	if err := o.backend.CreateBucket(bucketName); err != nil {
		t.Fatal(err)
	}
	h := gofakes3.New(o.backend).Server()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		fault := o.fault
		o.mu.Unlock()
		if fault == nil || !fault(w, r) {
			h.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	o.url = server.URL
	return o
}

func (o *objects) fail(f func(http.ResponseWriter, *http.Request) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fault = f
}

// keys are the names of segments in the bucket.
func (o *objects) keys(suffix string) (keys []string) {
	o.t.Helper()
	list, err := o.backend.ListBucket(bucketName, &gofakes3.Prefix{}, gofakes3.ListBucketPage{})
	if err != nil {
		o.t.Fatal(err)
	}
	for _, c := range list.Contents {
		if strings.HasSuffix(c.Key, suffix) {
			keys = append(keys, c.Key)
		}
	}
	return keys
}

// create is the statement that makes a storage of it.
func (o *objects) create(id, prefix string) string {
	return fmt.Sprintf(`CREATE STORAGE %s TYPE s3 PATH 's3://%s/%s/${namespace}/${table_name}/${user_id}'
		CREDENTIALS '{"access_key_id":"AKIATEST","secret_access_key":"%s"}' CONFIG '{"endpoint":"%s","allow_http":true}'`, id, bucketName, prefix, secretKey, o.url)
}

// loopback allows servers of tests.
var loopback = cluster.Storage(func(c *storage.Config) { c.EndpointsAllowed = []string{"127.0.0.0/8"} })

// answer runs statements; an error is part of the answer.
func answer(t *testing.T, c *cluster.Cluster, id catalog.Identity, sql string) string {
	t.Helper()
	resp, err := c.Query().Execute(t.Context(), &queryv1.ExecuteRequest{Identity: catalog.IdentityToProto(id), Sql: sql})
	if err != nil {
		return errorText(err)
	}
	var out strings.Builder
	for _, r := range resp.GetResults() {
		out.WriteString(resultText(t, r))
	}
	if e := resp.GetError(); e != nil {
		fmt.Fprintf(&out, "error %s: %s\n", e.GetCode(), e.GetMessage())
	}
	return out.String()
}

func must(t *testing.T, c *cluster.Cluster, id catalog.Identity, sql string) string {
	t.Helper()
	text := answer(t, c, id, sql)
	if strings.Contains(text, "error ") {
		t.Fatalf("%s\n%s", sql, text)
	}
	return text
}

// ended waits for all jobs, and returns the messages of a type.
func ended(t *testing.T, c *cluster.Cluster, kind string) string {
	t.Helper()
	for {
		if text := must(t, c, root, "SELECT job_id FROM system.jobs WHERE status IN ('new','queued','running','retrying')"); strings.Count(text, "\n") == 1 {
			return must(t, c, root, "SELECT status, message FROM system.jobs WHERE job_type = '"+kind+"' ORDER BY created_at")
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

const tables = `CREATE NAMESPACE app;
	CREATE USER TABLE app.notes (id BIGINT PRIMARY KEY, body TEXT) STORAGE s3x;
	CREATE SHARED TABLE app.rooms (id BIGINT PRIMARY KEY, name TEXT) STORAGE s3x`

// write makes two segments of alice's and one of rooms.
func write(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	must(t, c, alice, "INSERT INTO app.notes VALUES (1,'one'),(2,'two'),(3,'three')")
	must(t, c, root, "INSERT INTO app.rooms VALUES (1,'lobby')")
	c.Flush(t)
	must(t, c, alice, "UPDATE app.notes SET body = 'TWO' WHERE id = 2; DELETE FROM app.notes WHERE id = 3")
	c.Flush(t)
}

const notes = "id:BIGINT | body:TEXT\n1 | one\n2 | TWO\n"

func readNotes(t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	return answer(t, c, alice, "SELECT id, body FROM app.notes ORDER BY id")
}

func check(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%swant:\n%s", what, got, want)
	}
}

// TestSegmentsInS3: on one node and on three, segments are in the bucket, where templates say, once; all nodes read them from there.
func TestSegmentsInS3(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			o := startObjects(t)
			c := cluster.Start(t, loopback, cluster.Nodes(nodes))
			check(t, "create", answer(t, c, root, o.create("s3x", "pre")), "Storage 's3x' created successfully\n")
			must(t, c, root, tables)
			write(t, c)
			check(t, "read", readNotes(t, c), notes)
			segments := o.keys(".parquet")
			if len(segments) != 3 || !strings.HasPrefix(segments[0], "pre/app/notes/alice/batch-") || !strings.HasPrefix(segments[2], "pre/app/rooms/batch-") {
				t.Errorf("the bucket has %v", segments)
			}
			manifests(t, o, 2)
			must(t, c, root, "STORAGE COMPACT ALL IN app")
			ended(t, c, "compact")
			check(t, "read what was merged", readNotes(t, c), notes)
			text := answer(t, c, root, "STORAGE CHECK s3x EXTENDED")
			if !strings.Contains(text, "s3x | healthy | true | true | true | true | … | ∅ | …") {
				t.Error(text)
			}
		})
	}
}

// manifests waits for the manifests in the bucket, which follow the commit, and looks what they say.
func manifests(t *testing.T, o *objects, n int) {
	t.Helper()
	var keys []string
	for keys = o.keys("manifest.json"); len(keys) < n; keys = o.keys("manifest.json") {
		time.Sleep(10 * time.Millisecond) // between two looks
	}
	object, err := o.backend.GetObject(bucketName, keys[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer object.Contents.Close()
	var m struct {
		Segments []struct {
			Storage string `json:"storage_id"`
			Path    string `json:"path"`
		} `json:"segments"`
	}
	if err := json.NewDecoder(object.Contents).Decode(&m); err != nil || len(m.Segments) == 0 || m.Segments[0].Storage != "s3x" ||
		!strings.HasPrefix(m.Segments[0].Path, "batch-") {
		t.Errorf("%v: %+v", err, m)
	}
}

// TestAStoreThatMisbehaves: a new node's cache is empty, so it asks the store, which answers wrongly: never wrong rows.
func TestAStoreThatMisbehaves(t *testing.T) {
	o := startObjects(t)
	c := cluster.Start(t, loopback, cluster.Storage(func(c *storage.Config) { c.RemoteCacheBytes = 1 })) // keeps one file
	must(t, c, root, o.create("s3x", "pre"))
	must(t, c, root, tables)
	write(t, c)
	get := func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "batch-")
	}
	for i, tc := range []struct {
		name  string
		fault func(w http.ResponseWriter, r *http.Request)
		want  string
	}{
		{"wrong bytes", func(w http.ResponseWriter, r *http.Request) {
			o.tamper(w, r, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}, "error Corrupt: "},
		{"cut short", func(w http.ResponseWriter, r *http.Request) {
			o.tamper(w, r, func(b []byte) []byte { return b[:len(b)-7] })
		}, "error "},
		{"throttled", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, "error Unavailable: "},
		{"gone", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte("<Error><Code>NoSuchKey</Code></Error>"))
		}, "error Corrupt: "},
		{"refused", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte("<Error><Code>AccessDenied</Code><Message>" + secretKey + "</Message></Error>"))
		}, "error PermissionDenied: "},
	} {
		dropCaches(t, c, i)
		o.fail(func(w http.ResponseWriter, r *http.Request) bool {
			if get(r) {
				tc.fault(w, r)
			}
			return get(r)
		})
		got := readNotes(t, c)
		if got != notes && (!strings.HasPrefix(got, tc.want) || strings.Contains(got, secretKey)) {
			t.Errorf("%s: %s", tc.name, got)
		}
		if got == notes {
			t.Errorf("%s: the store was not asked", tc.name)
		}
		o.fail(nil)
		check(t, "after "+tc.name, readNotes(t, c), notes)
	}
}

// TestErasedFromStorages: an erased user's files are gone from the store, and from the caches of the nodes; those of others stay.
func TestErasedFromStorages(t *testing.T) {
	o := startObjects(t)
	c := cluster.Start(t, loopback, cluster.Nodes(3))
	must(t, c, root, o.create("s3x", "pre"))
	must(t, c, root, tables)
	must(t, c, root, "CREATE USER ann WITH PASSWORD 'Str0ng-secret!'")
	ann := catalog.Identity{UserID: "ann", Role: catalog.RoleUser}
	must(t, c, ann, "INSERT INTO app.notes VALUES (1,'one'),(2,'two')")
	write(t, c)
	must(t, c, ann, "UPDATE app.notes SET body = 'TWO' WHERE id = 2")
	c.Flush(t)
	must(t, c, root, "STORAGE COMPACT TABLE app.notes") // what it replaces is still there
	ended(t, c, "compact")
	if n := strings.Count(strings.Join(o.keys(""), " "), "/ann/"); n < 4 {
		t.Fatalf("ann has %d files before", n)
	}
	must(t, c, root, "DROP USER ann; ERASE USER 'ann'")
	if text := ended(t, c, "erase"); !strings.Contains(text, "completed") {
		t.Error(text)
	}
	for _, key := range o.keys("") {
		if strings.Contains(key, "/ann/") {
			t.Errorf("%s is left", key)
		}
	}
	check(t, "alice's", readNotes(t, c), notes)
}

// TestAnotherEndpoint: a storage does not go to where its files are not, and back to where it was with other credentials.
func TestAnotherEndpoint(t *testing.T) {
	o, other := startObjects(t), startObjects(t)
	c := cluster.Start(t, loopback)
	must(t, c, root, o.create("s3x", "pre"))
	must(t, c, root, tables)
	write(t, c)
	text := answer(t, c, root, fmt.Sprintf(`ALTER STORAGE s3x SET CONFIG '{"endpoint":"%s","allow_http":true}'`, other.url))
	if !strings.HasPrefix(text, "error InvalidOperation: storage 's3x' would not find its files at s3://segments/pre any more: ") || len(other.keys("")) != 0 {
		t.Errorf("%s, and there is %v", text, other.keys(""))
	}
	must(t, c, root, `ALTER STORAGE s3x SET PATH 's3://segments/new'`)
	must(t, c, root, `ALTER STORAGE s3x SET CREDENTIALS '{"access_key_id":"ANOTHER","secret_access_key":"key"}'`)
	dropCaches(t, c, 1)
	check(t, "read", readNotes(t, c), notes)
	if keys := o.keys(".parquet"); !slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, "new/app/notes/alice/") }) {
		t.Errorf("the bucket has %v", keys)
	}
}

// TestAStoreThatIsAway: rows stay in the hot store, and what was flushed before is read from the cache.
func TestAStoreThatIsAway(t *testing.T) {
	o := startObjects(t)
	c := cluster.Start(t, loopback)
	must(t, c, root, o.create("s3x", "pre"))
	must(t, c, root, tables)
	write(t, c)
	o.fail(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	must(t, c, alice, "UPDATE app.notes SET body = 'x' WHERE id = 1; UPDATE app.notes SET body = 'one' WHERE id = 1")
	must(t, c, root, "FLUSH TABLE app.notes")
	check(t, "while it is away", readNotes(t, c), notes)
	before := len(o.keys(".parquet"))
	o.fail(nil)
	if text := ended(t, c, "flush"); !strings.Contains(text, "completed | flushed 1 rows") { // tried again by itself
		t.Error(text)
	}
	if n := len(o.keys(".parquet")); n != before+1 {
		t.Errorf("%d segments, %d before", n, before)
	}
	check(t, "when it is back", readNotes(t, c), notes)
	if text := answer(t, c, root, "CREATE STORAGE broken TYPE s3 PATH 's3://nosuchbucket' CREDENTIALS '{\"access_key_id\":\"a\",\"secret_access_key\":\"b\"}' CONFIG '{\"endpoint\":\""+
		o.url+"\",\"allow_http\":true}'"); !strings.HasPrefix(text, "error InvalidOperation: storage 'broken' is not usable: write ") {
		t.Error(text)
	}
}

// dropCaches has alice's row in a segment that is not open anywhere, and a newer file in the cache, which keeps one.
func dropCaches(t *testing.T, c *cluster.Cluster, n int) {
	t.Helper()
	must(t, c, alice, "UPDATE app.notes SET body = 'x' WHERE id = 1; UPDATE app.notes SET body = 'one' WHERE id = 1")
	c.Flush(t)
	must(t, c, root, fmt.Sprintf("INSERT INTO app.rooms VALUES (%d, 'x')", n+100))
	c.Flush(t)
}

// tamper changes what the server answers.
func (o *objects) tamper(w http.ResponseWriter, r *http.Request, change func([]byte) []byte) {
	rec := httptest.NewRecorder()
	gofakes3.New(o.backend).Server().ServeHTTP(rec, r)
	body := change(bytes.Clone(rec.Body.Bytes()))
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(rec.Code)
	_, _ = w.Write(body)
}

// TestCredentialsAreNowhere: not in files, not in what is shown, not in logs, not in errors.
func TestCredentialsAreNowhere(t *testing.T) {
	o := startObjects(t)
	dir := t.TempDir()
	var log bytes.Buffer
	var mu sync.Mutex
	c := cluster.Start(t, loopback, cluster.Storage(func(c *storage.Config) { c.Dir = dir }), cluster.On(vfs.Default), cluster.Logger(logTo(&log, &mu)))
	must(t, c, root, o.create("s3x", "pre"))
	must(t, c, root, tables)
	write(t, c)
	shown := must(t, c, root, "SHOW STORAGES; SELECT * FROM system.storages; STORAGE CHECK s3x; SELECT * FROM system.jobs; SELECT * FROM system.settings")
	o.fail(func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprintf(w, "<Error><Code>X</Code><Message>%s %s</Message></Error>", secretKey, r.Header.Get("Authorization"))
		return true
	})
	shown += answer(t, c, root, "STORAGE CHECK s3x; ALTER STORAGE s3x SET CREDENTIALS '{\"secret_access_key\":\""+secretKey+"\"}'")
	must(t, c, alice, "INSERT INTO app.notes VALUES (9,'x')")
	mu.Lock()
	shown += log.String()
	mu.Unlock()
	if strings.Contains(shown, secretKey) || !strings.Contains(shown, "***") {
		t.Errorf("a secret is shown, or nothing is masked:\n%s", shown)
	}
	encoded := []string{secretKey, base64.StdEncoding.EncodeToString([]byte(secretKey))}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if slices.ContainsFunc(encoded, func(s string) bool { return bytes.Contains(raw, []byte(s)) }) {
			t.Errorf("the secret is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestMovingATable: from the disks to one store, to another of another kind, and back, while it is read and written.
func TestMovingATable(t *testing.T) {
	o := startObjects(t)
	gcs, err := fakestorage.NewServerWithOptions(fakestorage.Options{Scheme: "http", Host: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gcs.Stop)
	gcs.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: bucketName})
	c := cluster.Start(t, loopback, cluster.Nodes(3))
	must(t, c, root, o.create("s3x", "pre"))
	must(t, c, root, fmt.Sprintf(`CREATE STORAGE gcsx TYPE gcs BUCKET '%s' CONFIG '{"type":"gcs","endpoint":"%s","allow_http":true,"anonymous":true}'`, bucketName, gcs.URL()))
	must(t, c, root, strings.ReplaceAll(tables, "STORAGE s3x", "STORAGE local"))
	write(t, c)
	stop := writing(t, c)
	for i, to := range []string{"s3x", "gcsx", "local", "gcsx", "s3x"} {
		must(t, c, root, "ALTER TABLE app.notes SET STORAGE "+to)
		check(t, to, readNotes(t, c), notes)
		if text := ended(t, c, "move"); strings.Count(text, "completed | moved ") != i+1 {
			t.Errorf("moves to %s: %s", to, text)
		}
		check(t, to, readNotes(t, c), notes)
	}
	stop()
	must(t, c, root, "ALTER TABLE app.notes SET STORAGE local")
	ended(t, c, "move")
	check(t, "bob's", answer(t, c, bob, "SELECT count(*) > 0 AS some, count(*) = max(id) AS all_there FROM app.notes"), "some:BOOLEAN | all_there:BOOLEAN\ntrue | true\n")
	check(t, "drop", answer(t, c, root, "DROP STORAGE gcsx"), "Storage 'gcsx' dropped successfully\n")
	if n := len(o.keys(".parquet")); n == 0 {
		t.Error("what was moved away is gone at once, though scans may still read it")
	}
}

var bob = catalog.Identity{UserID: "bob", Role: catalog.RoleUser}

// writing inserts and flushes bob's rows until the result is called.
func writing(t *testing.T, c *cluster.Cluster) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		for id := 1; ctx.Err() == nil; id++ {
			text := answer(t, c, bob, fmt.Sprintf("INSERT INTO app.notes VALUES (%d,'x')", id))
			if strings.Contains(text, "error ") {
				t.Error(text)
				return
			}
			if id%10 == 0 {
				must(t, c, root, "STORAGE FLUSH TABLE app.notes")
			}
		}
	})
	return func() { cancel(); work.Wait() }
}

// TestAStorageInUseStays: while a table is elsewhere but its segments are not, the storage cannot be dropped.
func TestAStorageInUseStays(t *testing.T) {
	o := startObjects(t)
	c := cluster.Start(t, loopback)
	must(t, c, root, o.create("s3x", "pre"))
	must(t, c, root, tables)
	write(t, c)
	o.fail(func(w http.ResponseWriter, r *http.Request) bool { // the move cannot read
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	must(t, c, root, "DROP TABLE app.notes")
	text := answer(t, c, root, "DROP STORAGE s3x")
	check(t, "with a table", text, "error InvalidOperation: Cannot drop storage 's3x': 1 table(s) still using it\n")
}

// TestUsersStorages: the segments of a user who has a storage go there.
func TestUsersStorages(t *testing.T) {
	o := startObjects(t)
	c := cluster.Start(t, loopback)
	must(t, c, root, o.create("s3x", "eu"))
	must(t, c, root, o.create("s3y", "us"))
	must(t, c, root, `CREATE NAMESPACE app; CREATE USER TABLE app.notes (id BIGINT PRIMARY KEY, body TEXT) WITH (USE_USER_STORAGE = true, STORAGE_ID = 's3x');
		CREATE USER alice WITH PASSWORD 'Str0ng-secret!' STORAGE_MODE 'region' STORAGE_ID 's3y'; CREATE USER bob WITH PASSWORD 'Str0ng-secret!' STORAGE_ID 's3y'`)
	must(t, c, alice, "INSERT INTO app.notes VALUES (1,'one'),(2,'TWO')")
	must(t, c, bob, "INSERT INTO app.notes VALUES (1,'one')")
	c.Flush(t)
	check(t, "read", readNotes(t, c), notes)
	keys := o.keys(".parquet")
	if len(keys) != 2 || !strings.HasPrefix(keys[0], "eu/app/notes/bob/") || !strings.HasPrefix(keys[1], "us/app/notes/alice/") {
		t.Errorf("the bucket has %v", keys)
	}
	must(t, c, root, "ALTER USER alice SET STORAGE_ID 's3x'")
	must(t, c, root, "ALTER TABLE app.notes SET STORAGE s3x")
	check(t, "the move", ended(t, c, "move"), "status:TEXT | message:TEXT\ncompleted | moved 1 segments of 1 partitions (2 rows, "+bytesOf(t, o, keys[1])+" bytes)\n")
	check(t, "read", readNotes(t, c), notes)
}

func bytesOf(t *testing.T, o *objects, key string) string {
	t.Helper()
	object, err := o.backend.HeadObject(bucketName, key)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(object.Size)
}
