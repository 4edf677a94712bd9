package gateway

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/liveclient"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/querypool"
)

// metrics of HTTP and gRPC; WebSockets have their own.
type metrics struct {
	httpRequests *prometheus.CounterVec
	httpSeconds  *prometheus.HistogramVec
	grpcCalls    *prometheus.CounterVec
	grpcSeconds  *prometheus.HistogramVec
}

// latencyBuckets reach from a cached point read to the statement timeout.
var latencyBuckets = []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		httpRequests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kalamdb_http_requests_total",
			Help: "HTTP requests answered, by route and status."}, []string{"route", "status"}),
		httpSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kalamdb_http_request_seconds",
			Help: "Time from a request's headers to the end of its answer.", Buckets: latencyBuckets}, []string{"route"}),
		grpcCalls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kalamdb_grpc_calls_total",
			Help: "gRPC and Flight calls ended, by method and error code."}, []string{"method", "code"}),
		grpcSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kalamdb_grpc_call_seconds",
			Help: "Duration of gRPC and Flight calls.", Buckets: latencyBuckets}, []string{"method"}),
	}
	for _, c := range []prometheus.Collector{m.httpRequests, m.httpSeconds, m.grpcCalls, m.grpcSeconds} {
		if err := reg.Register(c); err != nil {
			return nil, dberr.New(dberr.Internal, "register metrics: %w", err)
		}
	}
	return m, nil
}

// observeNodes exports what is known of the other roles' nodes.
func observeNodes(reg prometheus.Registerer, live *liveclient.Client, query *querypool.Pool) error {
	counter := func(name, help string, value func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	counts := func(pick func(liveclient.Counts) uint64) func() uint64 {
		return func() uint64 {
			c, _, _ := live.Stats()
			return pick(c)
		}
	}
	for _, c := range []prometheus.Collector{
		counter("kalamdb_gateway_subscriptions_moved_total", "Subscriptions opened again on another live node.",
			counts(func(c liveclient.Counts) uint64 { return c.Moved })),
		counter("kalamdb_gateway_subscriptions_given_up_total", "Subscriptions that ended because no live node took them in time.",
			counts(func(c liveclient.Counts) uint64 { return c.GivenUp })),
		counter("kalamdb_gateway_live_streams_broken_total", "Streams to live nodes that broke.",
			counts(func(c liveclient.Counts) uint64 { return c.Broken })),
		counter("kalamdb_gateway_query_retries_total", "Calls made again on another query node.", query.Retries),
	} {
		if err := reg.Register(c); err != nil {
			return dberr.New(dberr.Internal, "register metrics: %w", err)
		}
	}
	return nil
}

func (m *metrics) observeHTTP(route string, status int, took time.Duration) {
	m.httpRequests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.httpSeconds.WithLabelValues(route).Observe(took.Seconds())
}

func (m *metrics) observeGRPC(method string, err error, took time.Duration) {
	code := string(dberr.CodeOf(dberr.FromStatus(err)))
	if err == nil {
		code = "OK"
	}
	m.grpcCalls.WithLabelValues(method, code).Inc()
	m.grpcSeconds.WithLabelValues(method).Observe(took.Seconds())
}
