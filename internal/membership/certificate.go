package membership

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

// certificateExpiry is the name of the metric to alert on before nodes stop understanding each other.
const certificateExpiry = "kalamdb_node_certificate_expiry_timestamp_seconds"

// RegisterMetrics measures a node's network: where it shows a certificate, when that ends. The value follows the
// file when it is replaced.
func RegisterMetrics(network rpcnet.Network, reg prometheus.Registerer) {
	t, ok := network.(*rpcnet.TLS)
	if !ok {
		return
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: certificateExpiry,
		Help: "When this node's certificate ends, in seconds since 1970."},
		func() float64 { return float64(t.Expires().Unix()) }))
}
