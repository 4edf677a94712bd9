package query

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Defaults of Config. They suit one node of two cores that runs every role.
const (
	defaultStatementTimeout   = 30 * time.Second  // spec 1.1
	defaultTransactionTimeout = 300 * time.Second // spec 1.11
	defaultRowsMax            = 10_000
	// defaultResultBytesMax keeps an answer well below the largest message between roles (128 MiB).
	defaultResultBytesMax = 64 << 20
	// defaultStatementsMax is more than the cores can work on at a time: most statements wait for the
	// disk. What waits beyond it costs a goroutine and its text.
	defaultStatementsMax        = 256
	defaultStatementsWaitingMax = 4096
	defaultSQLBytesMax          = 1 << 20 // spec 1.1
	defaultEngineMemoryBytes    = 512 << 20
	defaultEngineThreads        = 2
	defaultEngineConnections    = 16
)

// nodeMax is the highest NodeID. Snowflake ids have 1,024 node numbers: the lower half belongs to
// storage nodes, which fill in DEFAULT SNOWFLAKE_ID(), the upper half to query nodes, which compute
// SNOWFLAKE_ID() in statements. So the two never give out the same id.
const (
	nodeMax      = 511
	queryNodeBit = 512
)

// Config of the query role. The zero value works.
type Config struct {
	// Addr is where the role serves; Seeds are storage nodes, one of which must answer; Live is the live node
	// while the catalog names none. Empty means "query", "storage" and "live", the names inside one
	// process.
	Addr  string   `toml:"-"`
	Seeds []string `toml:"-"`
	Live  string   `toml:"-"`
	// NodeID tells nodes apart, 0 to 511.
	NodeID uint16 `toml:"-"`

	StatementTimeout     config.Duration `toml:"statement_timeout" doc:"how long one statement may run"`
	TransactionTimeout   config.Duration `toml:"transaction_timeout" doc:"how long all statements from BEGIN to COMMIT may run"`
	RowsMax              uint64          `toml:"rows_max" doc:"rows returned by one statement; more must be streamed"`
	ResultBytesMax       int             `toml:"result_bytes_max" doc:"bytes returned by one request; more must be streamed"`
	StatementsMax        int             `toml:"statements_max" doc:"requests that run at the same time"`
	StatementsWaitingMax int             `toml:"statements_waiting_max" doc:"requests that wait for their turn; more are refused"`
	SQLBytesMax          int             `toml:"sql_bytes_max" doc:"bytes of SQL text in one request"`
	EngineMemoryBytes    int64           `toml:"engine_memory_bytes" doc:"memory of the query engine"`
	EngineThreads        int             `toml:"engine_threads" doc:"threads of the query engine"`
	EngineConnections    int             `toml:"engine_connections" doc:"statements the query engine runs at the same time"`
	PasswordCost         int             `toml:"password_cost" doc:"bcrypt cost of new passwords"`

	// Settings are shown by system.settings, secrets masked.
	Settings []config.Key `toml:"-"`
	// Now is the clock; nil means time.Now.
	Now func() time.Time `toml:"-"`
	// Logger is used for faults; nil means slog.Default.
	Logger *slog.Logger `toml:"-"`
	// Metrics is where metrics are registered; nil means nowhere.
	Metrics prometheus.Registerer `toml:"-"`
}

// withDefaults fills in what is zero and refuses what makes no sense.
func (c Config) withDefaults() (Config, error) {
	text(&c.Addr, "query")
	if len(c.Seeds) == 0 {
		c.Seeds = []string{"storage"}
	}
	text(&c.Live, "live")
	number((*time.Duration)(&c.StatementTimeout), defaultStatementTimeout)
	number((*time.Duration)(&c.TransactionTimeout), defaultTransactionTimeout)
	number(&c.RowsMax, defaultRowsMax)
	number(&c.ResultBytesMax, defaultResultBytesMax)
	number(&c.StatementsMax, defaultStatementsMax)
	number(&c.StatementsWaitingMax, defaultStatementsWaitingMax)
	number(&c.SQLBytesMax, defaultSQLBytesMax)
	number(&c.EngineMemoryBytes, defaultEngineMemoryBytes)
	number(&c.EngineThreads, defaultEngineThreads)
	number(&c.EngineConnections, defaultEngineConnections)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.NodeID > nodeMax {
		return c, dberr.New(dberr.InvalidArgument, "node number %d is above %d", c.NodeID, nodeMax)
	}
	if c.StatementTimeout < 0 || c.TransactionTimeout < 0 || c.ResultBytesMax < 0 || c.StatementsMax < 0 || c.StatementsWaitingMax < 0 || c.SQLBytesMax < 0 {
		return c, dberr.New(dberr.InvalidArgument, "the limits of the query role may not be negative")
	}
	return c, nil
}

func text(dst *string, value string) {
	if *dst == "" {
		*dst = value
	}
}

func number[T int | int64 | uint64 | time.Duration](dst *T, value T) {
	if *dst == 0 {
		*dst = value
	}
}
