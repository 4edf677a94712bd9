package ws

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	sockets       prometheus.Gauge
	subscriptions prometheus.Gauge
	frames        prometheus.Counter
	bytes         prometheus.Counter
	messages      prometheus.Counter
	ended         *prometheus.CounterVec // by code
	closed        *prometheus.CounterVec // by reason
	opened        atomic.Uint64
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		sockets:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "kalamdb_ws_sockets", Help: "Open WebSockets."}),
		subscriptions: prometheus.NewGauge(prometheus.GaugeOpts{Name: "kalamdb_ws_subscriptions", Help: "Open subscriptions over WebSocket."}),
		frames:        prometheus.NewCounter(prometheus.CounterOpts{Name: "kalamdb_ws_frames_sent_total", Help: "Frames written to clients."}),
		bytes:         prometheus.NewCounter(prometheus.CounterOpts{Name: "kalamdb_ws_bytes_sent_total", Help: "Bytes written to clients, after compression."}),
		messages:      prometheus.NewCounter(prometheus.CounterOpts{Name: "kalamdb_ws_messages_received_total", Help: "Messages read from clients."}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kalamdb_ws_subscriptions_ended_total",
			Help: "Subscriptions that the server ended, by error code."}, []string{"code"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kalamdb_ws_closed_total",
			Help: "Sockets that the server closed, by close code."}, []string{"code"}),
	}
	if reg != nil {
		reg.MustRegister(m.sockets, m.subscriptions, m.frames, m.bytes, m.messages, m.ended, m.closed)
	}
	return m
}

// nextSocket numbers sockets, from 1.
func (m *metrics) nextSocket() uint64 { return m.opened.Add(1) }
