package storages

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/objectstore"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
)

// world is a catalog with what a test puts there, and a sealer that shows what it did.
type world struct {
	storages map[string]*catalogv1.Storage
	users    map[string]*catalogv1.User
}

func (w world) Storage(id string) (*catalogv1.Storage, bool) { s, ok := w.storages[id]; return s, ok }
func (w world) User(id string) (*catalogv1.User, error)      { return w.users[id], nil }
func (w world) Cluster() (string, uint32)                    { return "this", 4 }
func (w world) Storages() (all []*catalogv1.Storage) {
	for _, s := range w.storages {
		all = append(all, s)
	}
	return all
}

type reversing struct{}

func (reversing) Seal(_ context.Context, purpose string, plain []byte) ([]byte, error) {
	out := []byte(purpose + "|")
	for i := range plain {
		out = append(out, plain[i]^0xff)
	}
	return out, nil
}

func (reversing) Open(_ context.Context, purpose string, sealed []byte) ([]byte, error) {
	text, ok := strings.CutPrefix(string(sealed), purpose+"|")
	if !ok {
		return nil, dberr.New(dberr.Corrupt, "sealed for another purpose")
	}
	out := []byte(text)
	for i := range out {
		out[i] ^= 0xff
	}
	return out, nil
}

func open(t *testing.T, w world, rules objectstore.Rules) *Storages {
	t.Helper()
	mem := vfs.NewMem()
	s, err := New(Config{Catalog: w, Keys: reversing{}, Rules: rules, Local: cold.NewFiles(mem, "segments"), Cache: cold.NewFiles(mem, "remote"),
		CacheBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestTemplates(t *testing.T) {
	user := &catalog.Table{ID: 1, Namespace: "App", Name: "notes", Kind: catalog.UserTable}
	shared := &catalog.Table{ID: 2, Namespace: "app", Name: "rooms", Kind: catalog.SharedTable}
	parts := &catalog.Table{ID: 3, Namespace: "app", Name: "rooms", Kind: catalog.SharedTable, Partitions: 4}
	for _, tc := range []struct {
		template string
		table    *catalog.Table
		owner    string
		want     string // "": the template is refused
	}{
		{userTemplate, user, "ann", "%41pp/notes/ann"},
		{"${namespace}/${table_name}/${user_id}", user, "ann", "%41pp/notes/ann"},
		{"people/{user-id}", user, "Ann/../..", "people/%41nn%2f.%2e%2f.%2e/%41pp/notes"},
		{"{namespaceId}/{shard_id}/x-{userId}", user, "..", "%41pp/3/x-%2e%2e/notes"},
		{"{userId}", user, "CON\u202e\x00", "%43%4f%4e%e2%80%ae%00/%41pp/notes"},
		{userTemplate, user, "__0x2f__", "%41pp/notes/_%5f0x2f_%5f"},
		{userTemplate, user, "", "%41pp/notes"},
		{sharedTemplate, shared, "", "app/rooms"},
		{sharedTemplate, parts, "\x00p2", "app/rooms/p2"},
		{"a/{namespace}/b/{tableName}", shared, "", "a/app/b/rooms"},
		{"{namespace}/{tableName}", user, "", ""}, {"{tableName}/{namespace}/{userId}", user, "", ""}, {"{userId}/{userId}", user, "", ""},
		{"../{userId}", user, "", ""}, {"/{userId}", user, "", ""}, {"{userId}/", user, "", ""}, {"a//{userId}", user, "", ""},
		{"a../{userId}", user, "", ""}, {"a__0x/{userId}", user, "", ""}, {"{userId}/{what}", user, "", ""}, {"{userId}\x00", user, "", ""}, {"a b/{userId}", user, "", ""}, {"_kalamdb/{userId}", user, "", ""},
		{"{namespace}", shared, "", ""}, {"{namespace}/{tableName}/{userId}", shared, "", ""},
	} {
		err := checkTemplate(tc.template, tc.table.Kind.PerUser())
		if tc.want == "" {
			if !dberr.Is(err, dberr.InvalidArgument) {
				t.Errorf("%q: %v", tc.template, err)
			}
			continue
		}
		if got := expand(tc.template, 3, tc.table, tc.owner); err != nil || got != tc.want && filepath.Clean(got) != tc.want {
			t.Errorf("%q of %q: %q, %v; want %q", tc.template, tc.owner, got, err, tc.want)
		}
	}
}

// TestLongNamesFit: whatever a user is called, the key fits, and two users never have the same folder.
func TestLongNamesFit(t *testing.T) {
	long := strings.Repeat("Ü", 120)
	table := &catalog.Table{ID: 1, Namespace: strings.Repeat("N", 64), Name: strings.Repeat("T", 64), Kind: catalog.UserTable}
	a, b := expand(userTemplate, 1, table, long+"a"), expand(userTemplate, 1, table, long+"b")
	if a == b {
		t.Error("two users have one folder")
	}
	for _, dir := range []string{a, b} {
		if err := objectstore.CheckKey("prefix/" + dir + "/batch-0123456789abcdef-n511-01234567-s1023.parquet"); err != nil {
			t.Error(err)
		}
	}
}

func TestPlaces(t *testing.T) {
	w := world{storages: map[string]*catalogv1.Storage{
		"x": {StorageId: "x", Locations: []string{"/a", "/b"}, Location: 1, UserTablesTemplate: userTemplate, SharedTablesTemplate: sharedTemplate},
		"y": {StorageId: "y", Locations: []string{"/c"}, UserTablesTemplate: "{userId}", SharedTablesTemplate: sharedTemplate}},
		users: map[string]*catalogv1.User{"ann": {StorageMode: "region", StorageId: "y"}, "bob": {StorageMode: "table", StorageId: "y"}, "eve": {StorageMode: "region"}}}
	s := open(t, w, objectstore.Rules{})
	for _, tc := range []struct {
		options catalog.TableOptions
		owner   string
		want    string
	}{
		{catalog.TableOptions{}, "ann", " 0 user/ann/app/t"},
		{catalog.TableOptions{StorageID: "local"}, "ann", " 0 user/ann/app/t"},
		{catalog.TableOptions{StorageID: "of_old"}, "ann", " 0 user/ann/app/t"},
		{catalog.TableOptions{StorageID: "x"}, "ann", "x 1 app/t/ann"},
		{catalog.TableOptions{StorageID: "x", UseUserStorage: true}, "ann", "y 0 ann/app/t"},
		{catalog.TableOptions{StorageID: "x", UseUserStorage: true}, "bob", "x 1 app/t/bob"},
		{catalog.TableOptions{StorageID: "x", UseUserStorage: true}, "eve", "x 1 app/t/eve"},
		{catalog.TableOptions{UseUserStorage: true}, "nobody", " 0 user/nobody/app/t"},
	} {
		p, err := s.Place(1, &catalog.Table{Namespace: "app", Name: "t", Kind: catalog.UserTable, Options: tc.options}, tc.owner)
		if got := fmt.Sprintf("%s %d %s", p.Storage, p.Location, p.Dir); err != nil || got != tc.want {
			t.Errorf("%+v of %s: %q, %v; want %q", tc.options, tc.owner, got, err, tc.want)
		}
	}
}

// TestCredentialsAreSealed: what goes to the log has no secret in it, wherever the statement had it.
func TestCredentialsAreSealed(t *testing.T) {
	s := open(t, world{}, objectstore.Rules{})
	for name, c := range map[string]*catalogv1.CreateStorage{
		"credentials": {Credentials: `{"secret_access_key":"hush","access_key_id":"id"}`, Storage: &catalogv1.Storage{Config: `{"region":"eu","endpoint":"https://10.0.0.1"}`}},
		"config":      {Storage: &catalogv1.Storage{Config: `{"secret_access_key":"hush","access_key_id":"id","region":"eu","endpoint":"https://10.0.0.1"}`}},
	} {
		c.Storage.StorageId, c.Storage.Type, c.Storage.Locations = "x", "s3", []string{"s3://bucket"}
		c.Storage.UserTablesTemplate, c.Storage.SharedTablesTemplate = userTemplate, sharedTemplate
		st := c.GetStorage()
		if err := s.prepare(t.Context(), st, c.GetCredentials()); err != nil {
			t.Fatal(err)
		}
		if text := st.String(); strings.Contains(text, "hush") || len(st.GetSealedCredentials()) == 0 || st.GetConfig() != `{"region":"eu","endpoint":"https://10.0.0.1"}` {
			t.Errorf("%s: %s", name, text)
		}
		cfg, err := s.configOf(t.Context(), st, 0)
		if err != nil || cfg.Secrets.SecretAccessKey != "hush" || cfg.Secrets.AccessKeyID != "id" {
			t.Errorf("%s: what was sealed does not come back: %v", name, err)
		}
		st.StorageId = "other"
		if _, err := s.configOf(t.Context(), st, 0); !dberr.Is(err, dberr.Corrupt) {
			t.Errorf("%s: credentials were opened for another storage: %v", name, err)
		}
	}
}

// TestAFolderMustBeShared: a node that does not find what another wrote says what is wrong.
func TestAFolderMustBeShared(t *testing.T) {
	s := open(t, world{}, objectstore.Rules{})
	st := &catalogv1.Storage{StorageId: "x", Type: "filesystem", Locations: []string{t.TempDir()}}
	err := s.ReadProbe(t.Context(), st, objectstore.NewProbeFile())
	if !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), "must be a folder that all storage nodes share") {
		t.Errorf("got %v", err)
	}
	f := objectstore.NewProbeFile()
	f.Key = "app/notes/ann/batch"
	if err := s.ReadProbe(t.Context(), st, f); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("a probe of another file: %v", err)
	}
	others := func(context.Context, *catalogv1.Storage, objectstore.ProbeFile) error {
		return dberr.New(dberr.Unavailable, "node 2 is away")
	}
	_, err = s.Create(t.Context(), &catalogv1.CreateStorage{Storage: st}, others)
	if !dberr.Is(err, dberr.InvalidOperation) || !strings.Contains(err.Error(), "node 2 is away") {
		t.Errorf("got %v", err)
	}
}

func TestSeedPaths(t *testing.T) {
	for _, tc := range []struct{ path, location, user, shared string }{
		{"s3://b/pre/${namespace}/${user_id}", "s3://b/pre", "${namespace}/${user_id}", sharedTemplate},
		{"s3://b/${namespace}/${table_name}/${user_id}", "s3://b", "${namespace}/${table_name}/${user_id}", "${namespace}/${table_name}"},
		{"/mnt/x/t-{namespace}/{tableName}", "/mnt/x", "t-{namespace}/{tableName}/{userId}", "t-{namespace}/{tableName}"},
		{"/mnt/x", "/mnt/x", "", ""},
	} {
		st := &catalogv1.Storage{}
		if err := splitPath(st, tc.path); err != nil || st.GetLocations()[0] != tc.location || st.GetUserTablesTemplate() != tc.user || st.GetSharedTablesTemplate() != tc.shared {
			t.Errorf("%s: %v, %v", tc.path, st, err)
		}
	}
}
