package raftgroup

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// newLogger routes Raft's warnings and errors to log; what is below is noise in normal operation. So is all that Raft
// says of connections that break because the group is stopping.
func newLogger(ctx context.Context, log *slog.Logger, stopping func() bool) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Warn})
	l.RegisterSink(&slogSink{ctx, log, stopping})
	return l
}

type slogSink struct {
	ctx context.Context // Raft logs without one
	log *slog.Logger

	stopping func() bool
}

// Accept takes one line.
func (s *slogSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	if level < hclog.Warn {
		return
	}
	at := slog.LevelWarn
	if level >= hclog.Error {
		at = slog.LevelError
	}
	if s.stopping() {
		at = slog.LevelDebug
	}
	s.log.Log(s.ctx, at, "raft: "+msg, args...)
}
