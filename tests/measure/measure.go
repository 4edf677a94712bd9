// Package measure collects durations and prints their distribution.
package measure

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Durations is a set of measured durations. It is safe for concurrent use.
type Durations struct {
	mu  sync.Mutex
	all []time.Duration
}

// Add records one.
func (d *Durations) Add(v time.Duration) {
	d.mu.Lock()
	d.all = append(d.all, v)
	d.mu.Unlock()
}

// Len is how many were recorded.
func (d *Durations) Len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.all)
}

// Quantile returns the q-quantile (0 to 1), or zero when nothing was recorded.
func (d *Durations) Quantile(q float64) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.all) == 0 {
		return 0
	}
	slices.Sort(d.all)
	return d.all[int(q*float64(len(d.all)-1))]
}

// String shows the median, the 99th percentile and the maximum.
func (d *Durations) String() string {
	return fmt.Sprintf("p50 %s  p99 %s  max %s  (n=%d)", Short(d.Quantile(0.5)), Short(d.Quantile(0.99)),
		Short(d.Quantile(1)), d.Len())
}

// Short prints a duration with three significant digits.
func Short(v time.Duration) string {
	switch {
	case v >= time.Second:
		return fmt.Sprintf("%.2fs", v.Seconds())
	case v >= time.Millisecond:
		return fmt.Sprintf("%.2fms", float64(v)/1e6)
	}
	return fmt.Sprintf("%.0fµs", float64(v)/1e3)
}
