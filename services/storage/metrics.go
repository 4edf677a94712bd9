package storage

import (
	"strconv"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/shard"
)

// metrics are the role's Prometheus metrics. Gauges are read when they are asked for.
type metrics struct {
	node       *Storage
	registry   prometheus.Registerer
	writes     *prometheus.HistogramVec
	batch      prometheus.Histogram
	batchBytes prometheus.Histogram
	flushes    *prometheus.HistogramVec
	merges     *prometheus.HistogramVec
	moved      *prometheus.CounterVec
}

var (
	descApplied  = groupDesc("raft_applied_index", "Index of the last entry applied.")
	descLast     = groupDesc("raft_last_index", "Index of the last entry in the log.")
	descSnapshot = groupDesc("raft_snapshot_index", "Index of the last snapshot: the log before it may be gone.")
	descTerm     = groupDesc("raft_term", "Raft's term.")
	descLeader   = groupDesc("raft_leader", "1 while this node leads the group.")
	descCommit   = groupDesc("raft_commit_index", "Index of the last entry this replica knows to be committed.")
	descContact  = groupDesc("raft_last_contact_seconds", "Time since this replica heard of its leader; 0 on the leader.")
	descBytes    = groupDesc("group_bytes", "Estimated bytes of a shard's state on this node.")
	descChanges  = groupDesc("raft_member_changes_total", "Changes of the group's members this node made as its leader.")
	descState    = prometheus.NewDesc("kalamdb_storage_raft_state", "1 for the state the replica is in.", []string{"group", "state"}, nil)
	descOpened   = prometheus.NewDesc("kalamdb_storage_replicas_opened_total", "Replicas of shards this process opened.", nil, nil)
	descRemoved  = prometheus.NewDesc("kalamdb_storage_replicas_destroyed_total", "Replicas of shards that were placed elsewhere and removed here.", nil, nil)
	descJobs     = prometheus.NewDesc("kalamdb_storage_jobs_running", "Jobs that run on this node because it leads the catalog.", nil, nil)
	descSeqAhead = groupDesc("seq_ahead_seconds", "How far a shard's _seq is ahead of this node's clock.")
	descDisk     = storeDesc("store_disk_bytes", "Bytes of a store on disk.")
	descMemTable = storeDesc("store_memtable_bytes", "Bytes of a store's memtables.")
	descDebt     = storeDesc("store_compaction_debt_bytes", "Estimate of what a store still has to compact.")
	descFailed   = prometheus.NewDesc("kalamdb_storage_failed", "1 when the disk failed and the node serves nothing.", nil, nil)
)

func groupDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("kalamdb_storage_"+name, help, []string{"group"}, nil)
}

func storeDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("kalamdb_storage_"+name, help, []string{"store"}, nil)
}

func newMetrics(s *Storage) *metrics {
	return &metrics{node: s,
		writes: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kalamdb_storage_write_seconds",
			Help: "Time from receiving a write to answering it, by dberr code (ok when it succeeded).", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)}, []string{"code"}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kalamdb_storage_apply_commands",
			Help: "Commands applied in one batch.", Buckets: prometheus.ExponentialBuckets(1, 2, 11)}),
		batchBytes: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kalamdb_storage_apply_bytes",
			Help: "Bytes of one batch applied.", Buckets: prometheus.ExponentialBuckets(256, 4, 10)}),
		flushes: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kalamdb_storage_flush_seconds",
			Help: "Time of a flush of a partition or a table's part in a shard, by dberr code.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 18)}, []string{"code"}),
		merges: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kalamdb_storage_merge_seconds",
			Help: "Time of merging segments, by dberr code.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 18)}, []string{"code"}),
		moved: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kalamdb_storage_segments_total",
			Help: "What flushes and merges wrote: segments, rows, bytes; dropped counts the versions of rows that merging or forgetting removed."}, []string{"by", "what"}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	if err := r.Register(m); err != nil {
		return dberr.New(dberr.Internal, "register the storage role's metrics: %w", err)
	}
	m.registry = r
	return nil
}

func (m *metrics) unregister() {
	if m.registry != nil {
		m.registry.Unregister(m)
	}
}

// wrote observes one write.
func (m *metrics) wrote(began time.Time, err error) {
	m.writes.WithLabelValues(codeLabel(err)).Observe(time.Since(began).Seconds())
}

