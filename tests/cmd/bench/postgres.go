package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// postgres is a cluster of its own in a temporary directory, with fsync and synchronous_commit on (the
// defaults) and the memory settings its manual advises for a machine of this size.
type postgres struct {
	pool *pgxpool.Pool
	cmd  *exec.Cmd
}

func startPostgres(ctx context.Context, dir string, connections int) (*postgres, error) {
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		return nil, errors.New("PostgreSQL is not installed (Debian: apt-get install postgresql)")
	}
	bin := bins[len(bins)-1]
	cred, err := serverAccount()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if cred != nil {
		if err := openTo(dir, cred); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(dir, "pgdata")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "bench", "--auth=trust", "-E", "UTF8", "--locale=C")
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	initdb.Dir = dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	p := &postgres{cmd: exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=",
		"-c", "shared_buffers=2GB", "-c", "max_connections="+strconv.Itoa(connections+10), "-c", "max_wal_size=4GB",
		"-c", "checkpoint_timeout=15min", "-c", "logging_collector=off", "-c", "log_min_messages=fatal")}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	p.cmd.Dir = dir
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(fmt.Sprintf("host=%s user=bench dbname=postgres pool_max_conns=%d", dir, connections))
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	if p.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err = p.pool.Ping(ctx); err == nil {
			return p, nil
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("PostgreSQL did not start: %w", err), p.stop())
		}
	}
}

// serverAccount is the account PostgreSQL runs as: it refuses to run as root.
func serverAccount() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// openTo gives dir to the account and lets it pass through the folder above.
func openTo(dir string, cred *syscall.Credential) error {
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil {
		return err
	}
	return os.Chown(dir, int(cred.Uid), int(cred.Gid))
}

func (p *postgres) stop() error {
	if p.pool != nil {
		p.pool.Close()
	}
	_ = p.cmd.Process.Signal(syscall.SIGINT) // fast shutdown
	return p.cmd.Wait()
}
