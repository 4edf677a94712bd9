package live

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/datum"
)

// BenchmarkChange measures a change's way from storage to a gateway, one at a time (latency), while
// many users are subscribed. The numbers must not depend on how many there are.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprintf("subscriptions=%d", n), func(b *testing.B) {
			w := newWorld(b, Config{QueueMessages: 1 << 20, QueueBytes: 1 << 30})
			var before, after runtime.MemStats
			g := w.gateway()
			clients := subscribeAll(g, n, &before, &after)
			b.ResetTimer()
			for i := range b.N {
				c := clients[i*7919%n]
				w.storage.Put(messages, c.user, datum.Int(int64(i)), datum.Text("main"), datum.Text("hello"))
				c.waitChanged()
			}
			// The fake storage, the gateway and the client of the test included.
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "heap-B/subscription")
		})
	}
}

// BenchmarkChangeThroughput is the same without waiting for each.
func BenchmarkChangeThroughput(b *testing.B) {
	for _, n := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprintf("subscriptions=%d", n), func(b *testing.B) {
			w := newWorld(b, Config{QueueMessages: 1 << 22, QueueBytes: 1 << 32})
			var before, after runtime.MemStats
			clients := subscribeAll(w.gateway(), n, &before, &after)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				c := clients[i*7919%n]
				w.storage.Put(messages, c.user, datum.Int(int64(i)), datum.Text("main"), datum.Text("hello"))
			}
			for i := range b.N {
				clients[i*7919%n].waitChanged()
			}
		})
	}
}

// BenchmarkSharedPartition has all subscriptions on one partition, in one group: a message names all.
func BenchmarkSharedPartition(b *testing.B) {
	const n = 10_000
	w := newWorld(b, Config{})
	g := w.gateway()
	var c *client
	for range n {
		c = g.subscribe("alice", withFilter(inRoom("main")))
		c.waitSubscribed()
	}
	g.mu.Lock()
	clear(g.subs)
	g.subs[c.id] = c // the others would only measure this test's gateway
	g.mu.Unlock()
	b.ResetTimer()
	for i := range b.N {
		w.put("alice", int64(i), "main", "hello")
		c.waitChanged()
	}
}

func subscribeAll(g *gateway, n int, before, after *runtime.MemStats) []*client {
	runtime.GC()
	runtime.ReadMemStats(before)
	clients := make([]*client, n)
	for i := range clients {
		clients[i] = g.subscribe(fmt.Sprintf("user-%06d", i))
	}
	for _, c := range clients {
		c.waitSubscribed()
	}
	runtime.GC()
	runtime.ReadMemStats(after)
	return clients
}
