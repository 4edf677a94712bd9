package maintenance

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// fakeCatalog keeps the jobs it is told to make as the catalog's rules say, and does none.
type fakeCatalog struct {
	catalogv1.UnimplementedCatalogServiceServer

	mu       sync.Mutex
	jobs     map[string]*catalogv1.Job // by key
	answered map[string]*catalogv1.Job // by request id
	// gone are tables that were dropped and that the view still has; full refuses others than the first.
	gone map[uint32]bool
	full bool
}

func (c *fakeCatalog) Watch(_ *catalogv1.WatchRequest, out grpc.ServerStreamingServer[catalogv1.WatchResponse]) error {
	snap := &catalogv1.Snapshot{Shards: 1, ClusterId: "c", Namespaces: []*catalogv1.Namespace{{Name: "app"}, {Name: "empty"}, {Name: "default"}}}
	for i, t := range []*catalog.Table{{Namespace: "app", Name: "notes", Kind: catalog.UserTable}, {Namespace: "app", Name: "chat", Kind: catalog.SharedTable},
		{Namespace: "app", Name: "ticks", Kind: catalog.StreamTable}, {Namespace: "default", Name: "d", Kind: catalog.UserTable}} {
		t.ID = uint32(i + 1)
		snap.Tables = append(snap.Tables, catalog.TableToProto(t))
	}
	if err := out.Send(&catalogv1.WatchResponse{Version: 1, Event: &catalogv1.WatchResponse_Snapshot{Snapshot: snap}}); err != nil {
		return err
	}
	<-out.Context().Done()
	return out.Context().Err()
}

func (c *fakeCatalog) Apply(_ context.Context, req *catalogv1.ApplyRequest) (*catalogv1.ApplyResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cmd := req.GetCommand()
	if u := cmd.GetUpdateJob(); u != nil {
		return c.update(u)
	}
	j := cmd.GetCreateJob().GetJob()
	if before := c.answered[string(cmd.GetRequestId())]; before != nil {
		return &catalogv1.ApplyResponse{Changed: true, Job: before}, nil
	}
	switch {
	case c.jobs[j.GetIdempotencyKey()] != nil:
		return nil, dberr.New(dberr.AlreadyExists, "it has not ended")
	case c.gone[j.GetTableId()]:
		return nil, dberr.New(dberr.TableNotFound, "it was dropped")
	case c.full && len(c.jobs) > 0:
		return nil, dberr.New(dberr.LimitExceeded, "too many")
	}
	c.jobs[j.GetIdempotencyKey()], c.answered[string(cmd.GetRequestId())] = j, j
	return &catalogv1.ApplyResponse{Changed: true, Job: j}, nil
}

func (c *fakeCatalog) update(u *catalogv1.UpdateJob) (*catalogv1.ApplyResponse, error) {
	for key, j := range c.jobs {
		if j.GetJobId() == u.GetJobId() && u.GetStatus() == catalogv1.JobStatus_JOB_STATUS_CANCELLED {
			delete(c.jobs, key)
			j.Message = u.GetMessage()
			return &catalogv1.ApplyResponse{Changed: true, Job: j}, nil
		}
	}
	return nil, dberr.New(dberr.NotFound, "there is no job %s", u.GetJobId())
}

func open(t *testing.T) (*Jobs, *fakeCatalog) {
	t.Helper()
	network, log := rpcnet.NewLocal(), slog.New(slog.DiscardHandler)
	c := &fakeCatalog{jobs: map[string]*catalogv1.Job{}, answered: map[string]*catalogv1.Job{}, gone: map[uint32]bool{}}
	s, err := rpcnet.NewServer(network, "storage", rpcnet.ServerOptions{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	catalogv1.RegisterCatalogServiceServer(s.Registrar(), c)
	s.Serve()
	t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel() // nothing is waited for
		s.Stop(ended)
	})
	conn, err := rpcnet.Dial(network, "storage")
	if err != nil {
		t.Fatal(err)
	}
	v := catalogview.New(conn, log)
	if err := v.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Stop)
	return &Jobs{Catalog: v, Now: time.Now}, c
}

