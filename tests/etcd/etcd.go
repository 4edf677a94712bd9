// Package etcd runs a real etcd of several members on loopback, for comparison: Debian's etcd-server.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kalamdb/kalamdb-go/tests/freeport"
)

// startTimeout bounds the first election.
const startTimeout = 30 * time.Second

// Cluster is the running members.
type Cluster struct {
	// Endpoints are the members' client addresses.
	Endpoints []string
	members   []*exec.Cmd
	conns     []*grpc.ClientConn
}

// Start starts n members with etcd's default timings; their data is below dir.
func Start(ctx context.Context, dir string, n int) (c *Cluster, err error) {
	binary, err := exec.LookPath("etcd")
	if err != nil {
		return nil, errors.New("the command etcd is needed (Debian: apt-get install etcd-server)")
	}
	c = &Cluster{}
	defer func() {
		if err != nil {
			c.Stop()
		}
	}()
	ports, err := freeport.Take(2 * n)
	if err != nil {
		return nil, err
	}
	var initial []string
	for i := range n {
		c.Endpoints = append(c.Endpoints, ports[2*i])
		initial = append(initial, fmt.Sprintf("m%d=http://%s", i, ports[2*i+1]))
	}
	for i := range n {
		if err := c.member(binary, dir, i, ports[2*i], ports[2*i+1], strings.Join(initial, ",")); err != nil {
			return nil, err
		}
	}
	return c, c.waitLeader(ctx)
}

func (c *Cluster) member(binary, dir string, i int, client, peer, initial string) error {
	home := filepath.Join(dir, fmt.Sprintf("m%d", i))
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(home, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(binary, "--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(home, "data"),
		"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer,
		"--initial-cluster", initial, "--initial-cluster-state", "new", "--log-level", "warn",
		"--quota-backend-bytes", "8589934592")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	c.members = append(c.members, cmd)
	conn, err := grpc.NewClient("passthrough:///"+client, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	c.conns = append(c.conns, conn)
	return nil
}

// KV is the key-value service of a member.
func (c *Cluster) KV(member int) pb.KVClient { return pb.NewKVClient(c.conns[member]) }

// Leader is the number of the member that leads.
func (c *Cluster) Leader(ctx context.Context) (int, error) {
	for i, conn := range c.conns {
		s, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
		if err == nil && s.Leader != 0 && s.Leader == s.Header.MemberId {
			return i, nil
		}
	}
	return 0, errors.New("etcd has no leader")
}

func (c *Cluster) waitLeader(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		_, err := c.Leader(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start etcd: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends a member with SIGKILL.
func (c *Cluster) Kill(member int) {
	_ = c.members[member].Process.Kill()
	_ = c.members[member].Wait()
}

// Stop ends all members.
func (c *Cluster) Stop() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	for _, m := range c.members {
		if m.ProcessState == nil {
			_ = m.Process.Kill()
			_ = m.Wait()
		}
	}
}