// applied observes one batch.
func (m *metrics) applied(commands, bytes int) {
	m.batch.Observe(float64(commands))
	m.batchBytes.Observe(float64(bytes))
}

// flushed observes a flush.
func (m *metrics) flushed(began time.Time, f shard.Flushed, err error) {
	m.flushes.WithLabelValues(codeLabel(err)).Observe(time.Since(began).Seconds())
	m.moved.WithLabelValues("flush", "segments").Add(float64(f.Segments))
	m.moved.WithLabelValues("flush", "rows").Add(float64(f.Rows))
	m.moved.WithLabelValues("flush", "bytes").Add(float64(f.Bytes))
}

// merged observes a merge.
func (m *metrics) merged(began time.Time, o shard.Merged, err error) {
	m.merges.WithLabelValues(codeLabel(err)).Observe(time.Since(began).Seconds())
	m.moved.WithLabelValues("merge", "segments").Add(float64(o.Added))
	m.moved.WithLabelValues("merge", "rows").Add(float64(o.Rows - o.Dropped))
	m.moved.WithLabelValues("merge", "dropped").Add(float64(o.Dropped))
	m.moved.WithLabelValues("merge", "bytes").Add(float64(o.Bytes))
}

// forgot counts versions of rows that went for good.
func (m *metrics) forgot(versions uint64) {
	m.moved.WithLabelValues("forget", "dropped").Add(float64(versions))
}

func codeLabel(err error) string {
	if err != nil {
		return string(dberr.CodeOf(err))
	}
	return "ok"
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	m.writes.Describe(out)
	m.batch.Describe(out)
	m.batchBytes.Describe(out)
	m.flushes.Describe(out)
	m.merges.Describe(out)
	m.moved.Describe(out)
	for _, d := range []*prometheus.Desc{descApplied, descLast, descSnapshot, descTerm, descLeader, descCommit, descContact, descBytes,
		descChanges, descState, descOpened, descRemoved, descJobs, descSeqAhead, descDisk, descMemTable, descDebt, descFailed} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	m.writes.Collect(out)
	m.batch.Collect(out)
	m.batchBytes.Collect(out)
	m.flushes.Collect(out)
	m.merges.Collect(out)
	m.moved.Collect(out)
	failed := m.node.failure.failed()
	gauge(out, descFailed, boolean(failed))
	if failed {
		return // the stores may stand still
	}
	collectGroup(out, "catalog", m.node.catalogGroup.get())
	for _, r := range m.node.replicas.All() {
		name := strconv.FormatUint(uint64(r.Shard.ID()), 10)
		collectGroup(out, name, r.Group)
		gauge(out, descSeqAhead, r.Shard.SeqAhead().Seconds(), name)
		if n, err := m.node.shardBytes(r.Shard.ID()); err == nil { // else there is no figure
			gauge(out, descBytes, float64(n), name)
		}
	}
	opened, destroyed := m.node.replicas.Counts()
	out <- prometheus.MustNewConstMetric(descOpened, prometheus.CounterValue, float64(opened))
	out <- prometheus.MustNewConstMetric(descRemoved, prometheus.CounterValue, float64(destroyed))
	gauge(out, descJobs, float64(m.node.jobs.Running()))
	collectStore(out, "hot", m.node.hot.Metrics())
	collectStore(out, "raft", m.node.raftLog.Metrics())
}

func collectGroup(out chan<- prometheus.Metric, name string, g *raftgroup.Group) {
	s := g.Stats()
	gauge(out, descApplied, float64(s.Applied), name)
	gauge(out, descLast, float64(s.LastIndex), name)
	gauge(out, descSnapshot, float64(s.SnapshotAt), name)
	gauge(out, descTerm, float64(s.Term), name)
	gauge(out, descLeader, boolean(g.Term() != 0), name)
	gauge(out, descCommit, float64(s.Commit), name)
	gauge(out, descState, 1, name, s.State)
	if ago, ok := g.LastContact(); ok {
		gauge(out, descContact, ago.Seconds(), name)
	}
	out <- prometheus.MustNewConstMetric(descChanges, prometheus.CounterValue, float64(g.Changes()), name)
}

func collectStore(out chan<- prometheus.Metric, name string, s *pebble.Metrics) {
	gauge(out, descDisk, float64(s.DiskSpaceUsage()), name)
	gauge(out, descMemTable, float64(s.MemTable.Size), name)
	gauge(out, descDebt, float64(s.Compact.EstimatedDebt), name)
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
