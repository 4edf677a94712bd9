package group

import "github.com/kalamdb/kalamdb-go/services/live/internal/outbox"

// progress is called by the feed when everything up to position in a shard has been delivered. It
// passes bookmarks on to the subscriptions that were sent nothing else, so that a client that is idle
// for days can still resume: at most every ProgressEvery, as it visits every partition of the shard.
func (h *Hub) progress(shard uint32, position uint64) {
	h.catchUp(shard)
	if !h.bookmarksDue(shard) {
		return
	}
	quiet := map[*outbox.Queue][]uint64{}
	for _, p := range h.inShard(shard) {
		p.bookmark(position, quiet)
	}
	for out, ids := range quiet {
		out.Push(outbox.Item{Progress: position, Subscriptions: ids, Resume: position})
	}
}

// bookmarksDue reports whether it is time for a shard's bookmarks, and counts them as sent.
func (h *Hub) bookmarksDue(shard uint32) bool {
	h.toldMu.Lock()
	defer h.toldMu.Unlock()
	now := h.cfg.Now()
	if now.Sub(h.told[shard]) < h.cfg.ProgressEvery {
		return false
	}
	h.told[shard] = now
	return true
}

// bookmark adds the subscriptions that should be told of position. A subscription that goes live after
// this is not among them, and one that is hears of later changes after its bookmark: the feed
// calls for one shard at a time.
func (p *Partition) bookmark(position uint64, quiet map[*outbox.Queue][]uint64) {
	p.mu.Lock()
	defer p.unlock()
	if !p.started || p.watch.Position() < position {
		return // started after the report
	}
	p.position = max(p.position, position)
	for _, s := range p.pendingNow() {
		if s.mode == joining {
			p.settle(s)
		}
	}
	for _, g := range p.groups {
		if !g.spoke && p.position == position {
			for _, m := range g.members {
				quiet[m.out] = append(quiet[m.out], m.ids...)
			}
		}
		g.spoke = false
	}
}
