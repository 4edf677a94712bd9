package rest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/auth"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/edge"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/gatewaytest"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/limit"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expected answers")

// bench is the API behind a real HTTP server, over a scripted query role.
type bench struct {
	t       *testing.T
	url     string
	query   *gatewaytest.Query
	catalog *gatewaytest.Catalog
	cfg     Config
}

var testNow = time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)

func newBench(t *testing.T, change ...func(*Config)) *bench {
	net := rpcnet.NewLocal()
	b := &bench{t: t, query: &gatewaytest.Query{}, catalog: gatewaytest.NewCatalog(t, net)}
	b.query.Serve(t, net)
	us := testNow.UnixMicro()
	for id, role := range map[string]catalogv1.Role{"alice": catalogv1.Role_ROLE_USER, "dba": catalogv1.Role_ROLE_DBA, "root": catalogv1.Role_ROLE_SYSTEM} {
		b.catalog.AddUser(t, &catalogv1.User{UserId: id, Role: role, AuthType: "password", CreatedAtUs: us, UpdatedAtUs: us}, id+" secret")
	}
	view := gatewaytest.View(t, net)
	now := func() time.Time { return testNow }
	service, err := auth.New(auth.Config{Secret: make([]byte, 32), BcryptCost: gatewaytest.BcryptCost, Now: now,
		Logger: slog.New(slog.DiscardHandler)}, view)
	if err != nil {
		t.Fatal(err)
	}
	if err := view.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	service.Start(t.Context())
	t.Cleanup(func() { service.Stop(); view.Stop() })
	conn, err := rpcnet.Dial(net, "query")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Auth: service, Query: queryv1.NewQueryServiceClient(conn), Now: now, Version: "1.2.3", BuildDate: "today",
		Guard:   limit.NewGuard(limit.GuardConfig{Now: now}),
		PerUser: limit.NewRate("SQL requests of one user", 0, 0, now), Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	b.cfg = cfg
	b.behind(edge.Proxies{})
	return b
}

// behind serves behind proxies; their X-Forwarded-For counts.
func (b *bench) behind(proxies edge.Proxies) {
	srv := httptest.NewUnstartedServer(edge.Identify(proxies, b.cfg.Guard, Refuse, New(b.cfg)))
	srv.Config.ConnContext = edge.ConnContext
	srv.Start()
	b.t.Cleanup(srv.Close)
	b.url = srv.URL
}

type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request as a user ("" for none).
func (b *bench) do(method, path, user, body string, header ...string) answer {
	b.t.Helper()
	req, err := http.NewRequest(method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, user+" secret")
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}).Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(data)}
}

func (b *bench) sql(path, user, sql string) answer {
	b.t.Helper()
	body, err := json.Marshal(map[string]string{"sql": sql})
	if err != nil {
		b.t.Fatal(err)
	}
	return b.do(http.MethodPost, path, user, string(body))
}

