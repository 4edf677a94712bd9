//go:build faults

package main

import (
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// lookEvery is how often the file is read.
const lookEvery = 20 * time.Millisecond

// clock is off by what the file named by FAULTS_CLOCK_FILE says: a duration such as -90s. Only builds with the tag
// faults have it: clocks of real nodes are nobody's to turn.
var clock = func() func() time.Time {
	path := os.Getenv("FAULTS_CLOCK_FILE")
	if path == "" {
		return nil
	}
	var offset atomic.Int64
	look := func() {
		raw, err := os.ReadFile(path)
		if err != nil {
			return // not there yet, or being replaced
		}
		if d, err := time.ParseDuration(strings.TrimSpace(string(raw))); err == nil {
			offset.Store(int64(d))
		}
	}
	look()
	go func() { // as long as the process
		for range time.Tick(lookEvery) {
			look()
		}
	}()
	return func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
}()
