package job

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/catalogstate"
)

// shards is how many the cluster of these tests has.
const shards = 3

// world is a real catalog without a log, and shards that do what the test says.
type world struct {
	t     *testing.T
	state *catalogstate.State
	calls chan call

	mu     sync.Mutex
	index  uint64
	refuse int // so many commands fail before one is done
	// merges are what shards answer to compactions.
	merges map[uint32]*storagev1.CompactResponse
	// moves are what shards answer to moves, one request after the other.
	moves map[uint32][]*storagev1.MoveSegmentsResponse
}

// call is a flush that waits for the test.
type call struct {
	ctx    context.Context
	req    *storagev1.FlushRequest
	answer chan<- answer
}

type answer struct {
	resp *storagev1.FlushResponse
	err  error
}

// inWorld runs a test whose clock is the bubble's.
func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, calls: make(chan call)}
		var err error
		w.state, err = catalogstate.Open(catalogstate.Config{Path: filepath.Join(dir, "catalog.db"),
			Fail: func(err error) { t.Errorf("failed: %v", err) }, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = w.state.Close() }()
		w.must(`init_cluster { cluster_id: "c" shards: 3 }`)
		w.must(`create_namespace { name: "app" }`)
		for _, name := range []string{"t", "u"} {
			w.must(`create_table { table { namespace: "app" name: "` + name + `" kind: TABLE_KIND_USER
				columns { name: "id" type { kind: TYPE_KIND_INT } primary_key: true not_null: true } } }`)
		}
		f(t, w)
	})
}

// Apply implements Commands: what Raft and the catalog's service do.
func (w *world) Apply(ctx context.Context, req *catalogv1.ApplyRequest) (*catalogv1.ApplyResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if w.refuse > 0 {
		w.refuse--
		return nil, dberr.New(dberr.Unavailable, "no majority")
	}
	raw, err := proto.Marshal(req.GetCommand())
	if err != nil {
		return nil, err
	}
	w.index++
	r := w.state.Apply([]*raft.Log{{Index: w.index, Type: raft.LogCommand, Data: raw}})[0].(*catalogstate.Result)
	return r.Response, r.Err
}

func (w *world) must(text string) {
	w.t.Helper()
	c := &catalogv1.Command{TimeUs: time.Now().UnixMicro()}
	if err := prototext.Unmarshal([]byte(text), c); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.Apply(context.Background(), &catalogv1.ApplyRequest{Command: c}); err != nil {
		w.t.Fatal(err)
	}
}

// create makes a flush of a table; without one, its key is its own.
func (w *world) create(n int, table uint32) {
	w.t.Helper()
	key := ""
	if table != 0 {
		key = catalog.FlushKey(table)
	}
	w.must(fmt.Sprintf(`create_job { job { job_id: "FL-%012x" type: "flush" namespace: "app" table_name: "t" table_id: %d idempotency_key: %q max_retries: 3 } }`,
		n, max(table, 1), key))
}