// golden compares with testdata/name.json.
func (b *bench) golden(name string, got answer) {
	b.t.Helper()
	path := filepath.Join("testdata", name+".json")
	text := fmt.Sprintf("%d\n%s\n", got.status, got.body)
	if *rewrite {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	if string(want) != text {
		b.t.Errorf("%s:\ngot  %s\nwant %s", name, text, want)
	}
	if !json.Valid([]byte(got.body)) {
		b.t.Errorf("%s is not JSON", name)
	}
}

func (b *bench) answers(results ...*queryv1.StatementResult) {
	b.query.OnExecute = func(*queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
		return &queryv1.ExecuteResponse{Results: results}, nil
	}
}

// everyType is a table with a column of each type, a row of ordinary values and a row of NULLs.
func everyType(t *testing.T) *queryv1.StatementResult {
	kind := func(k catalog.TypeKind) catalog.Type { return catalog.Type{Kind: k} }
	uuid := [16]byte{0x01, 0x90, 0xa5, 0xb4, 0xc3, 0xd2, 0x7e, 0xf1, 0x80, 0x12, 1, 2, 3, 4, 5, 6}
	us := time.Date(2025, 10, 28, 10, 0, 0, 0, time.UTC).UnixMicro()
	cells := []struct {
		c catalog.Column
		d datum.Datum
	}{
		{catalog.Column{Name: "id", Type: kind(catalog.BigInt), PrimaryKey: true, NotNull: true, Unique: true}, datum.Int(249871236123492352)},
		{catalog.Column{Name: "b", Type: kind(catalog.Boolean)}, datum.Bool(true)},
		{catalog.Column{Name: "si", Type: kind(catalog.SmallInt)}, datum.Int(-3)},
		{catalog.Column{Name: "i", Type: kind(catalog.Int), NotNull: true}, datum.Int(42)},
		{catalog.Column{Name: "f", Type: kind(catalog.Float)}, datum.Float(1.5)},
		{catalog.Column{Name: "d", Type: kind(catalog.Double)}, datum.Float(0.1)},
		{catalog.Column{Name: "dec", Type: catalog.Type{Kind: catalog.Decimal, Precision: 10, Scale: 2}}, datum.Decimal(0, 12345, 2)},
		{catalog.Column{Name: "t", Type: kind(catalog.Text)}, datum.Text("he said \"hi\"\n\u2028 ☃")},
		{catalog.Column{Name: "by", Type: kind(catalog.Bytes)}, datum.Bytes([]byte{222, 173})},
		{catalog.Column{Name: "js", Type: kind(catalog.JSON)}, datum.Text(`{"a":[1,2]}`)},
		{catalog.Column{Name: "ts", Type: kind(catalog.Timestamp)}, datum.Timestamp(us)},
		{catalog.Column{Name: "dt", Type: kind(catalog.DateTime)}, datum.Timestamp(us + 250_000)},
		{catalog.Column{Name: "da", Type: kind(catalog.Date)}, datum.Date(20389)},
		{catalog.Column{Name: "ti", Type: kind(catalog.Time)}, datum.Time(36_000_000_000)},
		{catalog.Column{Name: "u", Type: kind(catalog.UUID)}, datum.UUID(uuid)},
		{catalog.Column{Name: "e", Type: catalog.Type{Kind: catalog.Embedding, Dimension: 3}}, datum.Embedding([]float32{0.5, -1, 2})},
		{catalog.Column{Name: "fi", Type: kind(catalog.File)}, datum.Text(`{"id":"x"}`)},
	}
	columns, row := make([]catalog.Column, len(cells)), make([]datum.Datum, len(cells))
	for i, c := range cells {
		columns[i], row[i] = c.c, c.d
	}
	return &queryv1.StatementResult{ArrowIpc: gatewaytest.IPC(t, columns, row, make([]datum.Datum, len(cells))), RowCount: 2,
		AsUser: "alice", Command: "SELECT"}
}

func TestShapes(t *testing.T) {
	b := newBench(t)
	insert := &queryv1.StatementResult{Message: "Inserted 1 row(s)", RowCount: 1, AsUser: "alice", Command: "INSERT",
		Durability: storagev1.Durability_DURABILITY_QUORUM, Position: 249871236123492352}
	create := &queryv1.StatementResult{Message: "Table app.messages created", AsUser: "alice", Command: "CREATE TABLE"}
	cut := everyType(t)
	cut.Truncated = true
	subscribe := &queryv1.StatementResult{Command: "SUBSCRIBE", AsUser: "alice",
		SubscriptionJson: `{"id":"sub-7f8e9d2a","sql":"SELECT * FROM chat.messages","options":{"last_rows":10}}`}
	empty := &queryv1.StatementResult{ArrowIpc: gatewaytest.IPC(t, []catalog.Column{{Name: "n", Type: catalog.Type{Kind: catalog.Int}}}),
		AsUser: "alice", Command: "SELECT"}
	for name, results := range map[string][]*queryv1.StatementResult{
		"types": {everyType(t)}, "insert": {insert}, "create": {create}, "truncated": {cut}, "empty": {empty},
		"batch": {create, insert, everyType(t)}, "none": {},
	} {
		b.answers(results...)
		b.golden(name+".arrays", b.sql("/v1/api/sql", "alice", "x"))
		b.golden(name+".objects", b.sql("/api/sql", "alice", "x"))
		second, chosen := b.sql("/api/v1/query", "alice", "x"), b.sql("/v1/api/sql?format=objects", "alice", "x")
		if second.body != chosen.body || second.status != chosen.status {
			t.Errorf("%s: the seed's second path and format=objects differ", name)
		}
	}
	b.answers(subscribe)
	for _, s := range []string{"arrays", "objects"} {
		a := b.do(http.MethodPost, "/api/sql?format="+s, "alice", `{"sql":"SUBSCRIBE TO chat.messages"}`)
		a.body = strings.ReplaceAll(a.body, strings.TrimPrefix(b.url, "http://"), "HOST")
		b.golden("subscribe."+s, a)
	}
}

func (b *bench) fails(err error, failed uint32) {
	b.query.OnExecute = func(*queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
		if failed == 0 {
			return nil, err
		}
		return &queryv1.ExecuteResponse{Error: dberr.ToMessage(err), FailedStatement: failed}, nil
	}
}

func TestErrors(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		name   string
		err    error
		failed uint32
	}{
		{"syntax", dberr.New(dberr.InvalidSQL, "syntax error at or near \"SELEC\"").At(1, 1), 0},
		{"missing", dberr.New(dberr.TableNotFound, "Table 'app.x' does not exist"), 1},
		{"exists", dberr.New(dberr.AlreadyExists, "Table app.x already exists"), 3},
		{"key", dberr.New(dberr.PrimaryKeyViolation, "Primary key violation: id = 1"), 1},
		{"denied", dberr.New(dberr.PermissionDenied, "only dba and system may drop tables"), 2},
		{"batch", dberr.New(dberr.InvalidArgument, "parameters need a single statement").With("reason", "PARAMS_WITH_BATCH"), 0},
		{"timeout", dberr.New(dberr.Timeout, "the statement ran longer than 30s"), 1},
		{"internal", dberr.New(dberr.Internal, "pebble: /data/secret-path is broken"), 1},
		{"internal_rpc", dberr.New(dberr.Corrupt, "checksum of /data/secret-path"), 0},
		{"unavailable", dberr.New(dberr.Unavailable, "the storage role is stopping"), 0},
		{"leader", dberr.New(dberr.NotLeader, "shard 3 is led by n2"), 0},
	} {
		b.fails(c.err, c.failed)
		for _, user := range []string{"alice", "dba"} {
			b.golden("error_"+c.name+"."+user+".arrays", b.sql("/v1/api/sql", user, "SELECT 1"))
			b.golden("error_"+c.name+"."+user+".objects", b.sql("/api/sql", user, "SELECT 1"))
		}
	}
	b.fails(dberr.New(dberr.AlreadyExists, "User 'x' already exists"), 1)
	if a := b.sql("/v1/api/sql", "dba", "CREATE USER x WITH PASSWORD 'hunter2hunter2'"); strings.Contains(a.body, "hunter2") {
		t.Errorf("a password came back: %s", a.body)
	}
}

