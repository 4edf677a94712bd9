package query

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/query/internal/admission"
)

// metrics are the role's counters.
type metrics struct {
	statements *prometheus.CounterVec
	duration   *prometheus.HistogramVec

	// total and failed are the same numbers for system.stats, which shows sums.
	total  atomic.Uint64
	failed atomic.Uint64
}

// newMetrics makes the metrics; without a registerer they are counted and not exported.
func newMetrics(reg prometheus.Registerer, gate *admission.Gate) (*metrics, error) {
	m := &metrics{
		statements: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kalamdb_query_statements_total",
			Help: "Statements run, by command and error code (ok when none)."}, []string{"command", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kalamdb_query_statement_seconds",
			Help: "Time a statement took.", Buckets: prometheus.ExponentialBuckets(0.000_1, 4, 10)}, []string{"command"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.statements, m.duration,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kalamdb_query_running", Help: "Requests that run now."},
			func() float64 { return float64(gate.Running()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kalamdb_query_waiting", Help: "Requests that wait for their turn."},
			func() float64 { return float64(gate.Waiting()) }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, dberr.New(dberr.Internal, "register the metrics of the query role: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) observe(command string, took time.Duration, err error) {
	code := "ok"
	if err != nil {
		code = string(dberr.CodeOf(err))
		m.failed.Add(1)
	}
	m.total.Add(1)
	m.statements.WithLabelValues(command, code).Inc()
	m.duration.WithLabelValues(command).Observe(took.Seconds())
}

// own are this role's lines of system.stats.
func (q *Query) own() map[string]string {
	state := q.view.State()
	now := q.cfg.Now()
	return map[string]string{
		"server_uptime_seconds":   strconv.FormatInt(int64(now.Sub(q.started).Seconds()), 10),
		"cluster_id":              state.ClusterID,
		"node_id":                 strconv.Itoa(int(q.cfg.NodeID)),
		"total_namespaces":        strconv.Itoa(len(state.Namespaces)),
		"total_tables":            strconv.Itoa(len(state.Tables)),
		"query_statements_total":  strconv.FormatUint(q.metrics.total.Load(), 10),
		"query_statements_failed": strconv.FormatUint(q.metrics.failed.Load(), 10),
		"query_running":           strconv.Itoa(q.gate.Running()),
		"query_waiting":           strconv.Itoa(q.gate.Waiting()),
	}
}