var dba = catalog.Identity{UserID: "root", Role: catalog.RoleDBA}

// jobID is random.
var jobID = regexp.MustCompile(`(FL|CO)-[0-9a-f]{12}`)

// run runs a statement in namespace default and shows its answer, ids hidden.
func run(t *testing.T, j *Jobs, id catalog.Identity, text string) string {
	t.Helper()
	parsed, err := sqlfront.Parse(text, sqlfront.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var answer string
	switch s := parsed[0].(type) {
	case *sqlfront.Flush:
		answer, err = j.Flush(t.Context(), id, "default", s)
	case *sqlfront.Compact:
		answer, err = j.Compact(t.Context(), id, "default", s)
	case *sqlfront.KillJob:
		answer, err = j.Kill(t.Context(), id, s)
	}
	if err != nil {
		answer = fmt.Sprintf("%s: %v", dberr.CodeOf(err), err)
	}
	return jobID.ReplaceAllString(answer, "$1-…")
}

// expect runs statements one after another.
func expect(t *testing.T, j *Jobs, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := run(t, j, dba, pairs[i]); got != pairs[i+1] {
			t.Errorf("%s\n  got  %s\n  want %s", pairs[i], got, pairs[i+1])
		}
	}
}

func TestFlushOfATable(t *testing.T) {
	j, c := open(t)
	expect(t, j,
		"STORAGE FLUSH TABLE app.notes", "Storage flush started for table 'app.notes'. Job ID: FL-…",
		"STORAGE FLUSH TABLE app.notes", "Storage flush skipped: a flush is already queued or running for table 'app.notes'",
		"FLUSH TABLE app.notes", "AlreadyExists: a flush is already queued or running for table 'app.notes'",
		"FLUSH TABLE d", "Flush started for table 'default.d'. Job ID: FL-…",
		"FLUSH TABLE app.ticks", "InvalidOperation: app.ticks is a STREAM table: its rows are in memory only and cannot be flushed",
		"STORAGE FLUSH TABLE system.users", "InvalidOperation: system.users is a system table: it is computed when it is read, and there is nothing to flush",
		"FLUSH TABLE app.gone", `TableNotFound: relation "app.gone" does not exist`)
	got := c.jobs["flush:1"]
	if got.GetType() != "flush" || got.GetTableId() != 1 || got.GetCreatedBy() != "root" || got.GetMaxRetries() != retriesMax ||
		got.GetParameters() != `{"namespace":"app","table":"notes","table_id":1}` {
		t.Errorf("made %v", got)
	}
}

func TestFlushOfANamespace(t *testing.T) {
	j, _ := open(t)
	expect(t, j,
		"STORAGE FLUSH ALL", "Storage flush started for 1 table(s) in namespace 'default'. Job IDs: [FL-…]",
		"FLUSH TABLE app.chat", "Flush started for table 'app.chat'. Job ID: FL-…",
		"FLUSH ALL TABLES IN app", "Flush started for 1 table(s) in namespace 'app'. Job IDs: [FL-…] (1 table(s) skipped: a flush is already queued or running)",
		"STORAGE FLUSH ALL IN NAMESPACE app", "Storage flush skipped: a flush is already queued or running for every table in namespace 'app'",
		"FLUSH ALL TABLES IN app", "AlreadyExists: a flush is already queued or running for every table in namespace 'app'",
		"FLUSH ALL TABLES IN empty", "Flush skipped: there is no table to flush in namespace 'empty'",
		"FLUSH ALL TABLES IN nosuch", "NamespaceNotFound: Namespace 'nosuch' does not exist",
		"FLUSH ALL TABLES IN system", "InvalidOperation: namespace 'system' has system tables only, which cannot be flushed")
}

