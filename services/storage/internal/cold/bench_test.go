package cold

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// BenchmarkWrite is what a segment costs without a disk: few rows are mostly the file's frame.
func BenchmarkWrite(b *testing.B) {
	for _, rows := range []int{50, 5_000, 65_536} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			table := notes()
			list := make([]keycodec.Version, rows)
			for i := range list {
				row := rowcodec.NewRow(table)
				row.Put(0, datum.Int(int64(i)))
				row.Put(1, datum.Text("a message of some length, as people write them to each other, number "+fmt.Sprint(i*7919%rows)))
				list[i] = keycodec.Version{Seq: uint64(i + 1), SchemaVersion: 1, Row: rowcodec.Append(nil, table, &row)}
			}
			n := 0
			out := Output{Files: NewFiles(vfs.NewMem(), "segments"), Now: time.Now, Name: func() string { n++; return fmt.Sprint(n % 10) },
				Commit: func(context.Context, *storagev1.Segment) error { return nil }}
			b.ReportAllocs()
			for b.Loop() {
				i := 0
				if _, err := out.Write(b.Context(), Partition{Table: table, Owner: "ann"}, 0, func(context.Context) ([]byte, keycodec.Version, bool, error) {
					if i == rows {
						return nil, keycodec.Version{}, false, nil
					}
					i++
					return keyOf(i), list[i-1], true, nil
				}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