func TestEveryErrorCodeHasAStatus(t *testing.T) {
	for code, f := range faults {
		if f.status < 400 || f.seedStatus < 400 || f.code == "" || f.errorType == "" {
			t.Errorf("%s: %+v", code, f)
		}
	}
}

func TestAuthorization(t *testing.T) {
	b := newBench(t)
	b.answers()
	token := b.token("alice")
	for name, c := range map[string]struct {
		header []string
		status int
		code   string
	}{
		"none":          {nil, 401, "MISSING_AUTHORIZATION"},
		"bearer":        {[]string{"Authorization", "Bearer " + token}, 200, ""},
		"any case":      {[]string{"Authorization", "bearer " + token}, 200, ""},
		"wrong token":   {[]string{"Authorization", "Bearer " + token[:len(token)-2]}, 401, "INVALID_CREDENTIALS"},
		"wrong scheme":  {[]string{"Authorization", "Digest abc"}, 401, "INVALID_CREDENTIALS"},
		"bad basic":     {[]string{"Authorization", "Basic !!!"}, 401, "INVALID_CREDENTIALS"},
		"a cookie":      {[]string{"Cookie", "kalamdb_auth=" + token}, 401, "MISSING_AUTHORIZATION"},
		"a user header": {[]string{"X-User-Id", "root", "X-Forwarded-User", "root"}, 401, "MISSING_AUTHORIZATION"},
	} {
		a := b.do(http.MethodPost, "/v1/api/sql", "", `{"sql":"SELECT 1"}`, c.header...)
		if a.status != c.status || !strings.Contains(a.body, c.code) {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if a.status == 401 && a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", name)
		}
	}
	off := newBench(t, func(c *Config) { c.DisableBasic = true })
	if a := off.sql("/api/sql", "alice", "SELECT 1"); a.status != 401 {
		t.Errorf("Basic while switched off: %d", a.status)
	}
}

