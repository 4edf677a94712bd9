//go:build invariants

package storage

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/faultpoint"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// leapClock is a clock that a test moves on, so that what comes next is in another millisecond.
type leapClock struct{ ahead atomic.Int64 }

func (c *leapClock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *leapClock) leap() { c.ahead.Add(int64(10 * time.Second)) }

// momentOf is the millisecond of a _seq.
func momentOf(seq uint64) time.Time { return snowflake.Time(seq, snowflake.SeqEpoch) }

// shown are the live rows of a user as a SELECT shows them in the table as it is now, by key.
func shown(t *testing.T, table *catalog.Table, user string, nodes ...*Storage) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name, stored := range rowsOf(t, table, nodes...) {
		owner, key, _ := strings.Cut(name, "/")
		fields := strings.Fields(stored)
		if owner != user || fields[1] == "true" {
			continue
		}
		raw, err := hex.DecodeString(fields[3])
		if err != nil {
			t.Fatal(err)
		}
		row := rowcodec.NewRow(table)
		if err := rowcodec.DecodeStored(raw, table, &row); err != nil {
			t.Fatal(err)
		}
		out[key] = fmt.Sprint(row.Values)
	}
	return out
}

// others are the stored rows of all users but one, with their _seq.
func others(t *testing.T, table *catalog.Table, except string, nodes ...*Storage) map[string]string {
	t.Helper()
	rows := rowsOf(t, table, nodes...)
	maps.DeleteFunc(rows, func(name, _ string) bool { return strings.HasPrefix(name, except+"/") })
	return rows
}

func restoreUserCommand(t testing.TB, id string, p catalog.RestoreUserJob) *catalogv1.Command {
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return &catalogv1.Command{Command: &catalogv1.Command_CreateJob{CreateJob: &catalogv1.CreateJob{Job: &catalogv1.Job{JobId: id, Type: catalog.JobRestoreUser,
		Namespace: p.Namespace, Parameters: string(raw), IdempotencyKey: catalog.RestoreUserKey(p.Target()), MaxRetries: 3}}}}
}

func createUserCommand(user string) *catalogv1.Command {
	return &catalogv1.Command{Command: &catalogv1.Command_CreateUser{CreateUser: &catalogv1.CreateUser{User: &catalogv1.User{UserId: user,
		Role: catalogv1.Role_ROLE_USER, AuthType: "internal"}}}}
}

func (r *role) restoreUser(id string, p catalog.RestoreUserJob) *catalogv1.Job {
	r.t.Helper()
	r.apply(restoreUserCommand(r.t, id, p))
	return endOf(r.t.(*testing.T), r.node, id)
}

// wantJob compares how a job ended.
func wantJob(t *testing.T, j *catalogv1.Job, want string) {
	t.Helper()
	if got := catalog.JobStatusName(j.GetStatus()) + ": " + j.GetMessage() + j.GetError(); !strings.Contains(got, want) {
		t.Errorf("job %s is %s, want %s", j.GetJobId(), got, want)
	}
}

func numbers(from, n int) (ids []int) {
	for i := range n {
		ids = append(ids, from+i)
	}
	return ids
}

