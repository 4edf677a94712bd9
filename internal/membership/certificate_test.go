package membership

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kalamdb/kalamdb-go/internal/nodecert"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

const certificateLife = time.Hour

func gathered(t *testing.T, reg *prometheus.Registry, name string) (float64, bool) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue(), true
		}
	}
	return 0, false
}

func TestCertificateExpiryIsMeasured(t *testing.T) {
	dir := t.TempDir()
	a, err := nodecert.NewAuthority("c", certificateLife)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := a.Issue(dir, "c", "query", certificateLife); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Name: "c", CertsDir: dir, Join: []string{"h:1"}, ListenAddr: "h:1", RaftListenAddr: "h:2"}
	if err := cfg.Prepare("query"); err != nil {
		t.Fatal(err)
	}
	n, err := cfg.Network("query")
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	RegisterMetrics(n, reg)
	got, ok := gathered(t, reg, certificateExpiry)
	if want := float64(n.(*rpcnet.TLS).Expires().Unix()); !ok || got != want || got == 0 {
		t.Fatalf("%v, %v, want %v", got, ok, want)
	}
	other := prometheus.NewRegistry()
	RegisterMetrics(rpcnet.TCP{}, other)
	if _, ok := gathered(t, other, certificateExpiry); ok {
		t.Error("a network without certificates has an expiry")
	}
}