func (b *bench) token(user string) string {
	b.t.Helper()
	var out loginBody
	a := b.do(http.MethodPost, "/v1/api/auth/login", "", fmt.Sprintf(`{"user":%q,"password":%q}`, user, user+" secret"))
	if err := json.Unmarshal([]byte(a.body), &out); err != nil || out.AccessToken == "" {
		b.t.Fatalf("login: %d %s", a.status, a.body)
	}
	return out.AccessToken
}

func TestRequestReachesTheQueryRole(t *testing.T) {
	b := newBench(t)
	var got *queryv1.ExecuteRequest
	b.query.OnExecute = func(r *queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
		got = r
		return &queryv1.ExecuteResponse{}, nil
	}
	a := b.do(http.MethodPost, "/v1/api/sql", "alice",
		`{"sql":"SELECT $1","params":[null,true,9223372036854775807,-0.5,1e3,"x"],"namespace_id":"app"}`)
	if a.status != 200 || got.GetNamespace() != "app" || got.GetIdentity().GetUserId() != "alice" || got.GetIdentity().GetRole() != catalogv1.Role_ROLE_USER {
		t.Fatalf("%d %s %v", a.status, a.body, got)
	}
	p := got.GetParams()
	if len(p) != 6 || !p[0].GetNull() || !p[1].GetBoolean() || p[2].GetInteger() != math.MaxInt64 || p[3].GetFloat() != -0.5 ||
		p[4].GetFloat() != 1000 || p[5].GetText() != "x" {
		t.Fatalf("params %v", p)
	}
	form := "--x\r\nContent-Disposition: form-data; name=\"sql\"\r\n\r\nSELECT 2\r\n--x\r\nContent-Disposition: form-data; name=\"params\"\r\n\r\n[7]\r\n--x--\r\n"
	a = b.do(http.MethodPost, "/v1/api/sql", "alice", form, "Content-Type", "multipart/form-data; boundary=x")
	if a.status != 200 || got.GetSql() != "SELECT 2" || got.GetParams()[0].GetInteger() != 7 {
		t.Fatalf("multipart: %d %s %v", a.status, a.body, got)
	}
	form = strings.Replace(form, `"sql"`, `"file:a"`, 1)
	if a = b.do(http.MethodPost, "/v1/api/sql", "alice", form, "Content-Type", "multipart/form-data; boundary=x"); a.status != 400 ||
		!strings.Contains(a.body, "not supported") {
		t.Errorf("a file: %d %s", a.status, a.body)
	}
}

