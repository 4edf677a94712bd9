package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Target is a cluster that can be broken.
type Target interface {
	// Gateways are the gRPC addresses of all gateways.
	Gateways() []string
	// Root is the password of the user root.
	Root() string
	// Faults are what can be done to this cluster.
	Faults() []Fault
	// Heal ends every fault that still lasts and restarts what was killed.
	Heal(ctx context.Context) error
}

// Fault is one way to break a cluster.
type Fault struct {
	Name string
	// Do breaks something, holds for a time and mends it. It returns early when ctx ends, perhaps without
	// mending: Heal follows.
	Do func(ctx context.Context, random *rand.Rand) error
	// Weight is how often it is chosen, relative to others.
	Weight int
}

// gapMax is the longest pause between two faults.
const gapMax = 3 * time.Second

// breakThings does faults, one after the other, until ctx ends, and returns what it did.
func breakThings(ctx context.Context, faults []Fault, random *rand.Rand, note func(string)) error {
	total := 0
	for _, f := range faults {
		total += f.Weight
	}
	if total == 0 {
		<-ctx.Done()
		return nil
	}
	for {
		pause(ctx, time.Duration(random.Int64N(int64(gapMax))))
		if ctx.Err() != nil {
			return nil
		}
		f := pick(faults, random.IntN(total))
		note(f.Name)
		err := f.Do(ctx, random)
		ended := ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
		if err != nil && !ended { // what goes on after the load must succeed too
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
}

// chosen are the faults named by list, see Options.Faults.
func chosen(faults []Fault, list string) []Fault {
	if list == "" {
		return faults
	}
	names := strings.Split(list, ",")
	return slices.DeleteFunc(slices.Clone(faults), func(f Fault) bool {
		if strings.HasPrefix(names[0], "-") {
			return slices.Contains(names, "-"+f.Name)
		}
		return !slices.Contains(names, f.Name)
	})
}

func pick(faults []Fault, n int) Fault {
	for _, f := range faults {
		if n -= f.Weight; n < 0 {
			return f
		}
	}
	return faults[len(faults)-1]
}