// runner makes a runner of a node. Follow it at the end.
func (w *world) runner(node uint32) *Runner {
	return New(Config{Catalog: w.state, Commands: w, NodeID: node, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
		Move: func(_ context.Context, req *storagev1.MoveSegmentsRequest) (*storagev1.MoveSegmentsResponse, error) {
			list := w.moves[req.GetShard()]
			if len(list) == 0 || req.GetTableId() != 1 || req.GetCatalogVersion() != w.state.Version() {
				return nil, dberr.New(dberr.Unsupported, "asked %v", req)
			}
			w.moves[req.GetShard()] = list[1:]
			return list[0], nil
		},
		Compact: func(_ context.Context, req *storagev1.CompactRequest) (*storagev1.CompactResponse, error) {
			if m, ok := w.merges[req.GetShard()]; ok && req.GetTableId() == 1 && req.GetCatalogVersion() == w.state.Version() {
				return m, nil
			}
			return nil, dberr.New(dberr.Unsupported, "asked %v", req)
		},
		Flush: func(ctx context.Context, req *storagev1.FlushRequest) (*storagev1.FlushResponse, error) {
			answers := make(chan answer, 1)
			select {
			case w.calls <- call{ctx, req, answers}:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			select {
			case a := <-answers:
				return a.resp, a.err
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}})
}

// lead begins a runner that ends with the test.
func (w *world) lead(node uint32) *Runner {
	r := w.runner(node)
	r.Lead(w.t.Context())
	return r
}

// answer waits for the next call and answers it.
func (w *world) answer(rows uint64, err error) *storagev1.FlushRequest {
	w.t.Helper()
	c := <-w.calls
	a := answer{err: err}
	if err == nil {
		a.resp = &storagev1.FlushResponse{Rows: rows, Segments: min(rows, 1), Partitions: min(rows, 1), Bytes: 10 * rows}
	}
	c.answer <- a
	return c.req
}

// job reads one when nothing moves any more.
func (w *world) job(n int) *catalogv1.Job {
	w.t.Helper()
	synctest.Wait()
	jobs, _, err := w.state.Jobs("", 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, j := range jobs {
		if j.GetJobId() == fmt.Sprintf("FL-%012x", n) {
			return j
		}
	}
	w.t.Fatalf("there is no job %d", n)
	return nil
}

func (w *world) check(n int, want string) *catalogv1.Job {
	w.t.Helper()
	j := w.job(n)
	got := catalog.JobStatusName(j.GetStatus())
	if j.GetMessage() != "" {
		got += ": " + j.GetMessage()
	}
	if got != want {
		w.t.Errorf("job %d is %s, want %s", n, got, want)
	}
	return j
}

func TestAFlushAsksEveryShardOfTheTable(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.must(`create_table { table { namespace: "app" name: "s" kind: TABLE_KIND_SHARED columns { name: "id" type { kind: TYPE_KIND_INT } primary_key: true not_null: true } } }`)
		defer w.lead(7).Follow()
		w.create(1, 1)
		for shard := range uint32(shards) {
			req := w.answer(uint64(shard)*600, nil) // the first has nothing
			if req.GetShard() != shard || req.GetTableId() != 1 || req.GetUserId() != "" || req.GetCatalogVersion() != w.state.Version() {
				t.Errorf("asked %v", req)
			}
		}
		j := w.check(1, "completed: flushed 1800 rows of 2 partitions into 2 segments (18000 bytes)")
		if p := j.GetProgress(); p.GetUnitsDone() != shards || p.GetUnitsTotal() != shards || j.GetNodeId() != 7 ||
			j.GetStartedAtUs() == 0 || j.GetFinishedAtUs() == 0 || j.GetError() != "" {
			t.Errorf("got %v", j)
		}
		w.create(2, 3)
		if req := w.answer(0, nil); req.GetShard() != shardmap.Even(shards).Table(3) {
			t.Errorf("of a SHARED table: asked %v", req)
		}
		w.check(2, "skipped: no pending writes")
	})
}

func TestACompactionAsksEveryShardOfTheTable(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.merges = map[uint32]*storagev1.CompactResponse{0: {SegmentsRemoved: 8, SegmentsAdded: 1, Partitions: 1, Rows: 500, RowsDropped: 40, Bytes: 20000}, 1: {},
			2: {SegmentsRemoved: 12, SegmentsAdded: 2, Partitions: 2, Rows: 700, Bytes: 28213}}
		defer w.lead(7).Follow()
		create := func(n int) {
			w.must(fmt.Sprintf(`create_job { job { job_id: "FL-%012x" type: "compact" namespace: "app" table_name: "t" table_id: 1 idempotency_key: %q } }`, n, catalog.CompactKey(1)))
		}
		create(1)
		p := w.check(1, "completed: merged 20 segments of 3 partitions into 3 (1200 rows, 40 dropped, 48213 bytes)").GetProgress()
		if p.GetUnitsDone() != shards || p.GetUnitsTotal() != shards {
			t.Errorf("got %v", p)
		}
		w.merges = map[uint32]*storagev1.CompactResponse{0: {}, 1: {}, 2: {}}
		create(2)
		w.check(2, "skipped: nothing to merge")
		w.merges = nil
		create(3)
		if j := w.check(3, "failed"); !strings.HasPrefix(j.GetError(), "compact shard 0: asked ") {
			t.Errorf("got %v", j)
		}
	})
}

