package storage

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
)

// BenchmarkWrite is one row a write on the real disk, for one and for 64 clients at once.
func BenchmarkWrite(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
			r := start(b, Config{Dir: b.TempDir(), Shards: 8})
			messages := r.createTable("messages", catalog.UserTable)
			var next atomic.Int64
			b.ResetTimer()
			var wg sync.WaitGroup
			for c := range clients {
				user := fmt.Sprint("user", c)
				wg.Go(func() {
					for {
						id := next.Add(1)
						if id > int64(b.N) {
							return
						}
						r.insert(messages, user, int(id))
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkWriteBatch is 1,000 rows a write.
func BenchmarkWriteBatch(b *testing.B) {
	r := start(b, Config{Dir: b.TempDir(), Shards: 8})
	messages := r.createTable("messages", catalog.UserTable)
	const rows = 1000
	ids := make([]int, rows)
	next := 0
	for b.Loop() {
		for i := range ids {
			ids[i] = next
			next++
		}
		r.insert(messages, "ann", ids...)
	}
	b.ReportMetric(float64(next)/b.Elapsed().Seconds(), "rows/s")
}
