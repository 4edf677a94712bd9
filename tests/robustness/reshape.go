package robustness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"
)

// reshapeTimeout bounds each step of Reshape.
const reshapeTimeout = 4 * time.Minute

// Reshape changes which storage nodes a cluster of three consists of, while clients use it.
type Reshape struct {
	*Cluster
	// Shards of the cluster.
	Shards uint32
	// Fill is how many MiB of rows are written before, so that replicas have something to copy.
	Fill int
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
	if err := s.fill(ctx, r); err != nil {
		return nil, fmt.Errorf("fill the cluster: %w", err)
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

// Size of the rows that fill a cluster, in bytes, and of the statements that write them, in rows.
const (
	fillRow  = 4 << 10
	fillRows = 64
	fillers  = 4
)

// fill writes rows to all shards.
func (s *Reshape) fill(ctx context.Context, r *run) error {
	if s.Fill == 0 {
		return nil
	}
	table := r.namespace + ".bulk"
	if err := r.root(ctx, "CREATE SHARED TABLE "+table+" (id BIGINT PRIMARY KEY, body TEXT NOT NULL) PARTITION BY HASH (id) PARTITIONS 64"); err != nil {
		return err
	}
	began := time.Now()
	count := s.Fill << 20 / (fillRow * fillRows)
	var next atomic.Int64
	fs := make([]func() error, fillers)
	for i := range fs {
		random := rand.NewChaCha8([32]byte{byte(i)})
		fs[i] = func() error {
			c := &statements{user: r.partitions[0].User, gateways: r.gateways}
			defer c.hangUp()
			for n := int(next.Add(1)); n <= count && ctx.Err() == nil; n = int(next.Add(1)) {
				sql := fillStatement(table, n, random)
				for done := false; !done && ctx.Err() == nil; {
					var err error
					if done, err = c.do(ctx, "", sql); err != nil {
						return err
					}
				}
			}
			return ctx.Err()
		}
	}
	if err := runAll(fs...); err != nil {
		return err
	}
	s.Log("%d MiB of rows written in %.1f s", s.Fill, time.Since(began).Seconds())
	return nil
}

func fillStatement(table string, n int, random io.Reader) string {
	body, tuples := make([]byte, fillRow/2), make([]string, fillRows)
	for i := range tuples {
		_, _ = random.Read(body) // ChaCha8 never fails
		tuples[i] = fmt.Sprintf("(%d, '%x')", n*fillRows+i, body)
	}
	return "INSERT INTO " + table + " (id, body) VALUES " + strings.Join(tuples, ", ")
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
	began := time.Now()
	if err := do(ctx); err != nil {
		return err
	}
	if err := s.waitWhole(ctx); err != nil {
		return err
	}
	s.Log("every group is complete after %.1f s", time.Since(began).Seconds())
	return s.Verify(ctx)
}
