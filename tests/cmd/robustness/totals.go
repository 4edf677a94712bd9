package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/tests/robustness"
)

// totals add up the runs.
type totals struct {
	operations, unknown, events, resumes int
	longest                              time.Duration
	faults                               map[string]int
}

func (t *totals) add(r *robustness.Report) {
	t.operations, t.unknown, t.events, t.resumes = t.operations+r.Operations, t.unknown+r.Unknown, t.events+r.Events, t.resumes+r.Resumes
	t.longest = max(t.longest, r.LongestGap)
	if t.faults == nil {
		t.faults = map[string]int{}
	}
	for _, f := range r.Faults {
		name, _, _ := strings.Cut(f, "@")
		t.faults[name]++
	}
}

func (t *totals) String() string {
	var faults []string
	for _, name := range slices.Sorted(maps.Keys(t.faults)) {
		faults = append(faults, fmt.Sprintf("%s %d", name, t.faults[name]))
	}
	return fmt.Sprintf("%d operations (%d unknown), %d events, %d resumes, longest write gap %v; faults: %s", t.operations, t.unknown,
		t.events, t.resumes, t.longest.Round(time.Millisecond), strings.Join(faults, ", "))
}
