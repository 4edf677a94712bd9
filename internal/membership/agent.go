package membership

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/pause"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
)

const (
	// incarnationBytes make a process's server id unlike that of the process before.
	incarnationBytes = 4
	// heartbeatTimeout bounds one report: the next one says the same, newer.
	heartbeatTimeout = 2 * time.Second
	// registerPause is the time between two attempts to register.
	registerPause = 500 * time.Millisecond
	// takenFor is how long a number that is taken is asked for again.
	takenFor = 30 * time.Second
)

// AgentConfig describes a node without data.
type AgentConfig struct {
	// Node is how it presents itself; node_id 0 asks for one, server_id is made here.
	Node *catalogv1.Node
	// Interval between heartbeats; zero means 1 s.
	Interval time.Duration
	// Load is what it serves now: clients, subscriptions or statements. It may be nil.
	Load   func() uint64
	Logger *slog.Logger
}

// Agent registers a node and reports until it is stopped. Make it with NewAgent, then Start.
type Agent struct {
	cfg     AgentConfig
	cluster clusterv1.ClusterServiceClient
	began   time.Time
	// takenFor is the constant, or a test's.
	takenFor time.Duration

	node   *catalogv1.Node // as registered
	cancel context.CancelFunc
	work   sync.WaitGroup

	failed chan struct{}
	err    error // set before failed is closed
}

// NewAgent makes an agent; conn leads to the catalog's leader.
func NewAgent(cfg AgentConfig, conn grpc.ClientConnInterface) *Agent {
	if cfg.Interval == 0 {
		cfg.Interval = time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Agent{cfg: cfg, cluster: clusterv1.NewClusterServiceClient(conn), takenFor: takenFor, failed: make(chan struct{})}
}

// Register enters the node into the catalog and returns its number. It tries until ctx ends, unless it is
// refused.
func (a *Agent) Register(ctx context.Context) (uint16, error) {
	raw := make([]byte, incarnationBytes)
	if _, err := rand.Read(raw); err != nil {
		return 0, dberr.New(dberr.Internal, "make a server id: %w", err)
	}
	a.began = time.Now()
	a.cfg.Node.ServerId = fmt.Sprintf("%s-%s", a.cfg.Node.GetRole(), hex.EncodeToString(raw))
	for {
		resp, err := a.cluster.Register(ctx, &clusterv1.RegisterRequest{Node: a.cfg.Node})
		if err == nil {
			a.node = resp.GetNode()
			return uint16(a.node.GetNodeId()), nil
		}
		// The number may still be that of the process before this one, for some seconds.
		taken := dberr.Is(err, dberr.AlreadyExists) && time.Since(a.began) < a.takenFor
		if !taken && !dberr.Is(err, dberr.Unavailable) && !dberr.Is(err, dberr.NotLeader) || ctx.Err() != nil {
			return 0, dberr.New(dberr.CodeOf(err), "register with the cluster: %w", err)
		}
		a.cfg.Logger.WarnContext(ctx, "register with the cluster, trying again", "error", err)
		_ = pause.For(ctx, registerPause) // the next attempt fails when ctx has ended
	}
}

// Start reports until Stop.
func (a *Agent) Start(ctx context.Context) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	a.cancel = cancel
	a.work.Go(func() { a.report(run) })
}

// Failed is closed when the cluster no longer wants this process; Err says why.
func (a *Agent) Failed() <-chan struct{} { return a.failed }

// Err is why the agent failed; read it after Failed is closed.
func (a *Agent) Err() error {
	select {
	case <-a.failed:
		return a.err
	default:
		return nil
	}
}

func (a *Agent) report(ctx context.Context) {
	tick := time.NewTicker(a.cfg.Interval)
	defer tick.Stop()
	for {
		err := a.heartbeat(ctx, false)
		switch {
		case ctx.Err() != nil:
			return
		case dberr.Is(err, dberr.NotFound):
			a.err = dberr.New(dberr.NotFound, "node %d was removed from the cluster, or another process has its number: %w", a.node.GetNodeId(), err)
			close(a.failed)
			return
		case err != nil:
			a.cfg.Logger.WarnContext(ctx, "report to the cluster", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) heartbeat(ctx context.Context, stopping bool) error {
	ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
	defer cancel()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "" // for people only
	}
	report := &clusterv1.NodeReport{UptimeMs: time.Since(a.began).Milliseconds(), MemoryBytes: mem.Sys, Hostname: hostname,
		Os: runtime.GOOS, Arch: runtime.GOARCH, Stopping: stopping}
	if a.cfg.Load != nil {
		report.Load = a.cfg.Load()
	}
	_, err = a.cluster.Heartbeat(ctx, &clusterv1.HeartbeatRequest{NodeId: a.node.GetNodeId(), ServerId: a.node.GetServerId(), Report: report})
	return err
}

// Leave says that the node stops, so that nobody waits for it, and ends the reports. ctx bounds it.
func (a *Agent) Leave(ctx context.Context) {
	if a.cancel == nil {
		return
	}
	a.cancel()
	a.work.Wait()
	if err := a.heartbeat(ctx, true); err != nil {
		a.cfg.Logger.WarnContext(ctx, "say that this node stops", "error", err)
	}
}
