package catalogstate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/cockroachdb/datadriven"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// applier feeds a State as Raft would.
type applier struct {
	t     testing.TB
	state *State
	path  string
	index uint64
}

func openState(t testing.TB) *applier {
	t.Helper()
	a := &applier{t: t, path: filepath.Join(t.TempDir(), "catalog.db")}
	a.reopen()
	t.Cleanup(func() { _ = a.state.Close() })
	return a
}

func (a *applier) reopen() {
	a.t.Helper()
	if a.state != nil {
		if err := a.state.Close(); err != nil {
			a.t.Fatal(err)
		}
	}
	s, err := Open(Config{Path: a.path, Fail: func(err error) { a.t.Errorf("failed: %v", err) }, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		a.t.Fatal(err)
	}
	a.state = s
}

func (a *applier) log(c *catalogv1.Command) *raft.Log {
	a.t.Helper()
	raw, err := proto.Marshal(c)
	if err != nil {
		a.t.Fatal(err)
	}
	a.index++
	return &raft.Log{Index: a.index, Type: raft.LogCommand, Data: raw}
}

func (a *applier) apply(c *catalogv1.Command) (*catalogv1.ApplyResponse, error) {
	a.t.Helper()
	r := a.state.Apply([]*raft.Log{a.log(c)})[0].(*Result)
	return r.Response, r.Err
}

func (a *applier) must(c *catalogv1.Command) *catalogv1.ApplyResponse {
	a.t.Helper()
	r, err := a.apply(c)
	if err != nil {
		a.t.Fatal(err)
	}
	return r
}

// text parses a command; time_us is the entry's index unless given.
func text(t testing.TB, s string, index uint64) *catalogv1.Command {
	t.Helper()
	c := &catalogv1.Command{TimeUs: int64(index)}
	if err := prototext.Unmarshal([]byte(s), c); err != nil {
		t.Fatal(err)
	}
	if c.TimeUs == 0 {
		c.TimeUs = int64(index)
	}
	return c
}

// describe is a message on one line, without the randomness prototext adds.
func describe(m proto.Message) string {
	return strings.Join(strings.Fields(prototext.MarshalOptions{}.Format(m)), " ")
}

// TestCommands runs the files of testdata/commands. Commands:
//
//	apply      a catalog.v1.Command as text; prints the answer and the events a watcher saw
//	batch      one command a line, as one batch of entries
//	reopen     closes and opens the file
//	user, users, tables, purge, cluster, jobs, columns, versions, keys   print state
func TestCommands(t *testing.T) {
	datadriven.Walk(t, "testdata/commands", func(t *testing.T, path string) {
		a := openState(t)
		events := a.watch()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			switch d.Cmd {
			case "apply":
				r, err := a.apply(text(t, d.Input, a.index+1))
				printAnswer(&out, r, err)
			case "batch":
				var logs []*raft.Log
				for _, line := range strings.Split(d.Input, "\n") {
					logs = append(logs, a.log(text(t, line, a.index+1)))
				}
				for _, r := range a.state.Apply(logs) {
					printAnswer(&out, r.(*Result).Response, r.(*Result).Err)
				}
			case "reopen":
				a.reopen()
				events = a.watch()
				return "ok\n"
			case "user":
				u, err := a.state.User(d.CmdArgs[0].Key)
				if err != nil {
					return err.Error()
				}
				return describe(u) + "\n"
			case "users":
				var after string
				limit := 10
				d.MaybeScanArgs(t, "after", &after)
				d.MaybeScanArgs(t, "limit", &limit)
				us, more, err := a.state.Users(after, limit)
				if err != nil {
					return err.Error()
				}
				for _, u := range us {
					fmt.Fprintln(&out, u.GetUserId())
				}
				fmt.Fprintf(&out, "more=%v\n", more)
			case "tables":
				for id := uint32(1); id < 20; id++ {
					if table, ok := a.state.Table(id); ok {
						fmt.Fprintf(&out, "%d %s %s v%d\n", id, table.QualifiedName(), table.Kind, table.SchemaVersion)
					}
				}
			case "jobs":
				printJobs(t, &out, a.state)
			case "columns", "versions":
				printVersions(t, &out, a.state, d.Cmd == "versions")
			case "cluster":
				printCluster(&out, a.state)
			case "keys":
				k := a.state.ClusterKey()
				fmt.Fprintf(&out, "%s wrapped by %s\n", k.GetWrapped(), k.GetMasterId())
			case "purge":
				ids, err := a.state.ToPurge()
				return fmt.Sprintln(ids, err)
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			events.print(&out)
			return out.String()
		})
	})
}

