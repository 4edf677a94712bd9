package live

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/live/internal/group"
	"github.com/kalamdb/kalamdb-go/services/live/internal/outbox"
	"github.com/kalamdb/kalamdb-go/services/live/internal/subscription"
)

// Defaults of Config.
const (
	// defaultSubscriptionsMax is what a node of two cores serves with about 100 MB.
	defaultSubscriptionsMax = 100_000
	// defaultQueueMessages and defaultQueueBytes hold what a busy partition changes in the seconds that
	// a gateway may need for a garbage collection or a reconnect.
	defaultQueueMessages = 16_384
	defaultQueueBytes    = 64 << 20
	// defaultBufferRows is spec 4.1 rule 5; what comes above it is read from the change log.
	defaultBufferRows       = 1024
	defaultBufferBytes      = 1 << 20
	defaultBufferTotalBytes = 64 << 20
	// defaultPageRows is well below what storage orders in a heap (10,000), and mostly more than the
	// megabyte that a page may hold.
	defaultPageRows         = 5000
	defaultPageTimeout      = time.Minute
	defaultOpenTimeout      = 10 * time.Second
	defaultProgressInterval = 5 * time.Second
	// defaultDrainTime spreads the reconnections of 100,000 subscriptions so that the other nodes take 20,000 a
	// second, and is well below what is usually granted to a process for stopping.
	defaultDrainTime = 5 * time.Second
	// progressIntervalMin bounds the cost of bookmarks, which visit every partition.
	progressIntervalMin = time.Second
)

// Config of the live role. The zero value works.
type Config struct {
	// Addr is where the role serves, Seeds are storage nodes: one that answers is enough to find all. Empty
	// means "live" and "storage", the names inside one process.
	Addr  string   `toml:"-"`
	Seeds []string `toml:"-"`
	// ServerID is this process in the catalog's list of nodes: when that says Draining, subscriptions are moved
	// away. Empty: the node belongs to no cluster.
	ServerID string `toml:"-"`

	SubscriptionsMax int             `toml:"max_subscriptions" doc:"subscriptions on one live node"`
	QueueMessages    int             `toml:"queue_messages" doc:"messages that may wait for one gateway; past it subscriptions end as lagged"`
	QueueBytes       int             `toml:"queue_bytes" doc:"bytes that may wait for one gateway"`
	BufferRows       int             `toml:"buffer_rows" doc:"changes kept in memory while one subscription gets its initial rows"`
	BufferBytes      int             `toml:"buffer_bytes" doc:"bytes of these changes"`
	BufferTotalBytes int             `toml:"buffer_total_bytes" doc:"bytes of these changes for all subscriptions"`
	PageRows         int             `toml:"page_rows" doc:"initial rows read by one scan"`
	PageTimeout      config.Duration `toml:"page_timeout" doc:"how long one scan of initial rows may take"`
	OpenTimeout      config.Duration `toml:"open_timeout" doc:"how long a subscription waits for storage and the catalog"`
	ProgressInterval config.Duration `toml:"progress_interval" doc:"least time between two bookmarks for an idle subscription, 1s or more"`
	DrainTime        config.Duration `toml:"drain_time" doc:"over how long subscriptions are moved to other nodes when this one stops or drains"`

	// Now is the clock; nil means time.Now.
	Now func() time.Time `toml:"-"`
	// Logger is used for faults; nil means slog.Default.
	Logger *slog.Logger `toml:"-"`
	// Metrics is where metrics are registered; nil means nowhere.
	Metrics prometheus.Registerer `toml:"-"`
}

// withDefaults fills in what is zero and refuses what makes no sense.
func (c Config) withDefaults() (Config, error) {
	setDefault(&c.Addr, "live")
	if len(c.Seeds) == 0 {
		c.Seeds = []string{"storage"}
	}
	setDefault(&c.SubscriptionsMax, defaultSubscriptionsMax)
	setDefault(&c.QueueMessages, defaultQueueMessages)
	setDefault(&c.QueueBytes, defaultQueueBytes)
	setDefault(&c.BufferRows, defaultBufferRows)
	setDefault(&c.BufferBytes, defaultBufferBytes)
	setDefault(&c.BufferTotalBytes, defaultBufferTotalBytes)
	setDefault(&c.PageRows, defaultPageRows)
	setDefault(&c.PageTimeout, config.Duration(defaultPageTimeout))
	setDefault(&c.OpenTimeout, config.Duration(defaultOpenTimeout))
	setDefault(&c.ProgressInterval, config.Duration(defaultProgressInterval))
	setDefault(&c.DrainTime, config.Duration(defaultDrainTime))
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	for name, n := range map[string]int{"max_subscriptions": c.SubscriptionsMax, "queue_messages": c.QueueMessages,
		"queue_bytes": c.QueueBytes, "buffer_rows": c.BufferRows, "buffer_bytes": c.BufferBytes,
		"buffer_total_bytes": c.BufferTotalBytes, "page_rows": c.PageRows} {
		if n < 0 {
			return c, dberr.New(dberr.InvalidArgument, "setting live.%s is negative", name)
		}
	}
	if c.PageTimeout < 0 || c.OpenTimeout < 0 || c.DrainTime < 0 || time.Duration(c.ProgressInterval) < progressIntervalMin {
		return c, dberr.New(dberr.InvalidArgument, "the times of section live may not be negative, and live.progress_interval not below %s", progressIntervalMin)
	}
	return c, nil
}

func setDefault[T comparable](dst *T, value T) {
	var zero T
	if *dst == zero {
		*dst = value
	}
}

func (c *Config) hub() group.Config {
	return group.Config{Log: c.Logger, Now: c.Now, SubscriptionsMax: c.SubscriptionsMax,
		Outbox: outbox.Limits{Messages: c.QueueMessages, Bytes: c.QueueBytes},
		Buffer: subscription.Limits{Rows: c.BufferRows, Bytes: c.BufferBytes}, BufferBytes: c.BufferTotalBytes,
		PageRows: c.PageRows, PageTimeout: time.Duration(c.PageTimeout), OpenTimeout: time.Duration(c.OpenTimeout),
		ProgressEvery: time.Duration(c.ProgressInterval)}
}