func TestCompaction(t *testing.T) {
	j, c := open(t)
	expect(t, j,
		"STORAGE COMPACT TABLE app.notes", "Storage compact started for table 'app.notes'. Job ID: CO-…",
		"STORAGE COMPACT TABLE app.notes", "Storage compact skipped: a compaction is already queued or running for table 'app.notes'",
		"STORAGE FLUSH TABLE app.notes", "Storage flush started for table 'app.notes'. Job ID: FL-…", // they wait for each other in the shards
		"STORAGE COMPACT ALL IN app", "Storage compact started for 1 table(s) in namespace 'app'. Job IDs: [CO-…] (1 table(s) skipped: a compaction is already queued or running)",
		"STORAGE COMPACT ALL IN NAMESPACE app", "Storage compact skipped: a compaction is already queued or running for every table in namespace 'app'",
		"STORAGE COMPACT ALL", "Storage compact started for 1 table(s) in namespace 'default'. Job IDs: [CO-…]",
		"STORAGE COMPACT ALL IN empty", "Storage compact skipped: there is no table to compact in namespace 'empty'",
		"STORAGE COMPACT ALL IN system", "InvalidOperation: namespace 'system' has system tables only, which cannot be compacted",
		"STORAGE COMPACT TABLE app.ticks", "InvalidOperation: app.ticks is a STREAM table: its rows are in memory only and cannot be compacted",
		"STORAGE COMPACT TABLE app.gone", `TableNotFound: relation "app.gone" does not exist`)
	got := c.jobs["compact:1"]
	if got.GetType() != "compact" || got.GetTableId() != 1 || got.GetCreatedBy() != "root" || got.GetMaxRetries() != retriesMax {
		t.Errorf("made %v", got)
	}
}

func TestWhatHappensBetweenTables(t *testing.T) {
	j, c := open(t)
	c.gone[2] = true
	expect(t, j, "FLUSH ALL TABLES IN app", "Flush started for 1 table(s) in namespace 'app'. Job IDs: [FL-…]")
	j, c = open(t)
	c.full = true
	expect(t, j, "FLUSH ALL TABLES IN app", "LimitExceeded: table 'app.notes': too many; for the tables before it these jobs were started: [FL-…]")
}

func TestARepeatedRequestNamesItsJobs(t *testing.T) {
	j, _ := open(t)
	for _, text := range []string{"FLUSH TABLE d", "FLUSH ALL TABLES IN app"} {
		s, err := sqlfront.Parse(text, sqlfront.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		ctx := requestid.With(t.Context(), requestid.New())
		first, err := j.Flush(ctx, dba, "default", s[0].(*sqlfront.Flush))
		second, err2 := j.Flush(ctx, dba, "default", s[0].(*sqlfront.Flush))
		if err != nil || err2 != nil || first != second || !strings.Contains(first, "FL-") {
			t.Errorf("%s: %q and %q, %v, %v", text, first, second, err, err2)
		}
	}
}

func TestKillJob(t *testing.T) {
	j, c := open(t)
	expect(t, j, "FLUSH TABLE d", "Flush started for table 'default.d'. Job ID: FL-…")
	job := c.jobs["flush:4"]
	expect(t, j, "KILL JOB '"+job.GetJobId()+"'", "Job FL-… killed: cancelled",
		"KILL JOB '"+job.GetJobId()+"'", "NotFound: there is no job FL-…",
		"FLUSH TABLE d", "Flush started for table 'default.d'. Job ID: FL-…")
	if job.GetMessage() != "cancelled by root" {
		t.Errorf("got %q", job.GetMessage())
	}
}

func TestRights(t *testing.T) {
	j, c := open(t)
	for text, want := range map[string]string{"FLUSH TABLE d": "--+++", "STORAGE FLUSH ALL": "--+++", "STORAGE COMPACT ALL": "--+++", "KILL JOB 'FL-000000000000'": "---++"} {
		got := ""
		for _, role := range []catalog.Role{catalog.RoleAnonymous, catalog.RoleUser, catalog.RoleService, catalog.RoleDBA, catalog.RoleSystem} {
			if strings.HasPrefix(run(t, j, catalog.Identity{UserID: "u", Role: role}, text), "PermissionDenied") {
				got += "-"
			} else {
				got += "+"
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	if len(c.jobs) != 2 {
		t.Errorf("%d jobs", len(c.jobs))
	}
}
