// Package job runs the jobs of the catalog, on the leader of group 0.
//
// A job is state of the catalog. Here is only what runs now: whoever leads next finds the jobs that have not ended and
// begins them again, so what a job does must be harmless to repeat.
package job

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// jobsRunningMax is how many jobs run at a time: each one asks one shard after the other, and leaves them room for writes.
const jobsRunningMax = 10

// Catalog is the catalog's local state.
type Catalog interface {
	// OpenJobs are the jobs that have not ended, the oldest first.
	OpenJobs() ([]*catalogv1.Job, error)
	// JobsMoved gets a token when one was made or has moved.
	JobsMoved() <-chan struct{}
	Table(id uint32) (*catalog.Table, bool)
	Cluster() (id string, shards uint32)
	Version() uint64
	// Erasure is the receipt of a job that erases, nil when there is none.
	Erasure(job string) (*catalogv1.Erasure, error)
	Nodes() []*catalogv1.Node
}

// Commands changes the catalog.
type Commands interface {
	Apply(ctx context.Context, req *catalogv1.ApplyRequest) (*catalogv1.ApplyResponse, error)
}

// Config describes a runner.
type Config struct {
	Catalog  Catalog
	Commands Commands
	// Flush, Compact and Move ask the leader of a shard.
	Flush   func(ctx context.Context, req *storagev1.FlushRequest) (*storagev1.FlushResponse, error)
	Compact func(ctx context.Context, req *storagev1.CompactRequest) (*storagev1.CompactResponse, error)
	Move    func(ctx context.Context, req *storagev1.MoveSegmentsRequest) (*storagev1.MoveSegmentsResponse, error)
	// Users erases users.
	Users Users
	// Whole are the jobs that are not asked of one shard of a table after the other, by their types.
	Whole map[string]Whole
	// NodeID is this node's.
	NodeID uint32
	Now    func() time.Time
	Logger *slog.Logger
}

// Whole does the work of a job. It changes p and calls tell, which never waits long, when there is something to see; message says what was
// done. It may have recorded the end of the job itself.
type Whole func(ctx context.Context, j *catalogv1.Job, p *catalogv1.JobProgress, tell func()) (message string, err error)

// Runner runs jobs while this node leads group 0.
type Runner struct {
	cfg     Config
	running atomic.Int64

	// leading serializes Lead and Follow.
	leading sync.Mutex
	cancel  context.CancelFunc // of the term; nil while following
	work    sync.WaitGroup
}

// New makes a runner; Lead starts it.
func New(cfg Config) *Runner { return &Runner{cfg: cfg} }

// Lead begins to run jobs: this node leads group 0. ctx carries values only; Follow ends it.
func (r *Runner) Lead(ctx context.Context) {
	r.leading.Lock()
	defer r.leading.Unlock()
	r.end()
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	t := &term{cfg: r.cfg, count: &r.running, running: map[string]context.CancelFunc{},
		ended: make(chan string, jobsRunningMax)}
	r.work.Go(func() { t.run(ctx) })
}

// Follow ends what Lead began, and waits for the jobs that run, which are cut short: the next leader begins them again.
func (r *Runner) Follow() {
	r.leading.Lock()
	defer r.leading.Unlock()
	r.end()
}

func (r *Runner) end() {
	if r.cancel != nil {
		r.cancel()
		r.cancel = nil
		r.work.Wait()
	}
}

// Running is how many jobs run here.
func (r *Runner) Running() int { return int(r.running.Load()) }
