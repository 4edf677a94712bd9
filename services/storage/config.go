package storage

import (
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/keyring"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftlog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/segment"
)

// Defaults of Config. They suit one node of two cores that runs every role.
const (
	defaultShards        = 8
	defaultCacheBytes    = 128 << 20
	defaultMemTableBytes = 64 << 20
	defaultSegmentCache  = 64 << 20
	defaultRemoteCache   = 4 << 30
	defaultFlushCheck    = time.Second
	defaultFlushWorkers  = 2
	defaultForget        = time.Hour
	defaultHotBytes      = 8 << 30
	defaultUserRetention = 30 * 24 * time.Hour
	defaultRetention     = 24 * time.Hour
	defaultPruneInterval = 10 * time.Minute
	defaultStreamBytes   = 256 << 20
	defaultRole          = "storage"
	defaultReplication   = 3
	defaultExpect        = 1
	defaultOfflineAfter  = 3 * time.Second
	defaultReplaceAfter  = 5 * time.Minute
	defaultHeartbeat     = time.Second
)

// nodeMax is the highest NodeID: the upper half of the snowflake node numbers belongs to query nodes.
const nodeMax = 511

// memTableBytesMin and memTableBytesMax bound the sizes of memtables: Pebble's own limit is 4 GB.
const (
	memTableBytesMin = 64 << 10
	memTableBytesMax = 1 << 30
)

// memTablesMax is how many memtables may wait to be flushed before writers wait for the disk.
const memTablesMax = 4