// Of a thousand users one is restored: the others keep every row with its _seq, wherever the rows are.
func TestOneOfAThousandUsersIsRestored(t *testing.T) {
	for _, where := range []string{"hot", "flushed", "compacted"} {
		t.Run(where, func(t *testing.T) {
			clock := &leapClock{}
			r := start(t, Config{FS: vfs.NewMem(), Now: clock.now})
			notes, empty, settings := r.createTable("notes", catalog.UserTable), r.createTable("other", catalog.UserTable), r.createTable("settings", catalog.SharedTable)
			settle := func() {
				if where != "hot" {
					r.flush(notes)
				}
				if where == "compacted" {
					r.compactAll(notes)
				}
			}
			r.apply(createUserCommand(victim))
			for i := range 999 {
				r.insert(notes, fmt.Sprintf("user%03d", i), 1, 2)
			}
			r.insert(notes, victim, numbers(0, 30)...)
			moment := momentOf(r.insert(empty, victim, 1).GetPosition())
			want := shown(t, notes, victim, r.node)
			settle()
			clock.leap()
			r.change(notes, victim, storagev1.Operation_OPERATION_UPDATE, "changed", numbers(0, 10)...)
			r.change(notes, victim, storagev1.Operation_OPERATION_DELETE, "", numbers(5, 10)...)
			r.insert(notes, victim, numbers(100, 7)...)
			r.insert(notes, victim, 12)
			r.change(notes, victim, storagev1.Operation_OPERATION_UPDATE, "body 25", 25) // what it was
			r.insert(settings, victim, 1)
			settle()
			before, shared := others(t, notes, victim, r.node), rowsOf(t, settings, r.node)
			j := r.restoreUser("RU-000000000001", catalog.RestoreUserJob{User: victim, MomentUS: moment.UnixMicro()})
			// 0 to 4 were changed; 5 to 14 were deleted, of which 12 is there again as it was.
			wantJob(t, j, "completed: user 'eve' as of "+moment.Format("2006-01-02 15:04:05.000")+": 2 tables, 14 rows restored, 7 deleted, 2 unchanged")
			if strings.Contains(j.GetMessage(), "written since") {
				t.Errorf("got %s", j.GetMessage())
			}
			if p := j.GetProgress(); p.GetUnitsDone() != 2 || p.GetUnitsTotal() != 2 || p.GetRows() != 14 || p.GetRowsDropped() != 7 || p.GetStartPosition() == 0 {
				t.Errorf("got %v", p)
			}
			wantSame(t, "the user", shown(t, notes, victim, r.node), want)
			wantSame(t, "the others", others(t, notes, victim, r.node), before)
			wantSame(t, "a SHARED table", rowsOf(t, settings, r.node), shared)
			r.wantRows(notes, victim, 30)
			r.wantRows(empty, victim, 1)
		})
	}
}

func (r *role) compactAll(t *catalog.Table) {
	r.t.Helper()
	_, shards := r.node.catalog.Cluster()
	for id := range shards {
		if _, err := r.storage.Compact(r.t.Context(), &storagev1.CompactRequest{Shard: id, TableId: t.ID}); err != nil {
			r.t.Fatal(err)
		}
	}
}

// Other users, and the same one, write all the time: every acknowledged row of theirs is there afterwards.
func TestUsersWriteWhileOneIsRestored(t *testing.T) {
	clock := &leapClock{}
	r := start(t, Config{FS: vfs.NewMem(), Now: clock.now})
	notes := r.createTable("notes", catalog.UserTable)
	r.apply(createUserCommand(victim))
	moment := momentOf(r.insert(notes, victim, numbers(0, 3000)...).GetPosition())
	clock.leap()
	r.change(notes, victim, storagev1.Operation_OPERATION_UPDATE, "changed", numbers(0, 3000)...)
	writers := append([]string{victim}, users...)
	done, written := make(chan struct{}), make([]int, len(writers))
	began := make(chan struct{})
	var once sync.Once
	faultpoint.Set("restoreuser/batch", func() error { once.Do(func() { close(began) }); return nil })
	defer faultpoint.Set("restoreuser/batch", nil)
	var work sync.WaitGroup
	for i, user := range writers {
		if i > 0 && user == victim {
			continue
		}
		work.Go(func() {
			<-began
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				if _, err := r.storage.Write(t.Context(), r.insertion(notes, user, 10_000+n)); err != nil {
					t.Errorf("%s: %v", user, err)
					return
				}
				written[i]++
			}
		})
	}
	j := r.restoreUser("RU-000000000001", catalog.RestoreUserJob{User: victim, MomentUS: moment.UnixMicro()})
	close(done)
	work.Wait()
	wantJob(t, j, "completed: ")
	wantJob(t, j, "3000 rows restored, 0 deleted, 0 unchanged")
	r.wantRows(notes, victim, 3000+written[0])
	for i, user := range writers[1:] {
		if user != victim {
			r.wantRows(notes, user, written[i+1])
		}
	}
	for key, row := range shown(t, notes, victim, r.node) {
		if strings.Contains(row, "changed") {
			t.Fatalf("row %s was not restored: %s", key, row)
		}
	}
}

