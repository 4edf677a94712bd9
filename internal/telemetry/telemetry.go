// Package telemetry sets up what a process reports: structured logs and Prometheus metrics. main
// makes one Telemetry and hands its parts to the roles.
package telemetry

import (
	"io"
	"log/slog"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Config says how to log.
type Config struct {
	// Level is debug, info, warn or error; empty means info.
	Level string
	// Format is text or json; empty means text.
	Format string
	// Output receives the log.
	Output io.Writer
}

// Telemetry is what roles report to.
type Telemetry struct {
	Logger   *slog.Logger
	Registry *prometheus.Registry
}

// New sets both up. A level or format it does not know is an error.
func New(cfg Config) (*Telemetry, error) {
	var level slog.Level
	switch strings.ToLower(cfg.Level) {
	case "debug", "trace":
		level = slog.LevelDebug
	case "", "info":
	case "warn", "warning":
		level = slog.LevelWarn
	case "error":
		level = slog.LevelError
	default:
		return nil, dberr.New(dberr.InvalidArgument, "log level %q: must be debug, info, warn or error", cfg.Level)
	}
	opt := &slog.HandlerOptions{Level: level}
	var h slog.Handler
	switch strings.ToLower(cfg.Format) {
	case "", "text", "compact":
		h = slog.NewTextHandler(cfg.Output, opt)
	case "json":
		h = slog.NewJSONHandler(cfg.Output, opt)
	default:
		return nil, dberr.New(dberr.InvalidArgument, "log format %q: must be text or json", cfg.Format)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Telemetry{Logger: slog.New(h), Registry: reg}, nil
}
