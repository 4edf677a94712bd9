package membership

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/nodecert"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
)

// good are settings that need nothing from the machine.
func good() Config {
	c := Defaults()
	c.NodeID, c.Join = 1, []string{"10.0.0.2:9090"}
	c.ListenAddr, c.RaftListenAddr = "127.0.0.1:9090", "127.0.0.1:9091"
	return c
}

func TestPrepareRefuses(t *testing.T) {
	for _, c := range []struct {
		name, role, want string
		change           func(*Config)
	}{
		{"a number too high", "storage", "cluster.node_id = 512", func(c *Config) { c.NodeID = 512 }},
		{"storage without a number", "storage", "cluster.node_id is 0", func(c *Config) { c.NodeID = 0 }},
		{"query without storage nodes", "query", "cluster.join is empty", func(c *Config) { c.Join = nil; c.BootstrapExpect = 1 }},
		{"storage without others", "storage", "bootstrap_expect = 1", func(c *Config) { c.Join = nil }},
		{"storage whose only peer is itself", "storage", "bootstrap_expect = 1", func(c *Config) { c.Join = nil; c.Peers = "1@h:9090" }},
		{"join without a port", "live", `"host" is not host:port`, func(c *Config) { c.Join = []string{"host"} }},
		{"join with an empty port", "live", `"host:" is not host:port`, func(c *Config) { c.Join = []string{"host:"} }},
		{"peers", "live", "cluster.peers", func(c *Config) { c.Peers = "x" }},
		{"advertised without a port", "storage", "cluster.advertise_addr", func(c *Config) { c.AdvertiseAddr = "host" }},
		{"advertised port 0", "storage", "cluster.advertise_addr", func(c *Config) { c.AdvertiseAddr = "host:0" }},
		{"advertised for Raft", "storage", "cluster.raft_advertise_addr", func(c *Config) { c.RaftAdvertiseAddr = "host:" }},
		{"listening on nonsense", "storage", "cluster.advertise_addr", func(c *Config) { c.ListenAddr = "9090" }},
		{"half of the certificate", "storage", "belong together", func(c *Config) { c.CertFile = "x" }},
		{"open to anybody", "storage", "listen on :9090 for anybody", func(c *Config) { c.ListenAddr = ":9090" }},
		{"open to anybody on a name", "storage", "for anybody", func(c *Config) { c.RaftListenAddr = "db1:9091" }},
		{"open to anybody on every address", "query", "for anybody", func(c *Config) { c.ListenAddr = "0.0.0.0:9090" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good()
			c.change(&cfg)
			if err := cfg.Prepare(c.role); !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}

func TestPrepareFillsIn(t *testing.T) {
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const long = "a secret of enough bytes"
	for _, c := range []struct {
		name, role, pod string
		change          func(*Config)
		want            func(*Config) bool
	}{
		{"as it is", "storage", "", func(*Config) {},
			func(c *Config) bool {
				return c.AdvertiseAddr == "127.0.0.1:9090" && c.RaftAdvertiseAddr == "127.0.0.1:9091"
			}},
		{"all addresses by name", "storage", "", func(c *Config) { c.ListenAddr, c.RaftListenAddr, c.Secret = ":1", "[::]:2", long },
			func(c *Config) bool { return c.AdvertiseAddr == hostname+":1" && c.RaftAdvertiseAddr == hostname+":2" }},
		{"all addresses of a pod", "storage", "fd00::7", func(c *Config) { c.ListenAddr, c.Secret = "0.0.0.0:1", long },
			func(c *Config) bool { return c.AdvertiseAddr == "[fd00::7]:1" }},
		{"what was said", "storage", "fd00::7", func(c *Config) { c.AdvertiseAddr = "db1:7" },
			func(c *Config) bool { return c.AdvertiseAddr == "db1:7" }},
		{"localhost needs no proof", "query", "", func(c *Config) { c.ListenAddr = "LocalHost:1" },
			func(c *Config) bool { return c.AdvertiseAddr == "LocalHost:1" }},
		{"certificates of the role", "live", "", func(c *Config) { c.CertsDir, c.ListenAddr = "/c", ":1" },
			func(c *Config) bool {
				return c.CAFile == "/c/ca.crt" && c.CertFile == "/c/live.crt" && c.KeyFile == "/c/live.key"
			}},
		{"a file of its own beside them", "live", "", func(c *Config) { c.CertsDir, c.KeyFile = "/c", "/k" },
			func(c *Config) bool { return c.CertFile == "/c/live.crt" && c.KeyFile == "/k" }},
		{"alone on purpose", "storage", "", func(c *Config) { c.Join, c.BootstrapExpect = nil, 1 },
			func(c *Config) bool { return len(c.Join) == 0 }},
		{"a number by the cluster", "gateway", "", func(c *Config) { c.NodeID = 0 }, func(c *Config) bool { return c.NodeID == 0 }},
		{"peers but not itself", "storage", "", func(c *Config) { c.Peers = "1@me:9; 2@b:9@http://b:80 ;3@10.0.0.2:9090;" },
			func(c *Config) bool { return slices.Equal(c.Join, []string{"10.0.0.2:9090", "b:9"}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("POD_IP", c.pod)
			cfg := good()
			c.change(&cfg)
			if err := cfg.Prepare(c.role); err != nil {
				t.Fatal(err)
			}
			if !c.want(&cfg) {
				t.Fatalf("%+v", cfg)
			}
		})
	}
}

func TestNetworkByProof(t *testing.T) {
	plain := good()
	if n, err := plain.Network("query"); err != nil || n != (rpcnet.TCP{}) {
		t.Errorf("plain: %T, %v", n, err)
	}
	shared := good()
	shared.Secret = "a secret of enough bytes"
	if n, err := shared.Network("query"); err != nil {
		t.Error(err)
	} else if _, ok := n.(*rpcnet.Secret); !ok {
		t.Errorf("secret: %T", n)
	}
	shared.Secret = "short"
	if _, err := shared.Network("query"); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("a short secret: %v", err)
	}
	dir := t.TempDir()
	a, err := nodecert.NewAuthority("kalamdb", certificateLife)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := a.Issue(dir, "kalamdb", "query", certificateLife); err != nil {
		t.Fatal(err)
	}
	proven := good()
	proven.CertsDir, proven.Secret = dir, "a secret of enough bytes"
	if err := proven.Prepare("query"); err != nil {
		t.Fatal(err)
	}
	n, err := proven.Network("query")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := n.(*rpcnet.TLS); !ok {
		t.Errorf("certificates: %T", n)
	}
}

// The names that installations of the original use keep working.
func TestVariablesOfTheOriginal(t *testing.T) {
	env := map[string]string{"KALAMDB_CLUSTER_PEERS": "2@b:9090@http://b:8080", "KALAMDB_NODE_ID": "7", "KALAMDB_CLUSTER_ID": "east",
		"KALAMDB_CLUSTER_RPC_ADDR": "127.0.0.1:1", "KALAMDB_CLUSTER_API_ADDR": "http://a:8080"}
	s := struct {
		Cluster Config `toml:"cluster"`
	}{good()}
	s.Cluster.Join = nil
	err := config.Load(&s, config.Source{LookupEnv: func(k string) (string, bool) { v, ok := env[k]; return v, ok }})
	if err != nil {
		t.Fatal(err)
	}
	c := &s.Cluster
	if err := c.Prepare("gateway"); err != nil {
		t.Fatal(err)
	}
	if c.NodeID != 7 || c.Name != "east" || c.ListenAddr != "127.0.0.1:1" || c.APIAddr != "http://a:8080" || !slices.Equal(c.Join, []string{"b:9090"}) {
		t.Fatalf("%+v", c)
	}
}

func TestPeers(t *testing.T) {
	for _, c := range []struct {
		text string
		want []peer
	}{
		{"", nil},
		{" ; ;", nil},
		{"2@b:9090", []peer{{2, "b:9090"}}},
		{"2@b:9090@", []peer{{2, "b:9090"}}},
		{"511@[::1]:9090@https://b@name;3@c:1", []peer{{511, "[::1]:9090"}, {3, "c:1"}}},
	} {
		if got, err := parsePeers(c.text); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q: %v, %v", c.text, got, err)
		}
	}
	for _, bad := range []string{"b:9090", "0@b:1", "512@b:1", "x@b:1", "-1@b:1", "2@b", "2@:1", "2@b:", "2@b:1@b:2", "2@b:1@http://b@n@n", "2@b:1;2@c:1", "2@b:1;3@b:1"} {
		if got, err := parsePeers(bad); !dberr.Is(err, dberr.InvalidArgument) {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
}

func FuzzPeers(f *testing.F) {
	f.Add("2@host:9090@http://host:8080@name;3@[::1]:1")
	f.Fuzz(func(t *testing.T, text string) {
		peers, err := parsePeers(text)
		if err != nil {
			return
		}
		for _, p := range peers {
			if p.id == 0 || p.id > NodeMax || p.rpc == "" {
				t.Fatalf("%q gave %+v", text, p)
			}
		}
	})
}
