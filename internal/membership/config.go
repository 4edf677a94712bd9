// Package membership is a process's place in the cluster: the settings by which it finds the others and proves
// who it is, and, for roles that hold no data, its registration and heartbeats.
package membership

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/nodecert"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

// NodeMax is the highest node id: half of the snowflake's node numbers.
const NodeMax = 511

// Config is the section [cluster] of the settings, the same for every role.
type Config struct {
	Name   string `toml:"name" env:"KALAMDB_CLUSTER_ID" doc:"name of the cluster; nodes of another are refused"`
	NodeID uint16 `toml:"node_id" env:"KALAMDB_NODE_ID" doc:"number of this node, 1 to 511, unique in the cluster; 0 lets the cluster choose (not for storage nodes)"`
	Zone   string `toml:"zone" doc:"what may fail together with this node; replicas are spread over zones"`

	Join              []string `toml:"join" doc:"storage nodes to ask first, host:port, comma separated; a storage node that shall make a cluster by itself leaves it empty and sets bootstrap_expect = 1"`
	Peers             string   `toml:"peers" doc:"the same as id@host:port@http://host:port entries with ; between them, the last part optional: added to join"`
	BootstrapExpect   int      `toml:"bootstrap_expect" doc:"fresh storage nodes that must have met before one of them makes the cluster"`
	ReplicationFactor uint32   `toml:"replication_factor" doc:"replicas of each shard in a cluster this node makes"`

	ListenAddr        string `toml:"listen_addr" env:"KALAMDB_CLUSTER_RPC_ADDR" doc:"where other nodes reach this one, host:port"`
	AdvertiseAddr     string `toml:"advertise_addr" doc:"what the others are told instead of listen_addr; empty host: POD_IP or the host's name"`
	RaftListenAddr    string `toml:"raft_listen_addr" doc:"where storage nodes reach this one for replication, host:port"`
	RaftAdvertiseAddr string `toml:"raft_advertise_addr" doc:"what the others are told instead of raft_listen_addr"`
	APIAddr           string `toml:"api_addr" env:"KALAMDB_CLUSTER_API_ADDR" doc:"where clients reach this gateway, as shown by system.nodes, e.g. http://host:8080"`

	HeartbeatInterval config.Duration `toml:"heartbeat_interval" doc:"how often a node reports"`
	OfflineAfter      config.Duration `toml:"offline_after" doc:"time without a report after which a node counts as offline"`
	ReplaceAfter      config.Duration `toml:"replace_after" doc:"time offline after which a node's replicas are placed elsewhere"`

	CertsDir   string `toml:"certs_dir" doc:"folder with ca.crt, <role>.crt and <role>.key: the short form of the next three"`
	CAFile     string `toml:"ca_file" env:"KALAMDB_RPC_TLS_CA_CERT" doc:"certificates of the authorities that sign nodes' certificates"`
	CertFile   string `toml:"cert_file" env:"KALAMDB_RPC_TLS_SERVER_CERT" doc:"this node's certificate, with the URI kalamdb://name/role"`
	KeyFile    string `toml:"key_file" env:"KALAMDB_RPC_TLS_SERVER_KEY" doc:"this node's key"`
	SecretFile string `toml:"secret_file" fileof:"secret" doc:"file that holds cluster.secret"`
	Secret     string `toml:"secret" secret:"true" doc:"secret that nodes share where there are no certificates: not encrypted, for trusted networks"`
}

// Defaults are the settings of a node of a cluster.
func Defaults() Config {
	return Config{Name: "kalamdb", BootstrapExpect: 3, ReplicationFactor: 3, ListenAddr: ":9090", RaftListenAddr: ":9091",
		HeartbeatInterval: config.Duration(time.Second), OfflineAfter: config.Duration(3 * time.Second),
		ReplaceAfter: config.Duration(5 * time.Minute)}
}

