// Package clusterproc runs a cluster of real processes on this machine for whole-system tools: it starts them on
// loopback, or in network namespaces of their own, kills, pauses, restarts and wipes them.
package clusterproc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/nodecert"
	"github.com/kalamdb/kalamdb-go/tests/freeport"
	"github.com/kalamdb/kalamdb-go/tests/hosts"
)

const (
	// startTimeout bounds the start of the whole cluster.
	startTimeout = 3 * time.Minute
	// certValid is longer than any run.
	certValid = 30 * 24 * time.Hour
	// jwtSecret and RootPassword are of test clusters only.
	jwtSecret = "test-cluster-jwt-secret-0123456789abcdef"
	// RootPassword is root's.
	RootPassword = "Root-Password-1"
	clusterName  = "test"
)

// Options say what to run.
type Options struct {
	// Bin is the folder of the binaries; BinOf may name another one for a node.
	Bin   string
	BinOf func(node string) string
	// Dir keeps data, certificates and logs.
	Dir string
	// Storage, Query, Live, Gateway are how many nodes of each role; zero means 3, 2, 2, 2.
	Storage, Query, Live, Gateway int
	// Env are further variables of every node, as NAME=value.
	Env []string
	// Network puts every node on a host of its own; nil means loopback.
	Network *hosts.Network
	// DataDir chooses a storage node's folder; nil means below Dir.
	DataDir func(node string) string
}

func (o Options) withDefaults() Options {
	set := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	set(&o.Storage, 3)
	set(&o.Query, 2)
	set(&o.Live, 2)
	set(&o.Gateway, 2)
	return o
}

// Cluster is the running processes.
type Cluster struct {
	opt   Options
	certs string
	join  string

	mu    sync.Mutex
	nodes []*Node // in order of start
	spare []*Node // storage nodes that were taken out: their addresses are used again
}

// Start starts every node and returns when all gateways serve.
func Start(ctx context.Context, opt Options) (_ *Cluster, err error) {
	c := &Cluster{opt: opt.withDefaults()}
	c.certs = filepath.Join(c.opt.Dir, "certs")
	if err := makeCerts(c.certs); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			c.Kill()
		}
	}()
	for _, role := range []struct {
		name string
		n    int
	}{{"storage", c.opt.Storage}, {"query", c.opt.Query}, {"live", c.opt.Live}, {"gateway", c.opt.Gateway}} {
		for i := range role.n {
			if _, err := c.add(ctx, role.name, i+1); err != nil {
				return nil, err
			}
		}
	}
	var join []string
	for _, n := range c.Role("storage") {
		join = append(join, n.rpc)
	}
	c.join = strings.Join(join, ",")
	for _, n := range c.Nodes() {
		if err := n.start(); err != nil {
			return nil, err
		}
	}
	for _, n := range c.Nodes() {
		if err := n.WaitReady(ctx); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func makeCerts(dir string) error {
	a, err := nodecert.NewAuthority(clusterName, certValid)
	if err != nil {
		return err
	}
	if err := a.Save(dir); err != nil {
		return err
	}
	for _, role := range nodecert.Roles {
		if err := a.Issue(dir, clusterName, role, certValid); err != nil {
			return err
		}
	}
	return nil
}

// add makes a node's addresses; start runs it.
func (c *Cluster) add(ctx context.Context, role string, number int) (*Node, error) {
	n := &Node{Name: fmt.Sprintf("%s-%d", role, number), Role: role, cluster: c, number: number, host: "127.0.0.1"}
	if c.opt.Network != nil {
		h, err := c.opt.Network.Add(ctx, n.Name)
		if err != nil {
			return nil, err
		}
		n.Host, n.host = h, h.Addr
		n.rpc, n.raft, n.ops, n.http, n.GRPCAddr = h.Addr+":9090", h.Addr+":9091", h.Addr+":8082", h.Addr+":8080", h.Addr+":8081"
	} else {
		ports, err := freeport.Take(5)
		if err != nil {
			return nil, err
		}
		n.rpc, n.raft, n.ops, n.http, n.GRPCAddr = ports[0], ports[1], ports[2], ports[3], ports[4]
	}
	n.dir = filepath.Join(c.opt.Dir, n.Name)
	n.data = filepath.Join(n.dir, "data")
	if c.opt.DataDir != nil && role == "storage" {
		n.data = c.opt.DataDir(n.Name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, n)
	return n, nil
}

// AddStorage starts another storage node, with an empty disk.
func (c *Cluster) AddStorage(ctx context.Context) (*Node, error) {
	n, err := c.takeSpare()
	if n == nil && err == nil {
		n, err = c.add(ctx, "storage", len(c.Role("storage"))+1)
	}
	if err != nil {
		return nil, err
	}
	if err := n.start(); err != nil {
		return nil, err
	}
	return n, n.WaitReady(ctx)
}

func (c *Cluster) takeSpare() (*Node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.spare) == 0 {
		return nil, nil
	}
	n := c.spare[len(c.spare)-1]
	if err := n.Wipe(); err != nil {
		return nil, err
	}
	c.spare, c.nodes = c.spare[:len(c.spare)-1], append(c.nodes, n)
	return n, nil
}

// TakeOut forgets a storage node that was stopped.
func (c *Cluster) TakeOut(n *Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = slices.DeleteFunc(c.nodes, func(o *Node) bool { return o == n })
	c.spare = append(c.spare, n)
}

// Nodes are all nodes, in order of start.
func (c *Cluster) Nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Node(nil), c.nodes...)
}

