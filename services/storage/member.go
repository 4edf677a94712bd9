package storage

import (
	"context"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	clusterv1 "github.com/kalamdb/kalamdb-go/proto/cluster/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/replica"
)

const (
	// bytesEvery is how many reports share one estimate of a group's bytes, which looks at every file.
	bytesEvery = 10
	// heartbeatTimeout bounds one report: the next one says the same, newer.
	heartbeatTimeout = 2 * time.Second
)

// reporter is what reports need from one to the next.
type reporter struct {
	stopping atomic.Bool

	// mu guards what follows: a report is made by heartbeats and by the last words before stopping.
	mu      sync.Mutex
	began   time.Time
	count   int
	bytes   map[uint32]uint64
	applied map[uint32]uint64
	at      time.Time
}

// register enters the node into the catalog with its present addresses.
func (s *Storage) register(ctx context.Context) (*clusterv1.RegisterResponse, error) {
	return clusterv1.NewClusterServiceClient(s.router.Catalog()).Register(ctx,
		&clusterv1.RegisterRequest{Node: s.node(), ClusterId: s.identity.ClusterID})
}

// report registers the node, whose addresses may be new, and then sends heartbeats until ctx ends.
func (s *Storage) report(ctx context.Context) {
	interval := time.Duration(s.cfg.HeartbeatInterval)
	// Node 0 has no number to register by: it made its cluster, whose first entry names it.
	registered := s.identity.NodeID == 0
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		var err error
		if !registered {
			if _, err = s.register(ctx); err == nil {
				registered = true
			}
		}
		if registered {
			err = s.heartbeat(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return
		case dberr.Is(err, dberr.NotFound), dberr.Is(err, dberr.AlreadyExists):
			s.failure.expel(dberr.New(dberr.CodeOf(err), "this node is no longer part of its cluster: %w", err))
			return
		case err != nil:
			s.cfg.Logger.WarnContext(ctx, "report to the cluster", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// reportMeanwhile reports until the result is called: a node that nobody hears of is given nothing, the catalog it waits
// for neither.
func (s *Storage) reportMeanwhile(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var reporting sync.WaitGroup
	reporting.Go(func() { s.report(ctx) })
	return func() {
		cancel()
		reporting.Wait()
	}
}

func (s *Storage) heartbeat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
	defer cancel()
	report, err := s.nodeReport()
	if err != nil {
		return err
	}
	_, err = clusterv1.NewClusterServiceClient(s.router.Catalog()).Heartbeat(ctx, &clusterv1.HeartbeatRequest{
		NodeId: uint32(s.identity.NodeID), ServerId: s.identity.ServerID, Process: s.process, Report: report})
	return err
}

// nodeReport is what this node says of itself.
func (s *Storage) nodeReport() (*clusterv1.NodeReport, error) {
	r := &s.reporter
	r.mu.Lock()
	defer r.mu.Unlock()
	now := s.cfg.Steady()
	if r.bytes == nil {
		r.began, r.at, r.bytes, r.applied = now, now, map[uint32]uint64{}, map[uint32]uint64{}
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "" // for people only
	}
	report := &clusterv1.NodeReport{UptimeMs: now.Sub(r.began).Milliseconds(), MemoryBytes: mem.Sys, Hostname: hostname,
		Os: runtime.GOOS, Arch: runtime.GOARCH, Stopping: r.stopping.Load(),
		DiskUsedBytes: s.hot.Metrics().DiskSpaceUsage() + s.raftLog.Metrics().DiskSpaceUsage()}
	if err := s.addGroup(report, catalogGroup, s.catalogGroup.get(), 0); err != nil {
		return nil, err
	}
	seconds := now.Sub(r.at).Seconds()
	var replicas []*replica.Replica
	if s.replicas != nil { // not while the node waits for its catalog
		replicas = s.replicas.All()
	}
	for _, rep := range replicas {
		group, applied := replica.FirstShardGroup+rep.Shard.ID(), rep.Shard.Applied()
		if r.count%bytesEvery == 0 || r.bytes[group] == 0 {
			if r.bytes[group], err = s.shardBytes(rep.Shard.ID()); err != nil {
				return nil, err
			}
		}
		if err := s.addGroup(report, group, rep.Group, r.bytes[group]); err != nil {
			return nil, err
		}
		// Asked behind the applied index: who has seen an entry knows what it lacks.
		report.Groups[len(report.Groups)-1].SegmentsMissing = s.missing.in(rep.Shard.ID())
		if before, ok := r.applied[group]; ok && seconds > 0 && applied > before {
			report.Groups[len(report.Groups)-1].WritesPerSecond = uint64(float64(applied-before) / seconds)
		}
		r.applied[group] = applied
	}
	r.count, r.at = r.count+1, now
	return report, nil
}

func (s *Storage) addGroup(report *clusterv1.NodeReport, number uint32, g *raftgroup.Group, bytes uint64) error {
	one, err := replica.Report(number, s.identity.ServerID, g)
	if err != nil {
		return err
	}
	one.Bytes = bytes
	report.Groups = append(report.Groups, one)
	return nil
}

// shardBytes estimates what a shard has on disk.
func (s *Storage) shardBytes(shard uint32) (total uint64, err error) {
	for _, span := range keycodec.ShardSpans(shard) {
		n, err := s.hot.EstimateDiskUsage(span.Start, span.End)
		if err != nil {
			return 0, dberr.New(dberr.Unavailable, "estimate the size of shard %d: %w", shard, err)
		}
		total += n
	}
	return total, nil
}