func TestAMoveAsksUntilThereIsNoMore(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.moves = map[uint32][]*storagev1.MoveSegmentsResponse{0: {{Segments: 3, Partitions: 2, Rows: 30, Bytes: 300, More: true}, {Segments: 1, Partitions: 1, Rows: 4, Bytes: 40}},
			1: {{}}, 2: {{Segments: 1, Partitions: 1, Rows: 6, Bytes: 60}}}
		defer w.lead(7).Follow()
		create := func(n int) {
			w.must(fmt.Sprintf(`create_job { job { job_id: "FL-%012x" type: "move" namespace: "app" table_name: "t" table_id: 1 idempotency_key: %q } }`, n, catalog.MoveKey(1)))
		}
		create(1)
		w.check(1, "completed: moved 5 segments of 4 partitions (40 rows, 400 bytes)")
		w.moves = map[uint32][]*storagev1.MoveSegmentsResponse{0: {{}}, 1: {{}}, 2: {{}}}
		create(2)
		w.check(2, "skipped: every segment is where it belongs")
	})
}

func TestProgressIsToldWhileItRuns(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		defer w.lead(7).Follow()
		w.create(1, 1)
		first := <-w.calls
		if p := w.check(1, "running").GetProgress(); p.GetUnitsDone() != 0 {
			t.Errorf("before anything was done: %v", p)
		}
		time.Sleep(progressEvery) // the bubble's clock
		first.answer <- answer{resp: &storagev1.FlushResponse{Rows: 5, Segments: 1, Partitions: 1, Bytes: 50}}
		second := <-w.calls
		if p := w.check(1, "running").GetProgress(); p.GetUnitsDone() != 1 || p.GetUnitsTotal() != shards || p.GetRows() != 5 {
			t.Errorf("after one shard: %v", p)
		}
		entries := w.index
		second.answer <- answer{resp: &storagev1.FlushResponse{Rows: 1}}
		third := <-w.calls
		if w.job(1); w.index != entries {
			t.Error("progress was recorded twice in a second")
		}
		third.answer <- answer{resp: &storagev1.FlushResponse{}}
		w.check(1, "completed: flushed 6 rows of 1 partitions into 1 segments (50 bytes)")
	})
}

func TestWhatMayPassIsTriedAgainLaterAndLater(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		defer w.lead(7).Follow()
		w.create(1, 1)
		pauses := []time.Duration{backoffFirst, 4 * backoffFirst, 16 * backoffFirst}
		for i, code := range []dberr.Code{dberr.Unavailable, dberr.NotLeader, dberr.Timeout} {
			w.answer(10, nil)
			w.answer(0, dberr.New(code, "not now"))
			j := w.check(1, "retrying")
			if j.GetRetryCount() != uint32(i+1) || j.GetError() != "flush shard 1: not now" {
				t.Errorf("got %v", j)
			}
			time.Sleep(pauses[i] - time.Millisecond)
			w.check(1, "retrying")
			time.Sleep(time.Millisecond)
			w.check(1, "running")
		}
		w.answer(0, nil)
		w.answer(0, dberr.New(dberr.Unavailable, "not now either"))
		j := w.check(1, "failed")
		if j.GetRetryCount() != 3 || j.GetError() != "flush shard 1: not now either" || j.GetProgress().GetRows() != 30 {
			t.Errorf("got %v", j)
		}
	})
}

func TestRowsOfEarlierAttemptsAreCounted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		defer w.lead(7).Follow()
		w.create(1, 1)
		w.answer(10, nil)
		w.answer(0, dberr.New(dberr.Unavailable, "not now"))
		for range shards {
			w.answer(0, nil)
		}
		if p := w.check(1, "completed: flushed 10 rows of 1 partitions into 1 segments (100 bytes)").GetProgress(); p.GetUnitsDone() != shards {
			t.Errorf("got %v", p)
		}
	})
}

func TestWhatStaysWrongFailsAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		defer w.lead(7).Follow()
		w.create(1, 1)
		w.answer(0, dberr.New(dberr.Unsupported, "%s\xff", strings.Repeat("no", catalogstate.JobTextMax)))
		if j := w.check(1, "failed"); !strings.HasPrefix(j.GetError(), "flush shard 0: nono") || len(j.GetError()) != catalogstate.JobTextMax {
			t.Errorf("got %d bytes: %.40s", len(j.GetError()), j.GetError())
		}
		w.must(`create_job { job { job_id: "XX-000000000001" type: "other" } }`)
		synctest.Wait()
		if open, err := w.state.OpenJobs(); len(open) != 0 || err != nil {
			t.Errorf("a job of no known type is still there: %v, %v", open, err)
		}
	})
}

func TestACancelledJobIsCutShort(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		r := w.lead(7)
		defer r.Follow()
		w.create(1, 1)
		c := <-w.calls
		w.must(`update_job { job_id: "FL-000000000001" status: JOB_STATUS_CANCELLED message: "by root" }`)
		<-c.ctx.Done()
		w.check(1, "cancelled: by root")
		w.create(2, 1)
		c = <-w.calls
		w.must(`drop_table { namespace: "app" name: "t" }`)
		<-c.ctx.Done()
		w.check(2, "cancelled: cancelled: the table was dropped")
		if n := r.Running(); n != 0 {
			t.Errorf("%d still run", n)
		}
	})
}

func TestTheNextLeaderBeginsAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		first := w.lead(1)
		w.create(1, 1)
		w.answer(5, nil)
		c := <-w.calls
		first.Follow()
		if c.ctx.Err() == nil || first.Running() != 0 {
			t.Error("a node that no longer leads still flushes")
		}
		if j := w.check(1, "running"); j.GetNodeId() != 1 {
			t.Errorf("got %v", j)
		}
		second := w.lead(2)
		defer second.Follow()
		for range shards {
			w.answer(1, nil)
		}
		if j := w.job(1); j.GetStatus() != catalogv1.JobStatus_JOB_STATUS_COMPLETED || j.GetNodeId() != 2 || j.GetRetryCount() != 0 {
			t.Errorf("got %v", j)
		}
	})
}

func TestJobsWaitForAPlace(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for n := range jobsRunningMax + 2 {
			w.create(n, 0)
			time.Sleep(time.Second) // tells the older from the younger
		}
		r := w.lead(7)
		defer r.Follow()
		var calls []call
		for range jobsRunningMax {
			calls = append(calls, <-w.calls)
		}
		w.check(jobsRunningMax, "queued")
		w.check(jobsRunningMax+1, "queued")
		if n := r.Running(); n != jobsRunningMax {
			t.Errorf("%d run, want %d", n, jobsRunningMax)
		}
		calls[3].answer <- answer{err: dberr.New(dberr.Unsupported, "no")} // of whichever
		c := <-w.calls
		w.check(jobsRunningMax, "running")
		w.check(jobsRunningMax+1, "queued")
		c.answer <- answer{err: dberr.New(dberr.Unavailable, "later")} // what waits to be tried again leaves its place
		<-w.calls
		w.check(jobsRunningMax, "retrying")
		w.check(jobsRunningMax+1, "running")
	})
}

func TestWhatCouldNotBeRecordedIsRecordedLater(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		defer w.lead(7).Follow()
		w.create(1, 1)
		w.answer(1, nil)
		w.answer(1, nil)
		c := <-w.calls
		w.job(1) // is recorded as running
		w.mu.Lock()
		w.refuse = 2
		w.mu.Unlock()
		c.answer <- answer{resp: &storagev1.FlushResponse{Rows: 1}}
		time.Sleep(lookAgain)
		w.check(1, "running") // the catalog knows no better
		time.Sleep(lookAgain)
		w.check(1, "completed: flushed 3 rows of 2 partitions into 2 segments (20 bytes)")
	})
}