// Role are the nodes of a role.
func (c *Cluster) Role(role string) (out []*Node) {
	for _, n := range c.Nodes() {
		if n.Role == role {
			out = append(out, n)
		}
	}
	return out
}

// Node finds a node by name.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.Nodes() {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Gateways are the gRPC addresses of the gateways.
func (c *Cluster) Gateways() (out []string) {
	for _, n := range c.Role("gateway") {
		out = append(out, n.GRPCAddr)
	}
	return out
}

// Network is what the nodes' hosts are on, nil on loopback.
func (c *Cluster) Network() *hosts.Network { return c.opt.Network }

// Stop stops every node in the order clients would want, and returns the first error.
func (c *Cluster) Stop() error {
	var errs []error
	for _, role := range []string{"gateway", "live", "query", "storage"} {
		var stopping sync.WaitGroup
		var mu sync.Mutex
		for _, n := range c.Role(role) {
			stopping.Go(func() {
				if err := n.Stop(); err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, fmt.Errorf("%s: %w", n.Name, err))
				}
			})
		}
		stopping.Wait()
	}
	return errors.Join(errs...)
}

// Kill ends every node with SIGKILL.
func (c *Cluster) Kill() {
	for _, n := range c.Nodes() {
		n.Kill()
	}
}

// env is what a node is told.
func (c *Cluster) env(n *Node) []string {
	_, httpPort, _ := net.SplitHostPort(n.http)
	_, grpcPort, _ := net.SplitHostPort(n.GRPCAddr)
	_, opsPort, _ := net.SplitHostPort(n.ops)
	env := append(os.Environ(),
		"KALAMDB_CLUSTER_NAME="+clusterName, "KALAMDB_CLUSTER_JOIN="+c.join, "KALAMDB_CLUSTER_CERTS_DIR="+c.certs,
		fmt.Sprintf("KALAMDB_CLUSTER_BOOTSTRAP_EXPECT=%d", c.opt.Storage),
		"KALAMDB_CLUSTER_LISTEN_ADDR="+n.rpc, "KALAMDB_CLUSTER_RAFT_LISTEN_ADDR="+n.raft,
		"KALAMDB_SERVER_HOST="+n.host, "KALAMDB_SERVER_PORT="+httpPort, "KALAMDB_GRPC_PORT="+grpcPort,
		"KALAMDB_SERVER_OPS_HOST="+n.host, "KALAMDB_OPS_PORT="+opsPort,
		"KALAMDB_JWT_SECRET="+jwtSecret, "KALAMDB_ROOT_PASSWORD="+RootPassword, "KALAMDB_AUTH_BCRYPT_COST=4", "KALAMDB_AUTH_ROOT_ALLOW_REMOTE=true",
		"KALAMDB_RATE_LIMIT_MAX_REQUESTS_PER_IP_PER_SEC=0", "KALAMDB_RATE_LIMIT_MAX_CONNECTIONS_PER_IP=0",
		"KALAMDB_RATE_LIMIT_MAX_AUTH_REQUESTS_PER_IP_PER_SEC=0",
		"KALAMDB_RATE_LIMIT_MAX_QUERIES_PER_SEC=0", "KALAMDB_RATE_LIMIT_MAX_SUBSCRIPTIONS_PER_USER=1000")
	if n.Role == "storage" {
		env = append(env, fmt.Sprintf("KALAMDB_CLUSTER_NODE_ID=%d", n.number), "KALAMDB_DATA_DIR="+n.data, "FAULTS_CLOCK_FILE="+n.clock())
	}
	return append(env, c.opt.Env...)
}
