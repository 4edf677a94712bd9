package scan_test

import (
	"testing"

	"github.com/apache/arrow-go/v18/arrow/flight"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// benchmark reads the rows from the hot store, and from a segment whose row groups are in memory.
func benchmark(b *testing.B, rows int, req *storagev1.ScanRequest) {
	for _, where := range []string{"hot", "cold"} {
		b.Run(where, func(b *testing.B) {
			n := filled(b, rows, 4)
			if where == "cold" {
				n.flush(b)
			}
			server := newServer(b, n)
			b.ReportAllocs()
			for b.Loop() {
				if err := server.Scan(b.Context(), req, discard{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type discard struct{}

func (discard) Send(*flight.FlightData) error { return nil }

// The chat case: the newest 50 of one conversation among a few hundred rows.
func BenchmarkLatestOfOneConversation(b *testing.B) {
	req := ask(1, 2, 3, 6, catalog.SeqColumnID)
	req.Filter = predicate.Call("=", predicate.Column(2), predicate.Literal(datum.Text("room-1")))
	req.Order = []*exprv1.OrderBy{{ColumnId: 1, Descending: true}}
	req.Limit = 50
	benchmark(b, 400, req)
}

func BenchmarkPointRead(b *testing.B) {
	req := ask(1, 2, 3, 6)
	req.Filter = predicate.Call("=", predicate.Column(1), predicate.Literal(datum.Int(77)))
	benchmark(b, 10_000, req)
}

func BenchmarkCount(b *testing.B) { benchmark(b, 10_000, ask()) }

func BenchmarkWhole(b *testing.B) { benchmark(b, 10_000, ask(1, 2, 3, 6)) }

func BenchmarkTop50ByAnotherColumn(b *testing.B) {
	req := ask(1, 2, 3, 6)
	req.Order, req.Limit = []*exprv1.OrderBy{{ColumnId: 3, Descending: true}}, 50
	benchmark(b, 10_000, req)
}
