package shard

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
)

func TestDefaults(t *testing.T) {
	now := time.Date(1969, 12, 31, 23, 0, 0, 5000, time.UTC) // before 1970: days round down
	ids, err := snowflake.New(snowflake.IDEpoch, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := filler{now: now, user: "ann", ids: ids, rand: bytes.NewReader(bytes.Repeat([]byte{0xFF}, 100))}
	column := func(k catalog.TypeKind, d catalog.DefaultKind) *catalog.Column {
		return &catalog.Column{Name: "c", Type: catalog.Type{Kind: k}, Default: catalog.Default{Kind: d, Literal: datum.Append(nil, datum.Int(7))}}
	}
	for _, c := range []struct {
		column *catalog.Column
		want   datum.Datum
	}{
		{column(catalog.Text, catalog.NoDefault), datum.Null},
		{column(catalog.BigInt, catalog.DefaultLiteral), datum.Int(7)},
		{column(catalog.Timestamp, catalog.DefaultNow), datum.Timestamp(now.UnixMicro())},
		{column(catalog.DateTime, catalog.DefaultNow), datum.Timestamp(now.UnixMicro())},
		{column(catalog.Date, catalog.DefaultNow), datum.Date(-1)},
		{column(catalog.Time, catalog.DefaultNow), datum.Time((23 * time.Hour).Microseconds() + 5)},
		{column(catalog.Text, catalog.DefaultCurrentUser), datum.Text("ann")},
	} {
		if got, err := f.defaultOf(c.column); err != nil || !datum.Equal(got, c.want) {
			t.Errorf("%s default %d: %v, %v", c.column.Type, c.column.Default.Kind, got, err)
		}
	}
	if d, err := f.defaultOf(column(catalog.BigInt, catalog.DefaultSnowflakeID)); err != nil || snowflake.Node(uint64(d.AsInt())) != 3 {
		t.Errorf("snowflake: %v, %v", d, err)
	}
	f.now = time.UnixMilli(0x0123456789AB)
	if d, err := f.defaultOf(column(catalog.Text, catalog.DefaultUUIDV7)); err != nil || d.AsText() != "01234567-89ab-7fff-bfff-ffffffffffff" {
		t.Errorf("uuid: %q, %v", d.AsText(), err)
	}
	if d, err := f.defaultOf(column(catalog.UUID, catalog.DefaultUUIDV7)); err != nil || d.Kind() != datum.KindUUID {
		t.Errorf("uuid: %v, %v", d, err)
	}
	if d, err := f.defaultOf(column(catalog.Text, catalog.DefaultULID)); err != nil || len(d.AsText()) != 26 || !strings.HasSuffix(d.AsText(), "ZZZZZZZZZZZZZZZZ") {
		t.Errorf("ulid: %q, %v", d.AsText(), err)
	}
	if _, err := f.defaultOf(column(catalog.BigInt, catalog.DefaultNow)); !dberr.Is(err, dberr.InvalidOperation) {
		t.Errorf("NOW() for a BIGINT: %v", err)
	}
	f.rand = bytes.NewReader(nil)
	if _, err := f.defaultOf(column(catalog.Text, catalog.DefaultULID)); err == nil {
		t.Error("a ULID without randomness")
	}
}

func TestRanges(t *testing.T) {
	decimal := func(v int64, scale uint8) datum.Datum {
		d, _ := datum.DecimalFromBig(big.NewInt(v), scale)
		return d
	}
	money := catalog.Type{Kind: catalog.Decimal, Precision: 4, Scale: 2}
	vector := catalog.Type{Kind: catalog.Embedding, Dimension: 2}
	for _, c := range []struct {
		typ  catalog.Type
		v    datum.Datum
		code dberr.Code
	}{
		{catalog.Type{Kind: catalog.SmallInt}, datum.Int(math.MinInt16), ""},
		{catalog.Type{Kind: catalog.SmallInt}, datum.Int(math.MaxInt16 + 1), dberr.ValueOutOfRange},
		{catalog.Type{Kind: catalog.Int}, datum.Int(math.MaxInt32), ""},
		{catalog.Type{Kind: catalog.Int}, datum.Int(math.MinInt32 - 1), dberr.ValueOutOfRange},
		{catalog.Type{Kind: catalog.BigInt}, datum.Int(math.MinInt64), ""},
		{catalog.Type{Kind: catalog.Float}, datum.Float(math.MaxFloat32), ""},
		{catalog.Type{Kind: catalog.Float}, datum.Float(math.MaxFloat64), dberr.ValueOutOfRange},
		{catalog.Type{Kind: catalog.Float}, datum.Float(math.Inf(1)), ""},
		{catalog.Type{Kind: catalog.Time}, datum.Time(dayMicros - 1), ""},
		{catalog.Type{Kind: catalog.Time}, datum.Time(dayMicros), dberr.ValueOutOfRange},
		{catalog.Type{Kind: catalog.Time}, datum.Time(-1), dberr.ValueOutOfRange},
		{money, decimal(9999, 2), ""},
		{money, decimal(-10000, 2), dberr.ValueOutOfRange},
		{money, decimal(99, 1), dberr.InvalidArgument},
		{vector, datum.Embedding([]float32{1, 2}), ""},
		{vector, datum.Embedding([]float32{1}), dberr.InvalidArgument},
		{catalog.Type{Kind: catalog.Text}, datum.Text("\xff"), dberr.InvalidArgument},
		{catalog.Type{Kind: catalog.Bytes}, datum.Bytes([]byte{0xff}), ""},
	} {
		if err := checkValue(&catalog.Column{Name: "c", Type: c.typ}, c.v); dberr.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %q", c.typ, err, c.code)
		}
	}
}

func TestAKeyThatWasWaitedForInVainIsPassedOn(t *testing.T) {
	r := newReservations()
	if err := r.acquire(t.Context(), []string{"b"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp, got := make(chan error), make(chan error)
	go func() { gaveUp <- r.acquire(ctx, []string{"a", "b", "c"}) }()
	waiters := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.held["b"] == nil {
			return 0
		}
		return len(r.held["b"].waiting)
	}
	until(t, "the first waits", func() bool { return waiters() == 1 })
	go func() { got <- r.acquire(t.Context(), []string{"b", "c"}) }()
	until(t, "the second waits", func() bool { return waiters() == 2 })
	cancel()
	if err := <-gaveUp; !dberr.Is(err, dberr.Canceled) || !errors.Is(err, context.Canceled) {
		t.Errorf("gave up with %v", err)
	}
	if err := r.acquire(t.Context(), []string{"a"}); err != nil { // was given back
		t.Fatal(err)
	}
	r.release([]string{"b"})
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	r.release([]string{"a", "b", "c"})
	if len(r.held) != 0 {
		t.Errorf("still held: %v", r.held)
	}
}

func TestReservationsExcludeAndEnd(t *testing.T) {
	r := newReservations()
	keys := []string{"a", "b", "c", "d"}
	counts := map[string]int{} // guarded by the reservations alone: -race sees if they fail
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 200 {
				own := []string{keys[(w+i)%3], keys[3]}
				if (w+i)%5 == 0 {
					own = keys
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%3)*time.Millisecond+time.Microsecond)
				if r.acquire(ctx, own) == nil {
					counts["d"]++
					r.release(own)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if len(r.held) != 0 {
		t.Errorf("still held: %v", r.held)
	}
}
