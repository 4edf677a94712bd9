// Package invariants holds checks that are compiled in by the build tag "invariants" (every test
// target sets it) and cost nothing otherwise.
package invariants

import "fmt"

// Check panics with the message when ok is false and checks are compiled in. It is for conditions
// that only a bug of ours can break, never for input.
func Check(ok bool, format string, args ...any) {
	if On && !ok {
		panic("invariant broken: " + fmt.Sprintf(format, args...))
	}
}
