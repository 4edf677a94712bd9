// Package rowbatchtest helps tests that handle Arrow memory.
package rowbatchtest

import (
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"
)

// Allocator returns an allocator that fails the test if anything was not released at its end.
func Allocator(t testing.TB) memory.Allocator {
	t.Helper()
	a := memory.NewCheckedAllocator(memory.NewGoAllocator())
	t.Cleanup(func() { a.AssertSize(t, 0) })
	return a
}