// Config of the storage role. The zero value works.
type Config struct {
	// Dir holds everything the role stores. Empty means "data".
	Dir string `toml:"-"`
	// FS is the file system; nil means the real one. On another one the catalog, whose library needs
	// real files, lives in a temporary directory and is rebuilt from its log by each start.
	FS vfs.FS `toml:"-"`
	// Addr is where the role serves, RaftAddr where Raft does. Empty means "storage" and Addr + "/raft",
	// the names inside one process.
	Addr     string `toml:"-"`
	RaftAddr string `toml:"-"`
	// AdvertiseAddr and RaftAdvertiseAddr are where other nodes reach Addr and RaftAddr. Empty means the same.
	AdvertiseAddr     string `toml:"-"`
	RaftAdvertiseAddr string `toml:"-"`
	// NodeID tells nodes apart, 0 to 511; it is part of every _seq and SNOWFLAKE_ID(). 0 is for a node that
	// makes its own cluster.
	NodeID uint16 `toml:"-"`

	// Role is how the node registers: "storage", or "allinone" when the process has every role. Empty means storage.
	Role string `toml:"-"`
	// Version is the program's, for people.
	Version string `toml:"-"`
	// Join lists addresses of storage nodes. Empty means that a new node makes its own cluster at once.
	Join []string `toml:"-"`
	// BootstrapExpect is how many new nodes, this one included, make a cluster when none of Join belongs to one.
	// With others in Join it is at least 2: a node alone may have lost its disk.
	BootstrapExpect int `toml:"-"`
	// ReplicationFactor is that of a cluster this node makes: replicas of a group, 1 to 7.
	ReplicationFactor uint32 `toml:"-"`
	// Zone is what may fail together: replicas of a group are spread over zones.
	Zone string `toml:"-"`
	// OfflineAfter without a heartbeat a node is Offline; ReplaceAfter that, its replicas are placed elsewhere.
	OfflineAfter config.Duration `toml:"-"`
	ReplaceAfter config.Duration `toml:"-"`
	// HeartbeatInterval is how often nodes report.
	HeartbeatInterval config.Duration `toml:"-"`

	// Master wraps the cluster key, as a key management service does; nil means the key in MasterKey.
	Master keyring.Master `toml:"-"`

	MasterKey             string          `toml:"master_key" env:"KALAMDB_MASTER_KEY" secret:"true" doc:"wraps the key that seals stored secrets and backups: 32 bytes in base64, the same on all storage nodes"`
	MasterKeyFile         string          `toml:"master_key_file" env:"KALAMDB_MASTER_KEY_FILE" fileof:"master_key" doc:"file that holds storage.master_key"`
	PreviousMasterKey     string          `toml:"previous_master_key" env:"KALAMDB_PREVIOUS_MASTER_KEY" secret:"true" doc:"the master key before this one, while it is being changed"`
	PreviousMasterKeyFile string          `toml:"previous_master_key_file" env:"KALAMDB_PREVIOUS_MASTER_KEY_FILE" fileof:"previous_master_key" doc:"file that holds storage.previous_master_key"`
	BackupPaths           []string        `toml:"backup_paths" doc:"folders that backups may be in, the same on all storage nodes; a relative path of a statement lies in the first; empty: backups in the data directory"`
	Shards                uint32          `toml:"shards" doc:"shards of a new cluster, 1 to 1024; fixed from then on"`
	CacheBytes            int64           `toml:"cache_bytes" doc:"block cache of the hot store"`
	MemTableBytes         uint64          `toml:"memtable_bytes" doc:"size of one memtable of the hot store, 64 KiB to 1 GiB; up to four exist"`
	LogMemTableBytes      uint64          `toml:"log_memtable_bytes" doc:"size of one memtable of the Raft log, 64 KiB to 1 GiB; a start replays up to four"`
	SegmentRows           int             `toml:"segment_rows" doc:"rows of a segment that a flush writes, 1 to 65536"`
	SegmentCacheBytes     int64           `toml:"segment_cache_bytes" doc:"decoded row groups of segments that are kept in memory"`
	RemoteCacheBytes      int64           `toml:"remote_cache_bytes" doc:"files of storages (CREATE STORAGE) that are kept on this node's disk"`
	EndpointsAllowed      []string        `toml:"endpoints_allowed" doc:"hosts and networks that storages may be at (host, host:port, *.domain, 10.0.0.0/8); empty: any public address. Addresses inside of a network must be listed"`
	PathsAllowed          []string        `toml:"paths_allowed" doc:"folders below which storages of type filesystem may be; empty: any but the system's"`
	FlushCheckInterval    config.Duration `toml:"flush_check_interval" doc:"how often partitions are looked at whose rows are due to move to segments"`
	HotBytesMax           int64           `toml:"hot_bytes_max" doc:"size of the hot store on disk above which tables are flushed whatever their policies; negative = no limit"`
	FlushWorkers          int             `toml:"flush_workers" doc:"partitions of a node that are flushed at a time"`
	ForgetInterval        config.Duration `toml:"forget_interval" doc:"how often deleted rows are looked for whose retention is over"`
	ChangeLogRetention    config.Duration `toml:"change_log_retention" doc:"how long changes can be resumed from"`
	PruneInterval         config.Duration `toml:"prune_interval" doc:"how often the change log is pruned"`
	StreamMemoryBytes     int64           `toml:"stream_memory_bytes" doc:"memory of all STREAM tables of the node"`
	UserRetention         string          `toml:"user_retention" doc:"how long a dropped user can be restored before everything of the user is erased, at least 0s; empty means 720h"`
	HeartbeatTimeout      config.Duration `toml:"heartbeat_timeout" doc:"how long a replica waits for its leader before it holds an election"`
	SnapshotInterval      config.Duration `toml:"snapshot_interval" doc:"how often a group checks whether its log should be truncated"`
	SnapshotThreshold     uint64          `toml:"snapshot_threshold" doc:"entries after which the log is truncated"`
	SnapshotBytes         int64           `toml:"snapshot_bytes" doc:"bytes after which the log is truncated"`
	TrailingLogs          uint64          `toml:"trailing_logs" doc:"entries kept when the log is truncated"`

	// Now is the clock; nil means time.Now. Steady is one that does not jump, for how long ago something was heard; nil
	// means Now, as the values of time.Now carry a steady reading too. Rand makes UUIDs and ULIDs; nil means crypto/rand.
	Now    func() time.Time `toml:"-"`
	Steady func() time.Time `toml:"-"`
	Rand   io.Reader        `toml:"-"`
	// Metrics registers the role's metrics; nil means none.
	Metrics prometheus.Registerer `toml:"-"`
	Logger  *slog.Logger          `toml:"-"`

	// userRetention is UserRetention as withDefaults has read it.
	userRetention time.Duration
}

