package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/measure"
)

// line is one contender's figures in one work: a value for each repetition.
type line struct {
	Name string
	Unit string
	// P50, P99 in milliseconds and Rate per second, for each repetition.
	P50, P99, Rate []float64
}

// table is one work's result. Ratios are against the first line (ours): paired by repetition.
type table struct {
	Work, Title string
	Lines       []*line
	Notes       []string
}

func (t *table) line(name string) *line {
	for _, l := range t.Lines {
		if l.Name == name {
			return l
		}
	}
	l := &line{Name: name}
	t.Lines = append(t.Lines, l)
	return l
}

func (t table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s  %s\n%-46s %10s %10s %12s %10s %10s\n", t.Work, t.Title, "", "p50 ms", "p99 ms", "per second",
		"p50 ours/", "rate ours/")
	ours := t.Lines[0]
	for _, l := range t.Lines {
		fmt.Fprintf(&b, "%-46s %10.3f %10.3f %12.0f", l.Name, median(l.P50), median(l.P99), median(l.Rate))
		if l != ours {
			fmt.Fprintf(&b, " %10.2f %10.2f", median(ratios(ours.P50, l.P50)), median(ratios(ours.Rate, l.Rate)))
		}
		b.WriteString("\n")
	}
	for _, n := range t.Notes {
		fmt.Fprintf(&b, "  %s\n", n)
	}
	return b.String()
}

func ratios(a, b []float64) []float64 {
	var out []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Clone(v)
	slices.Sort(s)
	return s[len(s)/2]
}

// drive calls op from n workers for the given time and adds one repetition to l.
func drive(ctx context.Context, l *line, n int, d time.Duration, op func(ctx context.Context, worker int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var lat measure.Durations
	var done atomic.Int64
	began := time.Now()
	var wg sync.WaitGroup
	for w := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for time.Since(began) < d && ctx.Err() == nil {
				t := time.Now()
				if err := op(ctx, w); err != nil {
					cancel(fmt.Errorf("%s: %w", l.Name, err))
					return
				}
				lat.Add(time.Since(t))
				done.Add(1)
			}
		}()
	}
	wg.Wait()
	l.record(&lat, float64(done.Load())/time.Since(began).Seconds())
	return context.Cause(ctx)
}

func (l *line) record(lat *measure.Durations, rate float64) {
	l.P50 = append(l.P50, lat.Quantile(.5).Seconds()*1e3)
	l.P99 = append(l.P99, lat.Quantile(.99).Seconds()*1e3)
	l.Rate = append(l.Rate, rate)
}
