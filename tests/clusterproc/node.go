package clusterproc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/hosts"
)

// readyEvery is how often a starting node is asked whether it is ready.
const readyEvery = 10 * time.Millisecond

// Node is one process of the cluster, running or not.
type Node struct {
	Name, Role string
	// GRPCAddr is where clients reach a gateway.
	GRPCAddr string
	// Host is the node's own, nil on loopback.
	Host *hosts.Host

	cluster              *Cluster
	number               int
	host                 string
	rpc, raft, ops, http string
	dir, data            string

	mu     sync.Mutex // guards what follows
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
	err    error         // how; set before exited is closed
}

// HTTPAddr is where clients reach a gateway by HTTP.
func (n *Node) HTTPAddr() string { return n.http }

// Number is the node id of a storage node.
func (n *Node) Number() int { return n.number }

// OpsAddr is where its metrics are.
func (n *Node) OpsAddr() string { return n.ops }

// LogFile is where it logs.
func (n *Node) LogFile() string { return filepath.Join(n.dir, "log") }

func (n *Node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := os.MkdirAll(n.data, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(n.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	bin := n.cluster.opt.Bin
	if n.cluster.opt.BinOf != nil {
		bin = n.cluster.opt.BinOf(n.Name)
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	args := []string{filepath.Join(bin, "kalamdb-"+n.Role)}
	if n.Host != nil {
		args = n.Host.Command(args...) // ip netns exec replaces itself: the process id is the node's
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env = n.dir, log, log, n.cluster.env(n)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches the tool, which stops nodes in order
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	n.cmd, n.exited, n.err = cmd, make(chan struct{}), nil
	exited := n.exited
	go func() {
		err := cmd.Wait()
		n.mu.Lock()
		n.err = err
		n.mu.Unlock()
		close(exited)
	}()
	return nil
}

// WaitReady returns when the node says that it can do its work.
func (n *Node) WaitReady(ctx context.Context) error {
	n.mu.Lock()
	exited := n.exited
	n.mu.Unlock()
	last := errors.New("it was not asked")
	for {
		if last = n.askReady(ctx); last == nil {
			return nil
		}
		select {
		case <-time.After(readyEvery):
		case <-exited:
			return fmt.Errorf("%s ended: %w (its log: %s)", n.Name, n.exit(), n.LogFile())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (its log: %s)", n.Name, last, n.LogFile())
		}
	}
}

func (n *Node) exit() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

func (n *Node) askReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.ops+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}

// PID is the process id, 0 when it does not run.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return 0
	}
	return n.cmd.Process.Pid
}

// Running reports whether the process has not ended.
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

// Kill ends the process with SIGKILL and waits for its end.
func (n *Node) Kill() { _ = n.end(syscall.SIGKILL) }

// Stop asks the process to end and waits for it; an end with an error is one.
func (n *Node) Stop() error { return n.end(syscall.SIGTERM) }

func (n *Node) end(sig syscall.Signal) error {
	if !n.Running() {
		return nil
	}
	n.mu.Lock()
	cmd, exited := n.cmd, n.exited
	n.mu.Unlock()
	_ = cmd.Process.Signal(syscall.SIGCONT) // a paused one could not end
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-exited
	return n.exit()
}

// Pause and Resume stop and continue the process where it stands.
func (n *Node) Pause() error { return n.signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (n *Node) Resume() error { return n.signal(syscall.SIGCONT) }

func (n *Node) signal(sig syscall.Signal) error {
	if !n.Running() {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd.Process.Signal(sig)
}

// Restart starts a node that has ended, and waits until it is ready.
func (n *Node) Restart(ctx context.Context) error {
	if n.Running() {
		return n.WaitReady(ctx)
	}
	if err := n.start(); err != nil {
		return err
	}
	return n.WaitReady(ctx)
}

func (n *Node) clock() string { return filepath.Join(n.dir, "clock") }

// SetClock makes the clock of a storage node that was built with the tag faults be off; others have no such clock.
func (n *Node) SetClock(offset time.Duration) error {
	temp := n.clock() + ".new"
	if err := os.WriteFile(temp, []byte(offset.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, n.clock())
}

// Wipe deletes a stopped storage node's data.
func (n *Node) Wipe() error {
	if n.Running() {
		return fmt.Errorf("%s runs", n.Name)
	}
	entries, err := os.ReadDir(n.data)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(n.data, e.Name())))
	}
	return err
}
