package robustness

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// reshapeTimeout bounds each step of Reshape.
const reshapeTimeout = 4 * time.Minute

// Reshape changes which storage nodes a cluster of three consists of, while clients use it.
type Reshape struct {
	*Cluster
	// Shards of the cluster.
	Shards uint32
	// Log is told about every step.
	Log func(format string, args ...any)
}

// ReshapeReport is what happened meanwhile.
type ReshapeReport struct {
	*Report
	Errors *Errors
}

func (r *ReshapeReport) String() string {
	return fmt.Sprintf("%d operations (%d unknown), %d events, %d resumes, longest write gap %v; errors: %s",
		r.Operations, r.Unknown, r.Events, r.Resumes, r.LongestGap.Round(time.Millisecond), r.Errors)
}

// Run lets a fourth storage node join and take its share, drains one of the first three and takes it out, and deletes
// the disk of another, which then comes back. After each step the replicas are compared. An error that a client sees
// fails the run.
func (s *Reshape) Run(ctx context.Context, opt Options) (*ReshapeReport, error) {
	seen := &Errors{}
	r := newRun(undisturbed{s.Cluster}, opt, "rs")
	if err := r.setUp(ctx); err != nil {
		return nil, fmt.Errorf("set up: %w", err)
	}
	r.gateways.watch = seen.watch
	err := r.during(ctx, func(ctx context.Context) error { return s.all(ctx, seen) })
	out := &ReshapeReport{Report: r.report(), Errors: seen}
	if err == nil {
		err = errors.Join(r.check(), seen.CheckNone(), s.Verify(ctx))
	}
	if err != nil {
		err = errors.Join(err, r.keep())
	}
	return out, err
}

func (s *Reshape) all(ctx context.Context, seen *Errors) error {
	nodes := s.Role("storage")
	if len(nodes) != replicasWanted {
		return fmt.Errorf("a cluster of %d storage nodes: it should begin with %d", len(nodes), replicasWanted)
	}
	share := int64(replicasWanted*s.Shards) / int64(len(nodes)+1)
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"a fourth storage node joined and took its share", func(ctx context.Context) error {
			_, err := s.join(ctx, share+1) // and the catalog
			return err
		}},
		{nodes[0].Name + " was drained and left", func(ctx context.Context) error { return s.leave(ctx, nodes[0]) }},
		{nodes[1].Name + " lost its disk and came back", func(ctx context.Context) error { return s.wipe(ctx, nodes[1]) }},
	} {
		began := time.Now()
		if err := s.step(ctx, step.do); err != nil {
			return fmt.Errorf("%s: not so: %w", step.name, err)
		}
		s.Log("%s, after %.1f s; errors so far: %s", step.name, time.Since(began).Seconds(), seen)
	}
	return nil
}

// step does one and compares the replicas.
func (s *Reshape) step(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, reshapeTimeout)
	defer cancel()
	if err := do(ctx); err != nil {
		return err
	}
	if err := s.waitWhole(ctx); err != nil {
		return err
	}
	return s.Verify(ctx)
}
