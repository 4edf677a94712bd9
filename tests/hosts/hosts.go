// Package hosts makes several hosts of one machine: a network namespace each, joined by a bridge, so
// that what crosses the network between processes is real and can be broken one way at a time. It needs
// root and Debian's iproute2 and nftables.
package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// hostsMax is how many hosts a network may have: the last byte of an address.
const hostsMax = 250

// nowhere is a hardware address nobody has: the bridge carries what is sent there to nobody.
const nowhere = "02:00:00:00:00:ff"

// Network is a bridge with hosts. The machine itself is on it too.
type Network struct {
	name   string // of the bridge, and the start of every other name
	subnet string // first three bytes of all addresses

	mu    sync.Mutex
	hosts []*Host
}

// Host is one namespace.
type Host struct {
	Name, Addr string
	network    *Network
	space      string // the namespace
	port       string // its end of the cable, on the bridge
}

// New makes a network whose name, of at most six letters, must be free on this machine. number chooses
// its addresses, 10.77.<number>.
func New(ctx context.Context, name string, number int) (*Network, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("making network namespaces needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, errors.New("the command ip is needed (Debian: apt-get install iproute2)")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return nil, errors.New("the command nft is needed (Debian: apt-get install nftables)")
	}
	n := &Network{name: name, subnet: fmt.Sprintf("10.77.%d", number)}
	n.Close(ctx) // what a killed run left
	for _, c := range []string{
		"link add name " + n.bridge() + " type bridge",
		"addr add " + n.subnet + ".254/24 dev " + n.bridge(),
		"link set " + n.bridge() + " up",
	} {
		if err := ip(ctx, c); err != nil {
			n.Close(ctx)
			return nil, err
		}
	}
	return n, nil
}

func (n *Network) bridge() string { return n.name + "br" }

// Add makes a host.
func (n *Network) Add(ctx context.Context, name string) (*Host, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := len(n.hosts) + 1
	if id > hostsMax {
		return nil, fmt.Errorf("more than %d hosts (hostsMax)", hostsMax)
	}
	h := &Host{Name: name, Addr: fmt.Sprintf("%s.%d", n.subnet, id), network: n,
		space: fmt.Sprintf("%sn%d", n.name, id), port: fmt.Sprintf("%sp%d", n.name, id)}
	n.hosts = append(n.hosts, h)
	for _, c := range []string{
		"netns add " + h.space,
		"link add " + h.port + " type veth peer name eth0 netns " + h.space,
		"link set " + h.port + " master " + n.bridge(),
		"link set " + h.port + " up",
		"-n " + h.space + " addr add " + h.Addr + "/24 dev eth0",
		"-n " + h.space + " link set lo up",
		"-n " + h.space + " link set eth0 up",
		"-n " + h.space + " route add default via " + n.subnet + ".254",
	} {
		if err := ip(ctx, c); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Close removes everything. Processes still running in a namespace keep it until they end.
func (n *Network) Close(ctx context.Context) {
	spaces, err := exec.CommandContext(ctx, "ip", "netns", "list").Output()
	if err == nil {
		for _, line := range strings.Split(string(spaces), "\n") {
			if space, _, _ := strings.Cut(line, " "); strings.HasPrefix(space, n.name+"n") {
				_ = ip(ctx, "netns del "+space)
			}
		}
	}
	// A host's cable goes with it, as soon as its last connection has given up: that may be minutes.
	if links, err := net.Interfaces(); err == nil {
		for _, l := range links {
			if strings.HasPrefix(l.Name, n.name+"p") {
				_ = ip(ctx, "link del "+l.Name) // fails when it went just now
			}
		}
	}
	_ = ip(ctx, "link del "+n.bridge()) // fails when there is none
}

// Command is the arguments that run a program on the host.
func (h *Host) Command(args ...string) []string {
	return append([]string{"ip", "netns", "exec", h.space}, args...)
}

// Cut makes what h sends to another host vanish: connections stay open and nothing arrives. The other way
// still works.
func (h *Host) Cut(ctx context.Context, other *Host) error {
	return ip(ctx, "-n "+h.space+" neigh replace "+other.Addr+" lladdr "+nowhere+" nud permanent dev eth0")
}

// Mend undoes Cut.
func (h *Host) Mend(ctx context.Context, other *Host) error {
	err := ip(ctx, "-n "+h.space+" neigh del "+other.Addr+" dev eth0")
	if err != nil && strings.Contains(err.Error(), "No such file") {
		return nil // was not cut
	}
	return err
}

// Down takes the host off the network, Up puts it back.
func (h *Host) Down(ctx context.Context) error { return ip(ctx, "link set "+h.port+" down") }

// Up puts the host back on the network.
func (h *Host) Up(ctx context.Context) error { return ip(ctx, "link set "+h.port+" up") }

// Slow limits what the host sends, in kilobits a second; what waits longer than latencyMS is lost.
func (h *Host) Slow(ctx context.Context, kilobits, latencyMS int) error {
	return run(ctx, "ip", strings.Fields(fmt.Sprintf("netns exec %s tc qdisc replace dev eth0 root tbf rate %dkbit burst 16kb latency %dms",
		h.space, kilobits, latencyMS))...)
}

// Fast undoes Slow.
func (h *Host) Fast(ctx context.Context) error {
	err := run(ctx, "ip", "netns", "exec", h.space, "tc", "qdisc", "del", "dev", "eth0", "root")
	if err != nil && (strings.Contains(err.Error(), "No such file") || strings.Contains(err.Error(), "Cannot delete qdisc")) {
		return nil // was not slow
	}
	return err
}

// lossTable is the table of Lossy in the host's packet filter.
const lossTable = "loss"

// Lossy loses a part of the packets that reach the host, in percent, each by chance.
func (h *Host) Lossy(ctx context.Context, percent int) error {
	if err := h.Lossless(ctx); err != nil {
		return err
	}
	chance := ""
	if percent < 100 { // nft refuses what is always true
		chance = fmt.Sprintf("numgen random mod 100 < %d ", percent)
	}
	for _, c := range []string{
		"add table ip " + lossTable,
		"add chain ip " + lossTable + " in { type filter hook input priority 0; }",
		"add rule ip " + lossTable + " in iifname eth0 " + chance + "drop",
	} {
		if err := h.nft(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// Lossless undoes Lossy.
func (h *Host) Lossless(ctx context.Context) error {
	if err := h.nft(ctx, "add table ip "+lossTable); err != nil { // so that there is one to delete
		return err
	}
	return h.nft(ctx, "delete table ip "+lossTable)
}

func (h *Host) nft(ctx context.Context, command string) error {
	return run(ctx, "ip", "netns", "exec", h.space, "nft", command)
}

// Heal mends the whole network.
func (n *Network) Heal(ctx context.Context) error {
	n.mu.Lock()
	hosts := append([]*Host(nil), n.hosts...)
	n.mu.Unlock()
	var errs []error
	for _, h := range hosts {
		errs = append(errs, h.Up(ctx), h.Fast(ctx), h.Lossless(ctx))
		for _, other := range hosts {
			if other != h {
				errs = append(errs, h.Mend(ctx, other))
			}
		}
	}
	return errors.Join(errs...)
}

func ip(ctx context.Context, args string) error { return run(ctx, "ip", strings.Fields(args)...) }

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