func (c Config) withDefaults() (Config, error) {
	c.Dir, c.Addr = orDefault(c.Dir, "data"), orDefault(c.Addr, "storage")
	c.RaftAddr = orDefault(c.RaftAddr, c.Addr+"/raft")
	c.AdvertiseAddr, c.RaftAdvertiseAddr = orDefault(c.AdvertiseAddr, c.Addr), orDefault(c.RaftAdvertiseAddr, c.RaftAddr)
	c.Role, c.BootstrapExpect = orDefault(c.Role, defaultRole), orDefault(c.BootstrapExpect, defaultExpect)
	c.ReplicationFactor = orDefault(c.ReplicationFactor, defaultReplication)
	c.OfflineAfter = orDefault(c.OfflineAfter, config.Duration(defaultOfflineAfter))
	c.ReplaceAfter = orDefault(c.ReplaceAfter, config.Duration(defaultReplaceAfter))
	c.HeartbeatInterval = orDefault(c.HeartbeatInterval, config.Duration(defaultHeartbeat))
	c.Shards = orDefault(c.Shards, defaultShards)
	c.CacheBytes = orDefault(c.CacheBytes, defaultCacheBytes)
	c.MemTableBytes = orDefault(c.MemTableBytes, defaultMemTableBytes)
	c.LogMemTableBytes = orDefault(c.LogMemTableBytes, raftlog.DefaultMemTableBytes)
	c.SegmentRows = orDefault(c.SegmentRows, segment.RowsMax)
	c.SegmentCacheBytes = orDefault(c.SegmentCacheBytes, defaultSegmentCache)
	c.RemoteCacheBytes = orDefault(c.RemoteCacheBytes, defaultRemoteCache)
	c.FlushCheckInterval = orDefault(c.FlushCheckInterval, config.Duration(defaultFlushCheck))
	c.HotBytesMax = orDefault(c.HotBytesMax, defaultHotBytes)
	c.FlushWorkers = orDefault(c.FlushWorkers, defaultFlushWorkers)
	c.ForgetInterval = orDefault(c.ForgetInterval, config.Duration(defaultForget))
	c.ChangeLogRetention = orDefault(c.ChangeLogRetention, config.Duration(defaultRetention))
	c.PruneInterval = orDefault(c.PruneInterval, config.Duration(defaultPruneInterval))
	c.StreamMemoryBytes = orDefault(c.StreamMemoryBytes, defaultStreamBytes)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Steady == nil {
		c.Steady = c.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Shards > shardmap.Slots {
		return c, dberr.New(dberr.InvalidArgument, "shards = %d: at most %d are possible", c.Shards, shardmap.Slots)
	}
	if err := errors.Join(checkMemTable("memtable_bytes", c.MemTableBytes), checkMemTable("log_memtable_bytes", c.LogMemTableBytes)); err != nil {
		return c, err
	}
	c.userRetention = defaultUserRetention
	if c.UserRetention != "" {
		var err error
		if c.userRetention, err = time.ParseDuration(c.UserRetention); err != nil || c.userRetention < 0 {
			return c, dberr.New(dberr.InvalidArgument, "storage.user_retention = %q: it must be a duration of at least 0s, such as 720h", c.UserRetention)
		}
	}
	if c.FlushWorkers < 1 || c.FlushCheckInterval < 0 || c.ForgetInterval < 0 || c.SegmentCacheBytes < 0 {
		return c, dberr.New(dberr.InvalidArgument, "storage.flush_workers = %d, flush_check_interval = %s, forget_interval = %s, segment_cache_bytes = %d: none may be negative",
			c.FlushWorkers, time.Duration(c.FlushCheckInterval), time.Duration(c.ForgetInterval), c.SegmentCacheBytes)
	}
	if c.RemoteCacheBytes < 0 {
		return c, dberr.New(dberr.InvalidArgument, "storage.remote_cache_bytes = %d: it may not be negative", c.RemoteCacheBytes)
	}
	if c.SegmentRows < 1 || c.SegmentRows > segment.RowsMax {
		return c, dberr.New(dberr.InvalidArgument, "storage.segment_rows = %d: it must be 1 to %d", c.SegmentRows, segment.RowsMax)
	}
	if c.NodeID > nodeMax {
		return c, dberr.New(dberr.InvalidArgument, "node id %d is above %d", c.NodeID, nodeMax)
	}
	if len(c.Join) > 0 && c.NodeID == 0 {
		return c, dberr.New(dberr.InvalidArgument, "a storage node that joins others (cluster.join) needs a node id of its own, 1 to %d (cluster.node_id)", nodeMax)
	}
	for _, p := range c.BackupPaths {
		if !filepath.IsAbs(p) {
			return c, dberr.New(dberr.InvalidArgument, "storage.backup_paths: %q is not absolute", p)
		}
	}
	return c, nil
}

func checkMemTable(setting string, bytes uint64) error {
	if bytes < memTableBytesMin || bytes > memTableBytesMax {
		return dberr.New(dberr.InvalidArgument, "storage.%s = %d: it must be %d to %d", setting, bytes, memTableBytesMin, memTableBytesMax)
	}
	return nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func (c *Config) raftSettings() raftgroup.Settings {
	return raftgroup.Settings{HeartbeatTimeout: time.Duration(c.HeartbeatTimeout), SnapshotInterval: time.Duration(c.SnapshotInterval),
		SnapshotThreshold: c.SnapshotThreshold, SnapshotBytes: c.SnapshotBytes, TrailingLogs: c.TrailingLogs}
}
