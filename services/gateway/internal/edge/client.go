// Package edge is what every HTTP listener of the gateway shares: who the peer is, request ids, CORS,
// timeouts, and the operations listener.
package edge

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/limit"
)

// Proxies are the reverse proxies whose word about a client's address is taken.
type Proxies struct{ ranges []netip.Prefix }

// ParseProxies reads addresses and CIDR ranges.
func ParseProxies(list []string) (Proxies, error) {
	var p Proxies
	for _, text := range list {
		text = strings.TrimSpace(text)
		if a, err := netip.ParseAddr(text); err == nil {
			p.ranges = append(p.ranges, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
			continue
		}
		r, err := netip.ParsePrefix(text)
		if err != nil {
			return Proxies{}, dberr.New(dberr.InvalidArgument, "trusted proxy %q is neither an address nor a CIDR range", text)
		}
		p.ranges = append(p.ranges, r.Masked())
	}
	return p, nil
}

// Trusts reports whether an address is a proxy of ours.
func (p Proxies) Trusts(a netip.Addr) bool {
	for _, r := range p.ranges {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

// forwardHeaders betray a proxy in front of us. Loopback has rights (root may log in, setup is open),
// so a peer on this machine that forwards for somebody must not be taken for that machine.
var forwardHeaders = []string{"Forwarded", "X-Real-Ip", "X-Forwarded-Host", "Via"}

// Client finds the address a request comes from. Headers count only when the peer is loopback or a
// trusted proxy; then it is the last address that is not itself one of those. The zero Addr means
// "forwarded, for whom is not known". header returns the values of a header, or of gRPC metadata.
func (p Proxies) Client(peer netip.Addr, header func(name string) []string) netip.Addr {
	if !peer.IsLoopback() && !p.Trusts(peer) {
		return peer
	}
	chain := strings.Split(strings.Join(header("X-Forwarded-For"), ","), ",")
	if len(chain) == 1 && strings.TrimSpace(chain[0]) == "" {
		for _, name := range forwardHeaders {
			if strings.Join(header(name), "") != "" {
				return netip.Addr{}
			}
		}
		return peer
	}
	last, far := peer, peer // far is the last hop on another machine
	for i := len(chain) - 1; i >= 0; i-- {
		a, ok := parseHop(chain[i])
		if !ok {
			return netip.Addr{}
		}
		if last = a; !a.IsLoopback() {
			far = a
			if !p.Trusts(a) {
				break
			}
		}
	}
	if last.IsLoopback() {
		return far // what another machine calls loopback is not this one
	}
	return last
}

func parseHop(text string) (netip.Addr, bool) {
	text = strings.TrimSpace(text)
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr().Unmap(), true
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return a.Unmap().WithZone(""), err == nil
}

type contextKey int

const (
	peerKey contextKey = iota
	clientKey
	requestIDKey
)

// ConnContext is for http.Server: it keeps the peer's address.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey, limit.AddrOf(c.RemoteAddr()))
}

// WithClient keeps the address a request comes from.
func WithClient(ctx context.Context, client netip.Addr) context.Context {
	return context.WithValue(ctx, clientKey, client)
}

// Client returns the address that WithClient kept; the zero Addr when it is not known.
func Client(ctx context.Context) netip.Addr {
	a, _ := ctx.Value(clientKey).(netip.Addr)
	return a
}

// LocalHost reports whether a request was addressed to this machine by a name of its own. A web page
// that had its own name resolved to 127.0.0.1 sends another Host.
func LocalHost(r *http.Request) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.IsLoopback()
}
