package pause

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// The clock in here is that of the bubble: it moves when everybody waits, and only as far as needed.
func TestForWaitsAsLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, d := range []time.Duration{-time.Second, 0, 1, time.Hour} {
			began := time.Now()
			if err := For(t.Context(), d); err != nil {
				t.Errorf("%v: %v", d, err)
			}
			if took := time.Since(began); took != max(d, 0) {
				t.Errorf("For(%v) took %v", d, took)
			}
		}
	})
}

func TestForEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := For(short, time.Hour); !dberr.Is(err, dberr.Timeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the deadline comes first: %v", err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("took %v", took)
		}
		over, end := context.WithCancel(t.Context())
		end()
		for _, d := range []time.Duration{0, time.Hour} {
			if err := For(over, d); !dberr.Is(err, dberr.Canceled) {
				t.Errorf("For(%v) with a context that has ended: %v", d, err)
			}
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("waited with a context that has ended: %v", took)
		}
	})
}

func TestGrowingDoublesToItsMaximum(t *testing.T) {
	const first, most = 5 * time.Millisecond, 250 * time.Millisecond
	drawn := map[time.Duration]bool{}
	for range 100 {
		g := Growing{Min: first, Max: most}
		for i, want := range []time.Duration{first, 2 * first, 4 * first, 8 * first, 16 * first, 32 * first, most, most, most} {
			d := g.next()
			if d < want/2 || d >= want+want/2 {
				t.Fatalf("pause %d is %v, want about %v", i, d, want)
			}
			drawn[d] = true
		}
	}
	if len(drawn) < 100 {
		t.Errorf("900 pauses are only %d different ones", len(drawn))
	}
}

func TestGrowingStops(t *testing.T) {
	var zero Growing
	if err := zero.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g := Growing{Min: time.Hour, Max: time.Hour}
	if err := g.Wait(ctx); !dberr.Is(err, dberr.Canceled) {
		t.Error(err)
	}
}
