package live

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/live/internal/group"
)

// register exports the hub's numbers; without a registerer they are only counted.
func register(reg prometheus.Registerer, hub *group.Hub) error {
	if reg == nil {
		return nil
	}
	counts := hub.Counts()
	var all []prometheus.Collector
	gauge := func(name, help string, value func(group.Stats) int) {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kalamdb_live_" + name, Help: help},
			func() float64 { return float64(value(hub.Stats())) }))
	}
	counter := func(name, help string, value *atomic.Uint64) {
		all = append(all, prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "kalamdb_live_" + name, Help: help},
			func() float64 { return float64(value.Load()) }))
	}
	gauge("subscriptions", "Subscriptions now.", func(s group.Stats) int { return s.Subscriptions })
	gauge("partitions", "Partitions watched now.", func(s group.Stats) int { return s.Partitions })
	gauge("groups", "Groups of subscriptions that share evaluation and encoding.", func(s group.Stats) int { return s.Groups })
	gauge("queue_messages", "Messages that wait for gateways.", func(s group.Stats) int { return s.QueueMessages })
	gauge("queue_bytes", "Bytes that wait for gateways.", func(s group.Stats) int { return s.QueueBytes })
	gauge("buffer_bytes", "Bytes of changes that wait for initial rows.", func(s group.Stats) int { return s.BufferBytes })
	counter("changes_read_total", "Changes read from storage.", &counts.Changes)
	counter("changes_matched_total", "Changes that meant something to a group.", &counts.Matched)
	counter("changes_delivered_total", "Messages with a change put into queues.", &counts.Delivered)
	counter("lagged_total", "Subscriptions ended because their reader was too slow.", &counts.Lagged)
	counter("resumed_total", "Subscriptions resumed at a position.", &counts.Resumed)
	counter("reset_total", "Subscriptions whose position was gone.", &counts.Reset)
	counter("reread_total", "Snapshots whose changes were read from the change log again.", &counts.Reread)
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return dberr.New(dberr.Internal, "register the metrics of the live role: %w", err)
		}
	}
	return nil
}