// printVersions prints the newest version of each table, or the former ones.
func printVersions(t *testing.T, out *strings.Builder, s *State, former bool) {
	var list []*catalogv1.Table
	for id := uint32(1); id < 20 && !former; id++ {
		if e := s.model.Load().tables[id]; e != nil {
			list = append(list, e.proto)
		}
	}
	if former {
		var err error
		if list, _, err = s.FormerVersions(0, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range list {
		fmt.Fprintf(out, "%d %s v%d next %d:", p.GetId(), p.GetName(), p.GetSchemaVersion(), p.GetNextColumnId())
		for _, c := range p.GetColumns() {
			fmt.Fprintf(out, " %d %s %s", c.GetId(), c.GetName(), catalog.TypeFromProto(c.GetType()))
			if c.GetNotNull() {
				out.WriteString(" nn")
			}
			if len(c.GetMissing()) > 0 {
				fmt.Fprintf(out, " missing %x", c.GetMissing())
			}
			out.WriteString(",")
		}
		out.WriteString("\n")
	}
}

func printCluster(out *strings.Builder, s *State) {
	fmt.Fprintf(out, "factor %d, read by all %d\n", s.ReplicationFactor(), s.ReadByAll(Format))
	for _, n := range s.Nodes() {
		fmt.Fprintf(out, "node %d %s %s %s %s\n", n.GetNodeId(), n.GetServerId(), n.GetRole(), StatusName(n.GetStatus()), n.GetRpcAddr())
	}
	for _, p := range s.Placements() {
		fmt.Fprintf(out, "group %d:", p.GetGroup())
		for _, r := range p.GetReplicas() {
			fmt.Fprintf(out, " %s %s", r.GetServerId(), strings.ToLower(strings.TrimPrefix(r.GetState().String(), "REPLICA_STATE_")))
		}
		out.WriteString("\n")
	}
}

// printJobs prints all jobs, and the ids of those that have not ended.
func printJobs(t *testing.T, out *strings.Builder, s *State) {
	open, err := s.OpenJobs()
	all, more, err2 := s.Jobs("", 100)
	if err != nil || err2 != nil || more {
		t.Fatal(err, err2, more)
	}
	for _, j := range all {
		fmt.Fprintln(out, describe(j))
	}
	out.WriteString("open:")
	for _, j := range open {
		fmt.Fprintf(out, " %s", j.GetJobId())
	}
	out.WriteString("\n")
	select {
	case <-s.JobsMoved():
		out.WriteString("moved\n")
	default:
	}
}

func printAnswer(out *strings.Builder, r *catalogv1.ApplyResponse, err error) {
	if err != nil {
		fmt.Fprintf(out, "%s: %v\n", dberr.CodeOf(err), err)
		return
	}
	fmt.Fprintf(out, "changed=%v version=%d\n", r.GetChanged(), r.GetVersion())
}

// events is a watcher that is read by hand.
type events struct{ w *watcher }

func (a *applier) watch() events {
	w := &watcher{events: make(chan *catalogv1.WatchResponse, watchQueueMax)}
	a.state.mu.Lock()
	defer a.state.mu.Unlock()
	a.state.watchers[w] = struct{}{}
	return events{w}
}

func (e events) print(out *strings.Builder) {
	for {
		select {
		case m := <-e.w.events:
			switch k := m.GetEvent().(type) {
			case *catalogv1.WatchResponse_TableChanged:
				fmt.Fprintf(out, "event %d: table %s.%s is %d\n", m.GetVersion(), k.TableChanged.GetNamespace(), k.TableChanged.GetName(), k.TableChanged.GetId())
			case *catalogv1.WatchResponse_NamespaceCreated:
				fmt.Fprintf(out, "event %d: namespace %s\n", m.GetVersion(), k.NamespaceCreated.GetName())
			default:
				fmt.Fprintf(out, "event %d: %T %s\n", m.GetVersion(), k, strings.TrimPrefix(describe(m), fmt.Sprintf("version:%d ", m.GetVersion())))
			}
		default:
			return
		}
	}
}

func TestATableHasABoundedNumberOfVersions(t *testing.T) {
	a := openState(t)
	a.must(text(t, `create_namespace { name: "app" }`, 1))
	a.must(text(t, `create_table { table { namespace: "app" name: "t" kind: TABLE_KIND_USER columns { name: "id" type { kind: TYPE_KIND_BIG_INT } primary_key: true } } }`, 2))
	rename := func(from, to string) *catalogv1.Command {
		return text(t, fmt.Sprintf(`alter_table { namespace: "app" name: "t" rename_column { column: "%s" to: "%s" } }`, from, to), 3)
	}
	names := []string{"id", "no"}
	var logs []*raft.Log
	for i := range versionsMax - 1 {
		logs = append(logs, a.log(rename(names[i%2], names[(i+1)%2])))
	}
	for _, r := range a.state.Apply(logs) {
		if err := r.(*Result).Err; err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.apply(rename("no", "id")); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("one version more: %v", err)
	}
	n, table, version := 0, uint32(0), uint32(0)
	for more := true; more; {
		var list []*catalogv1.Table
		var err error
		if list, more, err = a.state.FormerVersions(1, table, version); err != nil || len(list) == 0 {
			t.Fatalf("after %d versions: %d, %v", n, len(list), err)
		}
		n, table, version = n+len(list), list[len(list)-1].GetId(), list[len(list)-1].GetSchemaVersion()
	}
	if n != versionsMax-1 || version != versionsMax-1 {
		t.Errorf("%d former versions, the last one is %d", n, version)
	}
	a.must(text(t, `drop_table { namespace: "app" name: "t" }`, 4))
	if list, _, err := a.state.FormerVersions(0, 0, 0); err != nil || len(list) != 0 {
		t.Errorf("of a dropped table: %d versions, %v", len(list), err)
	}
}

func TestReplayedEntriesAreSkipped(t *testing.T) {
	a := openState(t)
	first := a.log(&catalogv1.Command{Command: &catalogv1.Command_CreateNamespace{CreateNamespace: &catalogv1.CreateNamespace{Name: "app"}}})
	if r := a.state.Apply([]*raft.Log{first})[0].(*Result); r.Err != nil {
		t.Fatal(r.Err)
	}
	a.reopen()
	if r := a.state.Apply([]*raft.Log{first})[0]; r != nil {
		t.Fatalf("applied again: %v", r)
	}
	if a.state.Applied() != 1 {
		t.Errorf("applied %d", a.state.Applied())
	}
}

func TestASnapshotReplacesAnotherNodesState(t *testing.T) {
	from, to := openState(t), openState(t)
	from.must(text(t, `init_cluster { cluster_id: "c" shards: 4 }`, 1))
	from.must(text(t, `create_namespace { name: "app" }`, 2))
	from.must(text(t, `create_user { user { user_id: "ann" auth_type: "password" } }`, 3))
	to.must(text(t, `create_namespace { name: "other" }`, 1))
	var snap bytes.Buffer
	if err := from.state.WriteSnapshot(&snap); err != nil {
		t.Fatal(err)
	}
	cut := io.MultiReader(bytes.NewReader(snap.Bytes()[:snap.Len()/2]), iotest.ErrReader(dberr.New(dberr.Corrupt, "cut")))
	if err := to.state.Restore(cut); !dberr.Is(err, dberr.Corrupt) {
		t.Errorf("half a snapshot: %v", err)
	}
	if to.state.model.Load().namespaces["other"] == nil {
		t.Error("the refused snapshot changed the state")
	}
	if err := to.state.Restore(bytes.NewReader(snap.Bytes())); err != nil {
		t.Fatal(err)
	}
	id, shards := to.state.Cluster()
	u, err := to.state.User("ann")
	if id != "c" || shards != 4 || to.state.Applied() != 3 || u.GetUserId() != "ann" || err != nil {
		t.Errorf("%s, %d shards, applied %d, user %v, %v", id, shards, to.state.Applied(), u, err)
	}
	if m := to.state.model.Load(); m.namespaces["other"] != nil || m.namespaces["app"] == nil {
		t.Errorf("namespaces %v", m.namespaces)
	}
	to.index = 3
	to.must(text(t, `create_namespace { name: "later" }`, 4))
}

func TestAWatcherSeesSnapshotAndChangesWithoutAGap(t *testing.T) {
	a := openState(t)
	const namespaces = 50
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	seen := map[string]bool{}
	started := make(chan struct{})
	go func() {
		done <- a.state.Watch(ctx, func(m *catalogv1.WatchResponse) error {
			switch e := m.GetEvent().(type) {
			case *catalogv1.WatchResponse_Snapshot:
				for _, n := range e.Snapshot.GetNamespaces() {
					seen[n.GetName()] = true
				}
				close(started)
			case *catalogv1.WatchResponse_NamespaceCreated:
				if seen[e.NamespaceCreated.GetName()] {
					return fmt.Errorf("%s twice", e.NamespaceCreated.GetName())
				}
				seen[e.NamespaceCreated.GetName()] = true
			}
			if len(seen) == namespaces {
				cancel()
			}
			return nil
		}, nil)
	}()
	for i := range namespaces {
		if i == namespaces/2 {
			<-started
		}
		a.must(text(t, fmt.Sprintf(`create_namespace { name: "n%d" }`, i), 1))
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("watch ended with %v after %d namespaces", err, len(seen))
	}
}

func TestASlowWatcherIsCut(t *testing.T) {
	a := openState(t)
	e := a.watch()
	var logs []*raft.Log
	for i := range watchQueueMax + 1 {
		logs = append(logs, a.log(text(t, fmt.Sprintf(`create_namespace { name: "n%d" }`, i), 1)))
	}
	a.state.Apply(logs)
	n := 0
	for range e.w.events {
		n++
	}
	if n != watchQueueMax || !dberr.Is(e.w.err, dberr.Lagged) {
		t.Fatalf("%d events, then %v", n, e.w.err)
	}
}