func alterCommand(t *catalog.Table, c *catalogv1.AlterTable) *catalogv1.Command {
	c.Namespace, c.Name, c.SchemaVersion = t.Namespace, t.Name, t.SchemaVersion
	return &catalogv1.Command{Command: &catalogv1.Command_AlterTable{AlterTable: c}}
}

// Rows from before ALTER TABLE come back as a SELECT shows them now: a new column has no value, or the one that it was added with, not
// the present DEFAULT; a dropped one is gone.
func TestRowsOfFormerVersionsAreRestored(t *testing.T) {
	for _, flushed := range []bool{false, true} {
		clock := &leapClock{}
		r := start(t, Config{FS: vfs.NewMem(), Now: clock.now})
		notes := r.createTable("notes", catalog.UserTable)
		r.apply(createUserCommand(victim))
		moment := momentOf(r.insert(notes, victim, 1, 2, 3, 4).GetPosition())
		if flushed {
			r.flush(notes)
		}
		clock.leap()
		r.change(notes, victim, storagev1.Operation_OPERATION_DELETE, "", 1)
		text := &catalogv1.Type{Kind: catalogv1.TypeKind_TYPE_KIND_TEXT}
		literal := func(s string) *catalogv1.Default {
			return &catalogv1.Default{Kind: catalogv1.DefaultKind_DEFAULT_KIND_LITERAL, Literal: datum.Append(nil, datum.Text(s))}
		}
		for _, c := range []*catalogv1.AlterTable{
			{Change: &catalogv1.AlterTable_AddColumn{AddColumn: &catalogv1.Column{Name: "note", Type: text, Default: literal("by default")}}},
			{Change: &catalogv1.AlterTable_AddColumn{AddColumn: &catalogv1.Column{Name: "state", Type: text, NotNull: true, Default: literal("new")}}},
			{Change: &catalogv1.AlterTable_DropColumn{DropColumn: "body"}},
		} {
			notes = catalog.TableFromProto(r.apply(alterCommand(notes, c)).GetTable())
		}
		want := shown(t, notes, victim, r.node) // 2, 3 and 4
		row := rowcodec.NewRow(notes)
		row.Put(0, datum.Int(1))
		row.Put(1, datum.Null)
		row.Put(2, datum.Text("new"))
		req := r.insertion(notes, victim)
		req.Writes[0].Rows = [][]byte{rowcodec.Append(nil, notes, &row)}
		if _, err := r.storage.Write(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		whole := shown(t, notes, victim, r.node) // what the four are in the table as it is now
		maps.Copy(whole, want)
		stored := rowsOf(t, notes, r.node)
		gone := r.insertion(notes, victim).GetWrites()[0]
		gone.Operation = storagev1.Operation_OPERATION_DELETE
		for name, s := range stored {
			var seq uint64
			if _, err := fmt.Sscanf(s, "%d", &seq); err != nil {
				t.Fatal(err)
			}
			raw, err := hex.DecodeString(strings.Fields(s)[3])
			if err != nil || !strings.HasPrefix(name, victim) {
				t.Fatal(name, err)
			}
			gone.Rows, gone.ExpectedSeqs = append(gone.Rows, raw), append(gone.ExpectedSeqs, seq)
		}
		req.Writes[0] = gone
		if _, err := r.storage.Write(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		if flushed {
			r.flush(notes)
		}
		wantJob(t, r.restoreUser("RU-000000000001", catalog.RestoreUserJob{User: victim, Namespace: "app", MomentUS: moment.UnixMicro()}), "completed: ")
		wantSame(t, "as of before the changes of the table", shown(t, notes, victim, r.node), whole)
	}
}

// restorePoints are the places where a restore is interrupted.
var restorePoints = []string{"restoreuser/checked", "restoreuser/table", "restoreuser/batch", "restoreuser/written"}

// At each step, early and late, the directory is copied as it is: a node that starts with it goes on, and comes to the same end.
func TestARestoreGoesOnAfterACrashAtEachStep(t *testing.T) {
	clock := &leapClock{}
	cfg := Config{Dir: t.TempDir(), Now: clock.now}
	r := start(t, cfg)
	notes := r.createTable("notes", catalog.UserTable)
	r.apply(createUserCommand(victim))
	moment := momentOf(r.insert(notes, victim, numbers(0, 2500)...).GetPosition())
	want := shown(t, notes, victim, r.node)
	r.flush(notes)
	clock.leap()
	r.change(notes, victim, storagev1.Operation_OPERATION_UPDATE, "changed", numbers(0, 1500)...)
	r.change(notes, victim, storagev1.Operation_OPERATION_DELETE, "", numbers(1500, 1000)...)
	r.insert(notes, victim, numbers(5000, 700)...)
	clock.leap()
	images := map[string]string{}
	for _, point := range restorePoints {
		hits := 0
		faultpoint.Set(point, func() error {
			hits++
			to := filepath.Join(t.TempDir(), "image")
			copyStill(t, to, cfg.Dir)
			images[fmt.Sprintf("%s %d", strings.TrimPrefix(point, "restoreuser/"), hits)] = to
			return nil
		})
		defer faultpoint.Set(point, nil)
	}
	job := catalog.RestoreUserJob{User: victim, MomentUS: moment.UnixMicro()}
	const ended = "completed: user 'eve' as of %s: 1 tables, 2500 rows restored, 700 deleted, 0 unchanged"
	text := fmt.Sprintf(ended, moment.Format("2006-01-02 15:04:05.000"))
	wantJob(t, r.restoreUser("RU-000000000001", job), text)
	for _, point := range restorePoints {
		faultpoint.Set(point, nil)
	}
	if len(images) != 2+2*4 {
		t.Errorf("%d images: %v", len(images), images)
	}
	for point, dir := range images {
		t.Run(strings.ReplaceAll(point, " ", "_"), func(t *testing.T) {
			cfg := Config{Dir: dir, Now: clock.now, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
			node := New(cfg, rpcnet.NewLocal())
			if err := node.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantJob(t, endOf(t, node, "RU-000000000001"), text)
			wantSame(t, "after a crash", shown(t, notes, victim, node), want)
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
			defer cancel()
			if err := node.Stop(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// restoreWorld is three nodes with a user to restore.
func restoreWorld(t *testing.T) (c *cluster, notes *catalog.Table, moment time.Time, want map[string]string) {
	clock := &leapClock{}
	c = newCluster(t, 3)
	for _, m := range c.nodes {
		m.cfg.Now = clock.now
	}
	c.start(1, 2, 3)
	c.until("three voters of every group", spread(3))
	if _, err := c.apply(createUserCommand(victim)); err != nil {
		t.Fatal(err)
	}
	notes = c.createTable("notes")
	seqs := c.writeMany(notes, storagev1.Operation_OPERATION_INSERT, "body", numbers(0, 2500), nil)
	want = shown(t, notes, victim, c.all()...)
	c.flush(notes)
	clock.leap()
	changed := c.writeMany(notes, storagev1.Operation_OPERATION_UPDATE, "changed", numbers(0, 2000), seqs[:2000])
	c.writeMany(notes, storagev1.Operation_OPERATION_DELETE, "", numbers(1500, 1000), append(changed[1500:], seqs[2000:]...))
	c.writeMany(notes, storagev1.Operation_OPERATION_INSERT, "new", numbers(5000, 700), nil)
	c.flush(notes)
	c.compact(notes)
	clock.leap()
	return c, notes, momentOf(seqs[len(seqs)-1]), want
}

func (c *cluster) all() (nodes []*Storage) {
	for _, id := range c.up() {
		nodes = append(nodes, c.nodes[id].node)
	}
	return nodes
}

func (c *cluster) writeMany(t *catalog.Table, op storagev1.Operation, body string, ids []int, expected []uint64) []uint64 {
	c.t.Helper()
	w := &storagev1.TableWrite{TableId: t.ID, SchemaVersion: t.SchemaVersion, Operation: op, ExpectedSeqs: expected}
	for _, id := range ids {
		w.Rows = append(w.Rows, encodeRow(t, id, fmt.Sprint(body, " ", id)))
	}
	req := &storagev1.WriteRequest{Identity: &catalogv1.Identity{UserId: victim, Role: catalogv1.Role_ROLE_USER}, UserId: victim, Shard: c.shardOf(victim),
		CatalogVersion: c.version, Writes: []*storagev1.TableWrite{w}}
	resp, err := storagev1.NewStorageServiceClient(c.router.Shard(req.GetShard())).Write(c.t.Context(), req)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.GetResults()[0].GetSeqs()
}

// The shard gets another leader, or the node that runs the job goes, in the middle of a restore.
func TestARestoreOutlivesItsLeaders(t *testing.T) {
	for _, c := range []struct {
		name string
		lose func(c *cluster)
	}{
		{"the shard's leader changes", func(c *cluster) {
			group := c.shardOf(victim) + 1
			from := c.leaderOf(group)
			to := c.nodes[from%3+1].node.identity.ServerID
			r, _ := c.nodes[from].node.replicas.Get(c.shardOf(victim))
			if err := r.Group.Transfer(c.t.Context(), to); err != nil {
				c.t.Errorf("transfer: %v", err)
			}
		}},
		{"the shard's leader goes", func(c *cluster) { c.stop(c.leaderOf(c.shardOf(victim) + 1)) }},
		{"the job's node goes", func(c *cluster) { c.stop(c.leaderOf(catalogGroup)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster, notes, moment, want := restoreWorld(t)
			reached, goOn := make(chan struct{}), make(chan struct{})
			hits := atomic.Int64{}
			faultpoint.Set("restoreuser/batch", func() error {
				if hits.Add(1) == 2 {
					close(reached)
					<-goOn
				}
				return nil
			})
			defer faultpoint.Set("restoreuser/batch", nil)
			const job = "RU-000000000001"
			if _, err := cluster.apply(restoreUserCommand(t, job, catalog.RestoreUserJob{User: victim, MomentUS: moment.UnixMicro()})); err != nil {
				t.Fatal(err)
			}
			<-reached
			lost := make(chan struct{})
			go func() {
				defer close(lost)
				c.lose(cluster)
			}()
			if c.name == "the shard's leader changes" {
				<-lost
			}
			close(goOn) // a node that stops waits for what it is doing
			<-lost
			cluster.until("the job has ended", func(*clusterv1.StatusResponse) bool { return catalog.JobEnded(cluster.job(job).GetStatus()) })
			wantJob(t, cluster.job(job), "1 tables, 2500 rows restored, 700 deleted, 0 unchanged")
			cluster.until("a leader of the shard", func(*clusterv1.StatusResponse) bool {
				_, err := cluster.count(t.Context(), notes, victim)
				return err == nil
			})
			wantSame(t, "afterwards", shown(t, notes, victim, cluster.all()...), want)
		})
	}
}

// A job that is killed writes no more, and another one ends what it began.
func TestAKilledRestoreStops(t *testing.T) {
	clock := &leapClock{}
	r := start(t, Config{FS: vfs.NewMem(), Now: clock.now})
	notes := r.createTable("notes", catalog.UserTable)
	r.apply(createUserCommand(victim))
	moment := momentOf(r.insert(notes, victim, numbers(0, 2500)...).GetPosition())
	want := shown(t, notes, victim, r.node)
	clock.leap()
	r.change(notes, victim, storagev1.Operation_OPERATION_UPDATE, "changed", numbers(0, 2500)...)
	reached, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	faultpoint.Set("restoreuser/written", func() error {
		once.Do(func() { close(reached); <-goOn })
		return nil
	})
	defer faultpoint.Set("restoreuser/written", nil)
	p := catalog.RestoreUserJob{User: victim, MomentUS: moment.UnixMicro()}
	r.apply(restoreUserCommand(t, "RU-000000000001", p))
	<-reached
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_UpdateJob{UpdateJob: &catalogv1.UpdateJob{JobId: "RU-000000000001",
		Status: catalogv1.JobStatus_JOB_STATUS_CANCELLED, Message: "cancelled by root"}}})
	close(goOn)
	wantJob(t, endOf(t, r.node, "RU-000000000001"), "cancelled: cancelled by root")
	wantJob(t, r.restoreUser("RU-000000000002", p), "completed: ")
	wantSame(t, "after another restore", shown(t, notes, victim, r.node), want)
}

// A subscriber sees each row that the restore writes once, as any other change.
func TestSubscribersSeeARestoreOnce(t *testing.T) {
	clock := &leapClock{}
	r := start(t, Config{FS: vfs.NewMem(), Now: clock.now})
	notes := r.createTable("notes", catalog.UserTable)
	r.apply(createUserCommand(victim))
	moment := momentOf(r.insert(notes, victim, numbers(0, 10)...).GetPosition())
	clock.leap()
	r.change(notes, victim, storagev1.Operation_OPERATION_UPDATE, "changed", 0, 1, 2)
	r.change(notes, victim, storagev1.Operation_OPERATION_DELETE, "", 3, 4)
	r.insert(notes, victim, 20)
	watch, err := r.storage.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	req := r.insertion(notes, victim)
	if err := watch.Send(&storagev1.WatchRequest{Request: &storagev1.WatchRequest_Add{Add: &storagev1.WatchAdd{WatchId: 1, Shard: req.GetShard(), TableId: notes.ID,
		UserId: victim, Identity: req.GetIdentity()}}}); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetStarted() != nil {
			break
		}
	}
	for n := range 2 { // the second finds nothing to do
		wantJob(t, r.restoreUser(fmt.Sprintf("RU-00000000000%d", n), catalog.RestoreUserJob{User: victim, MomentUS: moment.UnixMicro()}), "completed: ")
	}
	last := r.insert(notes, victim, 99).GetPosition() // behind everything
	seen := map[string]int{}
	for at := uint64(0); at < last; {
		m, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, ch := range m.GetChanges().GetChanges() {
			at = ch.GetSeq()
			src := ch.GetRow()
			if len(src) == 0 {
				src = ch.GetOldRow()
			}
			row := rowcodec.NewRow(notes)
			if err := rowcodec.Decode(src, notes, &row); err != nil {
				t.Fatal(err)
			}
			seen[fmt.Sprintf("%s %d %s", ch.GetKind(), row.Values[0].AsInt(), row.Values[1].AsText())]++
		}
	}
	want := map[string]int{"CHANGE_KIND_DELETE 20 body 20": 1, "CHANGE_KIND_INSERT 99 body 99": 1}
	for id := range 5 {
		kind := "UPDATE"
		if id > 2 {
			kind = "INSERT"
		}
		want[fmt.Sprintf("CHANGE_KIND_%s %d body %d", kind, id, id)] = 1
	}
	if !maps.Equal(seen, want) {
		t.Errorf("saw %v, want %v", seen, want)
	}
}

// Rows of the past go to another user, in another shard, who must have none.
func TestAUserIsRestoredToAnother(t *testing.T) {
	clock := &leapClock{}
	r := start(t, Config{FS: vfs.NewMem(), Now: clock.now, Shards: 3})
	notes := r.createTable("notes", catalog.UserTable)
	to := ""
	for i := 0; to == ""; i++ {
		if user := fmt.Sprint("user", i); r.node.shardOfUser(user) != r.node.shardOfUser(victim) {
			to = user
		}
	}
	r.apply(createUserCommand(victim))
	r.apply(createUserCommand(to))
	moment := momentOf(r.insert(notes, victim, numbers(0, 1500)...).GetPosition())
	want := shown(t, notes, victim, r.node)
	r.flush(notes)
	clock.leap()
	r.change(notes, victim, storagev1.Operation_OPERATION_UPDATE, "changed", 1, 2)
	r.change(notes, victim, storagev1.Operation_OPERATION_DELETE, "", 3)
	r.insert(notes, victim, 5000)
	r.insert(notes, to, 7)
	p := catalog.RestoreUserJob{User: victim, To: to, MomentUS: moment.UnixMicro()}
	wantJob(t, r.restoreUser("RU-000000000001", p), "failed: user '"+to+"' has rows in app.notes: rows are restored into a user without any")
	r.change(notes, to, storagev1.Operation_OPERATION_DELETE, "", 7) // no live ones are left
	own := others(t, notes, to, r.node)
	clock.leap()
	wantJob(t, r.restoreUser("RU-000000000002", p), "restored to user '"+to+"': 1 tables, 1500 rows restored, 0 deleted, 0 unchanged")
	wantSame(t, "the user restored to", shown(t, notes, to, r.node), want)
	wantSame(t, "the user restored from", others(t, notes, to, r.node), own)
}

func TestRestoresOfUsersThatAreRefused(t *testing.T) {
	r := start(t, Config{FS: vfs.NewMem()})
	notes := r.createTable("notes", catalog.UserTable)
	r.apply(createUserCommand(victim))
	r.apply(createUserCommand("joe"))
	moment := momentOf(r.insert(notes, victim, 1).GetPosition())
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_DropUser{DropUser: &catalogv1.DropUser{UserId: "joe"}}})
	for i, c := range []struct{ user, to, want string }{
		{"nobody", "", "failed: User 'nobody' does not exist"},
		{"joe", "", "failed: User 'joe' does not exist"},
		{victim, "joe", "failed: User 'joe' does not exist"},
	} {
		wantJob(t, r.restoreUser(fmt.Sprintf("RU-00000000000%d", i), catalog.RestoreUserJob{User: c.user, To: c.to, MomentUS: moment.UnixMicro()}), c.want)
	}
	hold := make(chan struct{})
	faultpoint.Set("erase/survey", func() error { <-hold; return nil })
	defer faultpoint.Set("erase/survey", nil)
	defer close(hold)
	r.apply(&catalogv1.Command{Command: &catalogv1.Command_BeginErase{BeginErase: &catalogv1.BeginErase{UserId: victim,
		Job: &catalogv1.Job{JobId: "ER-000000000011", Type: catalog.JobErase, IdempotencyKey: catalog.EraseKey(victim), CreatedBy: "root"}}}})
	wantJob(t, r.restoreUser("RU-000000000009", catalog.RestoreUserJob{User: victim, MomentUS: moment.UnixMicro()}), "failed: ")
	_, err := r.storage.CheckRestoreUser(t.Context(), &storagev1.CheckRestoreUserRequest{UserId: victim, Shard: r.node.shardOfUser(victim)})
	if !dberr.Is(err, dberr.UserNotFound) {
		t.Errorf("of a user who is being erased: %v", err)
	}
	_, err = r.storage.CheckRestoreUser(t.Context(), &storagev1.CheckRestoreUserRequest{UserId: victim, Shard: 1 - r.node.shardOfUser(victim)})
	if !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("in another shard: %v", err)
	}
}
