package exec

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

func notes() *catalog.Table {
	return &catalog.Table{ID: 7, Namespace: "app", Name: "notes", Kind: catalog.UserTable, SchemaVersion: 1, Columns: []catalog.Column{
		{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true, PrimaryKey: true},
		{ID: 2, Name: "body", Type: catalog.Type{Kind: catalog.Text}},
	}}
}

// ofEverybody starts a fixture in which 20 users have 3 notes each.
func ofEverybody(t *testing.T, role catalog.Role) *fixture {
	alloc := memory.NewCheckedAllocator(memory.DefaultAllocator)
	t.Cleanup(func() { alloc.AssertSize(t, 0) })
	table := notes()
	f := start(t, alloc, table)
	f.env.Identity.Role = role
	for u := range 20 {
		for i := range 3 {
			f.put(t, table, fmt.Sprintf("user%02d", u), datum.Int(int64(i)), datum.Text(fmt.Sprintf("note %d", i)))
		}
	}
	return f
}

func TestAcrossUsersReadsEveryShard(t *testing.T) {
	f := ofEverybody(t, catalog.RoleService)
	var log bytes.Buffer
	f.Logger = slog.New(slog.NewTextHandler(&log, nil))
	got, err := f.query(t, "SELECT _user_id, id, body FROM all_users(app.notes) ORDER BY _user_id, id")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for u := range 20 {
		for i := range 3 {
			want = append(want, fmt.Sprintf("user%02d|%d|note %d", u, i, i))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	var shards []uint32
	for _, s := range f.lastScans() {
		if !s.GetAllUsers() || s.GetUserId() != "" {
			t.Errorf("a scan of one user: %v", s)
		}
		shards = append(shards, s.GetShard())
	}
	if slices.Sort(shards); !slices.Equal(shards, []uint32{0, 1, 2, 3}) {
		t.Errorf("shards %v", shards)
	}
	for _, part := range []string{"user=alice", "role=service", "table=app.notes", "shards=4", "rows=60"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("the log lacks %s: %s", part, log.String())
		}
	}
	if strings.Contains(log.String(), "ORDER BY") {
		t.Errorf("the log holds SQL: %s", log.String())
	}
}

func TestAcrossUsersPushesDown(t *testing.T) {
	f := ofEverybody(t, catalog.RoleDBA)
	for sql, want := range map[string]string{
		"SELECT body FROM all_users(app.notes) n WHERE n._user_id = 'user07' AND id = 1":                          "note 1",
		"SELECT count(*), count(DISTINCT _user_id) FROM all_users(notes) WHERE id > 0":                            "40|20",
		"SELECT count(*) FROM all_users(app.notes) a JOIN all_users(app.notes) b USING (_user_id) WHERE a.id = 0": "60",
		"SELECT _user_id, id FROM all_users(app.notes) ORDER BY _user_id DESC, id LIMIT 1":                        "user19|0",
		"SELECT count(*) FROM (SELECT * FROM all_users(app.notes) LIMIT 5) x":                                     "5",
		"SELECT count(*) FROM all_users(app.notes) n, notes m":                                                    "0",
	} {
		f.lastScans()
		if got, err := f.query(t, sql); err != nil || strings.Join(got, ",") != want {
			t.Errorf("%s: %v %v", sql, got, err)
		}
		for _, s := range f.lastScans() {
			if strings.HasPrefix(sql, "SELECT body") && s.GetFilter() == nil || strings.HasSuffix(sql, "id LIMIT 1") && s.GetLimit() != 1 {
				t.Errorf("%s: not pushed down: %v", sql, s)
			}
		}
	}
	lines, err := f.Explain(t.Context(), f.env, parse(t, "SELECT id FROM all_users(app.notes) WHERE _user_id = 'x'"))
	if text := strings.Join(lines, "\n"); err != nil || !strings.Contains(text, "shards: 4") || !strings.Contains(text, "=(_user_id, 'x')") {
		t.Errorf("%s %v", text, err)
	}
}

func TestAcrossUsersIsRefused(t *testing.T) {
	user := ofEverybody(t, catalog.RoleUser)
	if _, err := user.query(t, "SELECT 1 FROM all_users(app.notes)"); !dberr.Is(err, dberr.PermissionDenied) || !strings.Contains(err.Error(), "service, dba and system") {
		t.Errorf("a user: %v", err)
	}
	if n := len(user.lastScans()); n > 0 {
		t.Errorf("%d scans", n)
	}
	f := ofEverybody(t, catalog.RoleSystem)
	for sql, code := range map[string]dberr.Code{
		"SELECT 1 FROM all_users(app.none)":             dberr.TableNotFound,
		"SELECT 1 FROM all_users()":                     dberr.InvalidSQL,
		"SELECT 1 FROM all_users('app.notes')":          dberr.InvalidSQL,
		"SELECT 1 FROM all_users(app.notes, app.notes)": dberr.InvalidSQL,
		"SELECT 1 FROM all_users(system.users)":         dberr.InvalidOperation,
		"SELECT all_users(1)":                           dberr.InvalidSQL,
	} {
		if _, err := f.query(t, sql); !dberr.Is(err, code) {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// One shard's failure is the statement's: the other shards' rows alone would be a wrong answer.
func TestAcrossUsersFailsWhole(t *testing.T) {
	f := ofEverybody(t, catalog.RoleSystem)
	f.storage.fail = func(req *storagev1.ScanRequest) error {
		if req.GetShard() == 2 {
			return dberr.New(dberr.Corrupt, "shard 2 is broken")
		}
		return nil
	}
	if got, err := f.query(t, "SELECT count(*) FROM all_users(app.notes)"); !dberr.Is(err, dberr.Corrupt) {
		t.Errorf("%v %v", got, err)
	}
}