// Prepare checks the settings of a node of a role and fills in what they imply.
func (c *Config) Prepare(role string) error {
	if c.NodeID > NodeMax {
		return dberr.New(dberr.InvalidArgument, "cluster.node_id = %d: at most %d is possible", c.NodeID, NodeMax)
	}
	if role == "storage" && c.NodeID == 0 {
		return dberr.New(dberr.InvalidArgument, "cluster.node_id is 0: a storage node needs a number of its own, 1 to %d", NodeMax)
	}
	peers, err := parsePeers(c.Peers)
	if err != nil {
		return err
	}
	for _, p := range peers {
		if !slices.Contains(c.Join, p.rpc) && (p.id != c.NodeID || c.NodeID == 0) {
			c.Join = append(c.Join, p.rpc)
		}
	}
	if err := c.checkJoin(role); err != nil {
		return err
	}
	if c.CertsDir != "" {
		setEmpty(&c.CAFile, filepath.Join(c.CertsDir, nodecert.CAFile))
		setEmpty(&c.CertFile, filepath.Join(c.CertsDir, role+".crt"))
		setEmpty(&c.KeyFile, filepath.Join(c.CertsDir, role+".key"))
	}
	if c.AdvertiseAddr, err = advertised("advertise_addr", c.AdvertiseAddr, c.ListenAddr); err != nil {
		return err
	}
	if c.RaftAdvertiseAddr, err = advertised("raft_advertise_addr", c.RaftAdvertiseAddr, c.RaftListenAddr); err != nil {
		return err
	}
	return c.checkProof()
}

// checkJoin refuses a node that could find nobody. A storage node may be alone, but only when it says so:
// one whose settings were forgotten must not make a second cluster.
func (c *Config) checkJoin(role string) error {
	for _, addr := range c.Join {
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			return dberr.New(dberr.InvalidArgument, "cluster.join: %q is not host:port", addr)
		}
	}
	switch {
	case len(c.Join) > 0:
		return nil
	case role != "storage":
		return dberr.New(dberr.InvalidArgument, "cluster.join is empty: name at least one storage node, e.g. KALAMDB_CLUSTER_JOIN=host:9090")
	case c.BootstrapExpect != 1:
		return dberr.New(dberr.InvalidArgument, "cluster.join is empty: name other storage nodes, e.g. KALAMDB_CLUSTER_JOIN=host:9090, or set cluster.bootstrap_expect = 1 and this node makes a cluster by itself")
	}
	return nil
}

func setEmpty(dst *string, v string) {
	if *dst == "" {
		*dst = v
	}
}

// advertised is what the others are told: the setting, else the listener's address with a host that others
// can reach.
func advertised(key, setting, listen string) (string, error) {
	addr := setting
	if addr == "" {
		addr = listen
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" || port == "0" && setting != "" {
		return "", dberr.New(dberr.InvalidArgument, "cluster.%s: %q is not host:port", key, addr)
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		if host = os.Getenv("POD_IP"); host == "" {
			if host, err = os.Hostname(); err != nil {
				return "", dberr.New(dberr.InvalidArgument, "cluster.%s is not set and this machine's name is not known: %w", key, err)
			}
		}
	}
	return net.JoinHostPort(host, port), nil
}

// checkProof refuses to be reachable from other machines without any proof of who calls.
func (c *Config) checkProof() error {
	files := c.CAFile != "" || c.CertFile != "" || c.KeyFile != ""
	if files && (c.CAFile == "" || c.CertFile == "" || c.KeyFile == "") {
		return dberr.New(dberr.InvalidArgument, "cluster.ca_file, cert_file and key_file belong together (or set cluster.certs_dir)")
	}
	if files || c.Secret != "" {
		return nil
	}
	for _, addr := range []string{c.ListenAddr, c.RaftListenAddr} {
		if !loopback(addr) {
			return dberr.New(dberr.InvalidArgument, "this node would listen on %s for anybody: set cluster.certs_dir (make certs), or cluster.secret on a trusted network, or listen on 127.0.0.1", addr)
		}
	}
	return nil
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
}

// Network is the network of a node of a role: with certificates, else with the secret, else plain.
func (c *Config) Network(role string) (rpcnet.Network, error) {
	switch {
	case c.CAFile != "":
		return rpcnet.NewTLS(rpcnet.TCP{}, rpcnet.TLSConfig{Cluster: c.Name, Role: role, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile})
	case c.Secret != "":
		return rpcnet.NewSecret(rpcnet.TCP{}, c.Secret, role)
	}
	return rpcnet.TCP{}, nil
}
