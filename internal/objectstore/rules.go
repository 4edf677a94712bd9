package objectstore

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Rules say where a store may be. The zero value allows every public address and every folder that is not the system's.
type Rules struct {
	// Endpoints are hosts (host, host:port, *.domain) and networks (10.0.0.0/8). When there are any, only these and the providers' own
	// addresses are asked; addresses of the machine itself and of private networks are asked only when they are listed. Addresses that
	// tell of the machine, as 169.254.169.254, never are.
	Endpoints []string
	// Folders are those below which the folder of a store may be. Empty means all but the system's.
	Folders []string
	// Forbidden are further folders that are no store's: what the server keeps its own files in.
	Forbidden []string
}

// system folders are nobody's data.
var system = []string{"/etc", "/root", "/proc", "/sys", "/dev", "/boot", "/bin", "/sbin", "/lib", "/lib64", "/usr", "/run", "/var/log", "/var/run", "/var/lib", "/var/spool"}

// CheckFolder refuses a folder that Rules do not allow, also when a link leads to it.
func (r *Rules) CheckFolder(folder string) error {
	if !path.IsAbs(folder) || path.Clean(folder) != folder || strings.ContainsRune(folder, 0) {
		return dberr.New(dberr.InvalidArgument, "%.100q is not the path of a folder", folder)
	}
	real, err := resolved(folder)
	if err != nil {
		return dberr.New(dberr.InvalidArgument, "look where the folder %.100q is: %s", folder, errors.Unwrap(err))
	}
	for _, f := range []string{folder, real} {
		if f == "/" || slices.ContainsFunc(system, func(s string) bool { return below(f, s) }) && !r.listed(f) {
			return dberr.New(dberr.InvalidArgument, "the folder %.100q belongs to the system and cannot be a storage", f)
		}
		if slices.ContainsFunc(r.Forbidden, func(s string) bool { return below(f, s) || below(s, f) }) {
			return dberr.New(dberr.InvalidArgument, "the folder %.100q is, is in or has the server's own data directory and cannot be a storage", f)
		}
		if len(r.Folders) > 0 && !r.listed(f) {
			return dberr.New(dberr.InvalidArgument, "the folder %.100q is not below one of storage.paths_allowed", f)
		}
	}
	return nil
}

func (r *Rules) listed(folder string) bool {
	return slices.ContainsFunc(r.Folders, func(s string) bool { return below(folder, path.Clean(s)) })
}

func below(folder, top string) bool {
	return folder == top || top == "/" || strings.HasPrefix(folder, top+"/")
}

// resolved follows the links of what there is of a folder.
func resolved(folder string) (string, error) {
	rest := ""
	for {
		real, err := filepath.EvalSymlinks(folder)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", &os.PathError{Op: "resolve", Path: folder, Err: err}
		}
		if _, err := os.Lstat(folder); err == nil { // a link to nowhere, which could become one to anywhere
			return "", &os.PathError{Op: "resolve", Path: folder, Err: errors.New("it is a link to what does not exist")}
		}
		rest = filepath.Join(filepath.Base(folder), rest)
		folder = filepath.Dir(folder)
	}
}

// providers are the domains of the services themselves.
var providers = []string{"amazonaws.com", "amazonaws.com.cn", "googleapis.com", "core.windows.net", "core.chinacloudapi.cn", "core.usgovcloudapi.net"}

// checkHost refuses a host before it is resolved.
func (r *Rules) checkHost(host, port string) error {
	if ip, err := netip.ParseAddr(host); err == nil {
		return r.checkAddress(host, port, ip)
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if len(r.Endpoints) == 0 || r.names(host, port) || r.networks() ||
		slices.ContainsFunc(providers, func(p string) bool { return host == p || strings.HasSuffix(host, "."+p) }) {
		return nil
	}
	return dberr.New(dberr.InvalidArgument, "the endpoint %s is not in storage.endpoints_allowed", net.JoinHostPort(host, port))
}

// networks reports whether a network is listed: then a name is decided by its addresses.
func (r *Rules) networks() bool {
	return slices.ContainsFunc(r.Endpoints, func(e string) bool { return strings.Contains(e, "/") })
}

// names reports whether a host is listed by its name.
func (r *Rules) names(host, port string) bool {
	return slices.ContainsFunc(r.Endpoints, func(e string) bool {
		e = strings.ToLower(e)
		if h, p, err := net.SplitHostPort(e); err == nil {
			if p != port {
				return false
			}
			e = h
		}
		domain, wild := strings.CutPrefix(e, "*.")
		return e == host || wild && strings.HasSuffix(host, "."+domain)
	})
}

// never are networks of which something tells who may do what on this machine, or that lead to other addresses unseen.
var never = []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("fd00:ec2::/32"),
	netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("240.0.0.0/4")}

// shared are addresses behind a provider's translation.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// checkAddress refuses an address that a host has resolved to.
func (r *Rules) checkAddress(host, port string, ip netip.Addr) error {
	ip = ip.Unmap().WithZone("")
	if ip.IsMulticast() || ip.IsUnspecified() || slices.ContainsFunc(never, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return dberr.New(dberr.InvalidArgument, "the endpoint %s is the address %s, which no storage can have", host, ip)
	}
	listed := r.names(host, port) || slices.ContainsFunc(r.Endpoints, func(e string) bool {
		p, err := netip.ParsePrefix(e)
		return err == nil && p.Contains(ip)
	})
	inside := ip.IsLoopback() || ip.IsPrivate() || shared.Contains(ip)
	if inside && !listed {
		return dberr.New(dberr.InvalidArgument, "the endpoint %s is the address %s inside of this network: list it in storage.endpoints_allowed", host, ip)
	}
	if !listed && r.networks() && len(r.Endpoints) > 0 {
		if _, err := netip.ParseAddr(host); err == nil || (&Rules{Endpoints: names(r.Endpoints)}).checkHost(host, port) != nil {
			return dberr.New(dberr.InvalidArgument, "the endpoint %s (%s) is not in storage.endpoints_allowed", host, ip)
		}
	} else if _, err := netip.ParseAddr(host); err == nil && !listed && len(r.Endpoints) > 0 {
		return dberr.New(dberr.InvalidArgument, "the endpoint %s is not in storage.endpoints_allowed", host)
	}
	return nil
}

// names are the entries that are no networks, or one that nothing has: an empty list would allow everything.
func names(endpoints []string) []string {
	return append(slices.DeleteFunc(slices.Clone(endpoints), func(e string) bool { return strings.Contains(e, "/") }), "\x00")
}

// client makes the HTTP client of a store: it connects to what Rules allow, whatever a name resolves to by then, and follows no redirect.
func (s *Store) client() *http.Client {
	rules, limits := &s.cfg.Rules, s.cfg.Limits
	transport := &http.Transport{TLSHandshakeTimeout: limits.Connect, ResponseHeaderTimeout: limits.Request, MaxIdleConnsPerHost: requestsMax,
		MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			if err := rules.checkHost(host, port); err != nil {
				return nil, err
			}
			d := net.Dialer{Timeout: limits.Connect, Control: func(_, resolved string, _ syscall.RawConn) error {
				ip, err := netip.ParseAddrPort(resolved)
				if err != nil {
					return err
				}
				return rules.checkAddress(host, port, ip.Addr())
			}}
			return d.DialContext(ctx, network, addr)
		}}
	s.close = transport.CloseIdleConnections
	return &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, _ []*http.Request) error {
		return dberr.New(dberr.InvalidArgument, "the store sends requests on to %s, which is not followed: give that as the endpoint", req.URL.Host)
	}}
}
