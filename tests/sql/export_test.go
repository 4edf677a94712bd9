package sqltest

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/services/gateway"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

// withGateway starts a cluster that can be reached over HTTP.
func withGateway(t *testing.T) *cluster.Cluster {
	t.Helper()
	g := gateway.Defaults()
	g.Auth.JWTSecret = "a secret of this test, long enough"
	return cluster.Start(t, cluster.Gateway(g))
}

// get fetches an address as a user.
func get(t *testing.T, c *cluster.Cluster, user, path string) (status int, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.Gateway.HTTPAddr().String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(user, "a long password 1")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

var exportPath = regexp.MustCompile(`/v1/exports/[^ \t\n|"]+`)

// archiveOf unpacks an export below a folder, and returns its manifest.
func archiveOf(t *testing.T, raw []byte, to string) (m struct {
	UserID  string `json:"user_id"`
	Members []struct {
		Name     string `json:"name"`
		Rows     uint64 `json:"rows"`
		Bytes    uint64 `json:"bytes"`
		SHA256   string `json:"sha256"`
		Position string `json:"position"`
	} `json:"members"`
	NotIncluded []string `json:"not_included"`
}) {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	content := map[string][]byte{}
	for i, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		content[f.Name] = b
		name := filepath.Join(to, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if f.Name == "manifest.json" && i != len(z.File)-1 {
			t.Error("the manifest is not the last member")
		}
	}
	if err := json.Unmarshal(content["manifest.json"], &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Members) != len(z.File)-1 {
		t.Errorf("the manifest lists %d members of %d", len(m.Members), len(z.File)-1)
	}
	for _, f := range m.Members {
		sum := sha256.Sum256(content[f.Name])
		if f.SHA256 != hex.EncodeToString(sum[:]) || f.Bytes != uint64(len(content[f.Name])) {
			t.Errorf("the manifest says %v of a file of %d bytes, %x", f, len(content[f.Name]), sum)
		}
	}
	return m
}

func TestAnExportHasAllRowsOfItsUserAndNoOthers(t *testing.T) {
	c := withGateway(t)
	asRoot(t, c, `CREATE NAMESPACE app; CREATE USER TABLE app.notes (id INT PRIMARY KEY, body TEXT, made TIMESTAMP, cost DECIMAL(10,2), tag UUID, raw BYTES, ok BOOLEAN);
		CREATE USER TABLE app.nothing (a TEXT, b BIGINT, PRIMARY KEY (a, b)); CREATE STREAM TABLE app.ticks (id INT PRIMARY KEY) TTL 60;
		CREATE TABLE app.all_of_us (id INT PRIMARY KEY) WITH (TYPE = 'SHARED')`)
	for _, user := range []string{"ann", "bob"} {
		asRoot(t, c, "CREATE USER '"+user+"' WITH PASSWORD 'a long password 1' ROLE user")
	}
	asRoot(t, c, "CREATE USER 'chief' WITH PASSWORD 'a long password 1' ROLE dba")
	as := func(user, sql string) string { return asRoot(t, c, "EXECUTE AS USER '"+user+"' ("+sql+")") }
	const row = "(%, 'it''s \"note\" %', TIMESTAMP '2026-01-02 03:04:05.678901', 12.50, '0190163d-8694-739b-aea5-966c26f8ad90', 'ab', true)"
	for i := range 30 {
		as("ann", "INSERT INTO app.notes VALUES "+strings.ReplaceAll(row, "%", strconv.Itoa(i)))
		as("bob", "INSERT INTO app.notes VALUES "+strings.ReplaceAll(row, "%", strconv.Itoa(1000+i)))
		if i == 15 {
			for _, id := range jobID.FindAllString(asRoot(t, c, "STORAGE FLUSH TABLE app.notes"), -1) {
				endOf(t, c, id)
			}
		}
	}
	as("ann", "DELETE FROM app.notes WHERE id IN (3, 20)")
	as("ann", "UPDATE app.notes SET body = NULL WHERE id IN (4, 21)")
	as("ann", "INSERT INTO app.ticks VALUES (1)")
	path := exportPath.FindString(as("ann", "EXPORT USER DATA"))
	if path == "" || exportPath.FindString(as("ann", "SHOW EXPORT")) == "" {
		t.Fatalf("no address: %s", as("ann", "EXPORT USER DATA"))
	}
	if status, body := get(t, c, "bob", path); status != http.StatusForbidden || bytes.Contains(body, []byte("note")) {
		t.Errorf("bob gets %d: %s", status, body)
	}
	if status, body := get(t, c, "ann", "/v1/exports/ann/UE-000000000001"); status != http.StatusNotFound || !bytes.Contains(body, []byte("EXPORT_NOT_FOUND")) {
		t.Errorf("an old address: %d: %s", status, body)
	}
	r := newReader(t)
	const columns = "concat_ws('|', id::TEXT, coalesce(body, '-'), cost::TEXT, ok::TEXT, _seq::TEXT)"
	_, want, _ := strings.Cut(as("ann", "SELECT "+columns+" AS line FROM app.notes ORDER BY id"), "\n")
	for _, who := range []string{"ann", "chief"} {
		status, raw := get(t, c, who, path)
		if status != http.StatusOK {
			t.Fatalf("%s gets %d: %s", who, status, raw)
		}
		dir := t.TempDir()
		m := archiveOf(t, raw, dir)
		if m.UserID != "ann" || len(m.NotIncluded) == 0 || len(m.Members) != 5 || m.Members[0].Name != "app/notes/data.parquet" && m.Members[2].Name != "app/notes/data.parquet" {
			t.Errorf("got %+v", m)
		}
		for _, from := range []string{"read_parquet('" + dir + "/app/notes/data.parquet')", "read_json('" + dir + "/app/notes/data.ndjson', format = 'newline_delimited', " +
			"columns = {_seq: 'VARCHAR', id: 'INT', body: 'VARCHAR', cost: 'VARCHAR', ok: 'BOOLEAN'})"} {
			got := r.lines("SELECT " + columns + " FROM " + from + " ORDER BY id")
			if len(got) != 28 || strings.Join(got, "\n")+"\n" != want {
				t.Errorf("%s of %s has\n%s\nwant\n%s", from, who, strings.Join(got, "\n"), want)
			}
		}
		if got := r.lines("SELECT count(*)::TEXT FROM read_parquet('" + dir + "/app/nothing/data.parquet')"); len(got) != 1 || got[0] != "0" {
			t.Errorf("an empty table has %v rows", got)
		}
	}
}
