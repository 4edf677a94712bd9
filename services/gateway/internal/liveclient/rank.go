package liveclient

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strconv"

	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// roleLive is the role of live nodes in the catalog.
const roleLive = "live"

// keyOf is what decides a subscription's node: those with the same key meet.
func keyOf(req *livev1.Subscribe) string {
	if user := req.GetPlan().GetUserId(); user != "" {
		return "u" + user
	}
	return "t" + strconv.FormatUint(uint64(req.GetPlan().GetTableId()), 10)
}

// ranked lists the live nodes, the best for key first; those that failed lately come last.
func (c *Client) ranked(key string) []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	type rank struct {
		n     *node
		fails bool
		score uint64
	}
	now := c.cfg.Now()
	var all []rank
	for _, n := range c.present() {
		fails := !n.failed.IsZero() && now.Sub(n.failed) < avoidFor
		all = append(all, rank{n, fails, score(key, n.id)})
	}
	slices.SortFunc(all, func(a, b rank) int {
		if a.fails != b.fails {
			if a.fails {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.n.id, b.n.id))
	})
	out := make([]*node, len(all))
	for i, r := range all {
		out[i] = r.n
	}
	return out
}

// present lists the nodes that may be asked, and forgets others that have no stream. mu is held.
func (c *Client) present() []*node {
	names := map[string]string{}
	for _, n := range c.cfg.Nodes.Nodes(roleLive) {
		names[n.GetServerId()] = n.GetRpcAddr()
	}
	if len(names) == 0 {
		names[c.cfg.Addr] = c.cfg.Addr
	}
	for id, n := range c.nodes {
		if names[id] != n.addr && n.current == nil {
			delete(c.nodes, id)
		}
	}
	out := make([]*node, 0, len(names))
	for id, addr := range names {
		n := c.nodes[id]
		if n == nil || n.addr != addr {
			n = &node{id: id, addr: addr}
			c.nodes[id] = n
		}
		out = append(out, n)
	}
	return out
}

// score is the rendezvous hash; every gateway computes the same.
func score(key, node string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key)) // a hash takes everything
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(node))
	return mix(h.Sum64())
}

// mix spreads FNV's sum, whose high bits differ little between short similar inputs (the finalizer of
// SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
