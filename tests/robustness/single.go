package robustness

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/process"
)

// Single is one server process on its own.
type Single struct {
	server *process.Server
	paused bool
	killed bool
}

// StartSingle starts a server with its data in dir.
func StartSingle(ctx context.Context, binary, dir string) (*Single, error) {
	s, err := process.Start(ctx, process.Options{Binary: binary, DataDir: filepath.Join(dir, "data"), Env: LoadSettings})
	if err != nil {
		return nil, err
	}
	return &Single{server: s}, nil
}

// LoadSettings are the variables of servers under test: no rate limits, cheap passwords.
var LoadSettings = []string{"KALAMDB_RATE_LIMIT_MAX_QUERIES_PER_SEC=0", "KALAMDB_AUTH_BCRYPT_COST=4",
	"KALAMDB_RATE_LIMIT_MAX_SUBSCRIPTIONS_PER_USER=1000"}

// Gateways are the server's gRPC address.
func (s *Single) Gateways() []string { return []string{s.server.GRPCAddr} }

// Root is root's password.
func (s *Single) Root() string { return s.server.RootPassword }

// Faults are kill and pause.
func (s *Single) Faults() []Fault {
	return []Fault{
		{Name: "kill", Weight: 1, Do: func(ctx context.Context, random *rand.Rand) error {
			s.server.Kill()
			s.killed = true
			pause(ctx, time.Duration(random.IntN(500))*time.Millisecond)
			return s.Heal(context.WithoutCancel(ctx))
		}},
		{Name: "pause", Weight: 1, Do: func(ctx context.Context, random *rand.Rand) error {
			if err := syscall.Kill(s.server.PID(), syscall.SIGSTOP); err != nil {
				return err
			}
			s.paused = true
			pause(ctx, time.Duration(random.IntN(1500))*time.Millisecond)
			return s.Heal(ctx)
		}},
	}
}

// Heal wakes and restarts the server.
func (s *Single) Heal(ctx context.Context) error {
	if s.paused {
		s.paused = false
		if err := syscall.Kill(s.server.PID(), syscall.SIGCONT); err != nil {
			return err
		}
	}
	if s.killed {
		if err := s.server.Restart(ctx); err != nil {
			return err
		}
		s.killed = false
	}
	return nil
}

// Stop ends the server.
func (s *Single) Stop() error { return s.server.Stop() }