func TestHostileBodies(t *testing.T) {
	b := newBench(t, func(c *Config) { c.BodyBytesMax = 4 << 20 })
	b.query.OnExecute = func(*queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
		t.Error("a hostile body reached the query role")
		return &queryv1.ExecuteResponse{}, nil
	}
	for name, c := range map[string]struct {
		body   string
		status int
		code   string
	}{
		"empty":          {"", 400, "INVALID_INPUT"},
		"no sql":         {"{}", 400, "EMPTY_SQL"},
		"blank sql":      {`{"sql":" \n\t"}`, 400, "EMPTY_SQL"},
		"not JSON":       {"SELECT 1", 400, "INVALID_INPUT"},
		"an array":       {`["SELECT 1"]`, 400, "INVALID_INPUT"},
		"sql a number":   {`{"sql":1}`, 400, "INVALID_INPUT"},
		"sql twice":      {`{"sql":"SELECT 1","sql":"SELECT 2"}`, 400, "INVALID_INPUT"},
		"unknown field":  {`{"sql":"SELECT 1","user_id":"bob"}`, 400, "INVALID_INPUT"},
		"depth 10^6":     {`{"params":` + strings.Repeat("[", 1_000_000), 400, "INVALID_INPUT"},
		"2 MB number":    {`{"sql":"x","params":[` + strings.Repeat("9", 2<<20) + `]}`, 400, "INVALID_PARAMETER"},
		"1e999999999":    {`{"sql":"x","params":[1e999999999]}`, 400, "INVALID_PARAMETER"},
		"over int64":     {`{"sql":"x","params":[9223372036854775808]}`, 400, "INVALID_PARAMETER"},
		"array param":    {`{"sql":"x","params":[[1]]}`, 400, "INVALID_PARAMETER"},
		"object param":   {`{"sql":"x","params":[{"a":1}]}`, 400, "INVALID_PARAMETER"},
		"params a text":  {`{"sql":"x","params":"1"}`, 400, "INVALID_PARAMETER"},
		"51 params":      {`{"sql":"x","params":[1` + strings.Repeat(",1", 50) + `]}`, 400, "INVALID_PARAMETER"},
		"a large param":  {`{"sql":"x","params":["` + strings.Repeat("a", 513<<10) + `"]}`, 400, "INVALID_PARAMETER"},
		"too large":      {`{"sql":"` + strings.Repeat("a", 5<<20) + `"}`, 413, "INVALID_INPUT"},
		"not UTF-8":      {"{\"sql\":\"\xff\"}", 400, "INVALID_INPUT"},
		"half surrogate": {`{"sql":"\ud800"}`, 400, "INVALID_INPUT"},
	} {
		a := b.do(http.MethodPost, "/v1/api/sql", "alice", c.body)
		if a.status != c.status || !strings.Contains(a.body, `"`+c.code+`"`) || !json.Valid([]byte(a.body)) {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := b.do(http.MethodPost, "/v1/api/sql", "alice", `sql=SELECT+1`, "Content-Type", "application/x-www-form-urlencoded"); a.status != 415 {
		t.Errorf("a form: %d", a.status)
	}
	if a := b.do(http.MethodGet, "/v1/api/sql", "alice", ""); a.status != 405 || a.header.Get("Allow") != "POST" {
		t.Errorf("GET: %d", a.status)
	}
	if a := b.do(http.MethodPost, "/v1/api/nothing", "alice", "{}"); a.status != 404 {
		t.Errorf("an unknown path: %d", a.status)
	}
}

// TestLargeAnswers: more than is held back, with and without gzip, is complete and the same.
func TestLargeAnswers(t *testing.T) {
	b := newBench(t)
	columns := []catalog.Column{{Name: "n", Type: catalog.Type{Kind: catalog.Int}}, {Name: "t", Type: catalog.Type{Kind: catalog.Text}}}
	rows := make([][]datum.Datum, 20_000)
	for i := range rows {
		rows[i] = []datum.Datum{datum.Int(int64(i)), datum.Text(strings.Repeat("x", 40))}
	}
	b.answers(&queryv1.StatementResult{ArrowIpc: gatewaytest.IPC(t, columns, rows...), RowCount: uint64(len(rows))})
	plain := b.sql("/v1/api/sql", "alice", "x")
	packed := b.do(http.MethodPost, "/v1/api/sql", "alice", `{"sql":"x"}`, "Accept-Encoding", "br, gzip")
	if packed.header.Get("Content-Encoding") != "gzip" || len(packed.body) >= len(plain.body) {
		t.Fatalf("not compressed: %v", packed.header)
	}
	r, err := gzip.NewReader(strings.NewReader(packed.body))
	if err != nil {
		t.Fatal(err)
	}
	unpacked, err := io.ReadAll(r)
	if err != nil || string(unpacked) != plain.body {
		t.Fatalf("the compressed answer differs (%v)", err)
	}
	var out struct {
		Results []struct{ Rows [][]any }
	}
	if err := json.Unmarshal([]byte(plain.body), &out); err != nil || len(out.Results[0].Rows) != len(rows) {
		t.Fatalf("%v, %d rows", err, len(out.Results[0].Rows))
	}
}

// TestUnencodableCell: before anything is sent it is an error answer; after, the connection is cut.
func TestUnencodableCell(t *testing.T) {
	b := newBench(t)
	columns := []catalog.Column{{Name: "d", Type: catalog.Type{Kind: catalog.Double}}, {Name: "t", Type: catalog.Type{Kind: catalog.Text}}}
	rows := [][]datum.Datum{{datum.Float(math.NaN()), datum.Null}}
	b.answers(&queryv1.StatementResult{ArrowIpc: gatewaytest.IPC(t, columns, rows...)})
	if a := b.sql("/v1/api/sql", "alice", "x"); a.status < 400 || !json.Valid([]byte(a.body)) {
		t.Errorf("early: %d %s", a.status, a.body)
	}
	long := datum.Text(strings.Repeat("x", 1000))
	rows = nil
	for range 2000 {
		rows = append(rows, []datum.Datum{datum.Float(1), long})
	}
	rows = append(rows, []datum.Datum{datum.Float(math.NaN()), long})
	b.answers(&queryv1.StatementResult{ArrowIpc: gatewaytest.IPC(t, columns, rows...)})
	req, err := http.NewRequest(http.MethodPost, b.url+"/v1/api/sql", strings.NewReader(`{"sql":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("alice", "alice secret")
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept-Encoding", "identity") // gzip would notice by itself that its end is missing
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("late: the answer looks complete")
	}
}

func TestRateLimit(t *testing.T) {
	now := func() time.Time { return testNow }
	b := newBench(t, func(c *Config) { c.PerUser = limit.NewRate("SQL requests of one user", 2, 2, now) })
	b.answers()
	for i, want := range []int{200, 200, 429} {
		a := b.sql("/v1/api/sql", "alice", "x")
		if a.status != want {
			t.Fatalf("request %d: %d %s", i+1, a.status, a.body)
		}
		if want == 429 && (a.header.Get("Retry-After") != "1" || !strings.Contains(a.body, "RATE_LIMIT_EXCEEDED")) {
			t.Errorf("%v %s", a.header, a.body)
		}
	}
	if a := b.sql("/v1/api/sql", "dba", "x"); a.status != 200 {
		t.Errorf("another user: %d", a.status)
	}
}

func TestRequestID(t *testing.T) {
	b := newBench(t)
	b.answers()
	for sent, echoed := range map[string]bool{"abc-123_X.y:z": true, "a b": false, strings.Repeat("a", 129): false} {
		a := b.do(http.MethodPost, "/v1/api/sql", "alice", `{"sql":"x"}`, "X-Request-ID", sent)
		if got := a.header.Get("X-Request-ID"); (got == sent) != echoed || got == "" {
			t.Errorf("%q: %q", sent, got)
		}
	}
}

func FuzzDecodeSQL(f *testing.F) {
	f.Add([]byte(`{"sql":"SELECT $1","params":[1,null,"a",2.5],"namespace_id":"app"}`))
	f.Add([]byte(`{"sql":"","params":{}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := decodeSQL(body)
		if err != nil {
			if dberr.CodeOf(err) != dberr.InvalidArgument || faultOf(err).status >= 500 {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		var plain struct {
			SQL    string            `json:"sql"`
			Params []json.RawMessage `json:"params"`
		}
		if err := json.Unmarshal(body, &plain); err != nil || plain.SQL != req.sql || len(plain.Params) != len(req.params) {
			t.Fatalf("%q: %+v against %+v (%v)", body, req, plain, err)
		}
	})
}

func FuzzMultipart(f *testing.F) {
	f.Add([]byte("--x\r\nContent-Disposition: form-data; name=\"sql\"\r\n\r\nSELECT 2\r\n--x--\r\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "/v1/api/sql", bytes.NewReader(body))
		r.Header.Set("Content-Type", "multipart/form-data; boundary=x")
		req, err := readSQL(r, 1<<20)
		if err == nil && strings.TrimSpace(req.sql) == "" {
			t.Fatalf("%q: accepted without SQL", body)
		}
		if err != nil && faultOf(err).status >= 500 {
			t.Fatalf("%q: %v", body, err)
		}
	})
}
