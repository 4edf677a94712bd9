// Package process runs the real server binary for whole-system tools: starts it on free loopback
// ports with a data directory, waits until it serves, stops or kills it.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/freeport"
)

// startTimeout bounds a start, recovery of the log included.
const startTimeout = 2 * time.Minute

// Options say how to run the server.
type Options struct {
	// Binary is the server's path.
	Binary string
	// DataDir keeps the data between runs.
	DataDir string
	// Env are further variables, as NAME=value.
	Env []string
}

// Server is one running server process.
type Server struct {
	HTTPAddr, GRPCAddr, OpsAddr string
	RootPassword                string

	opt    Options
	cmd    *exec.Cmd
	log    *os.File
	exited chan error
	once   sync.Once
	err    error
}

// Start runs a server and returns once it answers its health check. Ports stay the same for later
// Restarts.
func Start(ctx context.Context, opt Options) (*Server, error) {
	ports, err := freeport.Take(3)
	if err != nil {
		return nil, err
	}
	s := &Server{HTTPAddr: ports[0], GRPCAddr: ports[1], OpsAddr: ports[2], opt: opt}
	return s, s.run(ctx)
}

// Restart starts a stopped or killed server again.
func (s *Server) Restart(ctx context.Context) error { return s.run(ctx) }

func (s *Server) run(ctx context.Context) error {
	if err := os.MkdirAll(s.opt.DataDir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(filepath.Dir(s.opt.DataDir), "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	s.log, s.exited, s.once = log, make(chan error, 1), sync.Once{}
	s.cmd = exec.Command(s.opt.Binary)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.Env = append(os.Environ(), "KALAMDB_DATA_DIR="+s.opt.DataDir,
		"KALAMDB_SERVER_HOST=127.0.0.1", "KALAMDB_SERVER_PORT="+port(s.HTTPAddr),
		"KALAMDB_GRPC_PORT="+port(s.GRPCAddr), "KALAMDB_OPS_PORT="+port(s.OpsAddr))
	s.cmd.Env = append(s.cmd.Env, s.opt.Env...)
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.opt.Binary, err)
	}
	go func() { s.exited <- s.cmd.Wait() }()
	if err := s.waitHealthy(ctx); err != nil {
		s.Kill()
		return fmt.Errorf("%w (its log: %s)", err, log.Name())
	}
	password, err := os.ReadFile(filepath.Join(s.opt.DataDir, "root-password"))
	if err != nil {
		return err
	}
	s.RootPassword = strings.TrimSpace(string(password))
	return nil
}

func (s *Server) waitHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.HTTPAddr+"/health", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				tick.Stop()
				return nil
			}
		}
		select {
		case <-tick.C:
		case err := <-s.exited:
			s.exited <- err
			return fmt.Errorf("the server ended at its start: %w", errors.Join(err, errors.New("see its log")))
		case <-ctx.Done():
			return fmt.Errorf("the server was not healthy in time: %w", ctx.Err())
		}
	}
}

// Kill ends the process with SIGKILL and waits for its end.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	s.reap()
}

// Stop asks the process to end and waits for it.
func (s *Server) Stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return s.reap()
}

func (s *Server) reap() error {
	s.once.Do(func() {
		s.err = <-s.exited
		s.log.Close()
	})
	return s.err
}

// PID is the process id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// ResidentBytes is the process's resident memory now.
func (s *Server) ResidentBytes() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID()))
	if err != nil {
		return 0, err
	}
	for _, line := range bytes.Split(status, []byte("\n")) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			var kb int64
			if _, err := fmt.Sscanf(string(bytes.TrimSpace(rest)), "%d kB", &kb); err != nil {
				return 0, err
			}
			return kb << 10, nil
		}
	}
	return 0, errors.New("no VmRSS in /proc status")
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}
