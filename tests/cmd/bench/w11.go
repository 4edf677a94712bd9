package main

import (
	"context"
	"fmt"

	"github.com/kalamdb/kalamdb-go/tests/scaling"
)

// runW11 measures the idle cost of a user: memory and start-up time after a restart, few against many.
func runW11(ctx context.Context, s settings, _ *contenders) (table, error) {
	t := table{Title: "idle cost of a user (p50 and p99 are reads of a random user after a restart)"}
	var reports []*scaling.Report
	for _, users := range s.users {
		r, err := scaling.Measure(ctx, s.server, users, 500)
		if err != nil {
			return t, err
		}
		reports = append(reports, r)
		l := t.line(fmt.Sprintf("KalamDB, %d users with a row each", users))
		l.record(&r.Read, float64(users)/r.Load.Seconds())
		t.Notes = append(t.Notes, fmt.Sprintf("%d users: start-up %.0f ms, resident %.1f MB after the start", users,
			float64(r.Start.Milliseconds()), float64(r.StartedBytes)/(1<<20)))
	}
	few, many := reports[0], reports[1]
	t.Notes = append(t.Notes, fmt.Sprintf("resident per further user %.1f bytes; start-up %.2f ×",
		float64(many.StartedBytes-few.StartedBytes)/float64(many.Users-few.Users), many.Start.Seconds()/few.Start.Seconds()))
	return t, nil
}
