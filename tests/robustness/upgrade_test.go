package robustness

import (
	"context"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// verified is a row of CLUSTER VERIFY.
func verified(group, node int64, sum any, agrees bool, failure any) []any {
	return []any{group, int64(7), node, "n", sum, int64(1), agrees, failure}
}

func TestCompared(t *testing.T) {
	for _, c := range []struct {
		name         string
		rows         [][]any
		differ, good bool
	}{
		{"alike", [][]any{verified(1, 1, "a", true, nil), verified(1, 2, "a", true, nil), verified(1, 3, "a", true, nil)}, false, true},
		{"one differs", [][]any{verified(1, 1, "a", false, nil), verified(1, 2, "b", false, nil), verified(1, 3, "a", false, nil)}, true, false},
		{"one is silent", [][]any{verified(1, 1, "a", false, nil), verified(1, 2, nil, false, "late"), verified(1, 3, "a", false, nil)}, false, false},
		{"one is missing", [][]any{verified(1, 1, "a", true, nil), verified(1, 2, "a", true, nil)}, false, false},
		{"nothing", nil, false, false},
	} {
		differ, err := compared(c.rows)
		if differ != c.differ || (err == nil) != c.good {
			t.Errorf("%s: differ %v, error %v", c.name, differ, err)
		}
	}
}

func TestErrorsCheck(t *testing.T) {
	var seen Errors
	hungUp, cancel := context.WithCancel(t.Context())
	cancel()
	seen.see(hungUp, "a", dberr.New(dberr.Internal, "the client had left"))
	for _, code := range []dberr.Code{dberr.Unavailable, dberr.NotLeader, dberr.PrimaryKeyViolation} {
		seen.see(t.Context(), "b", dberr.New(code, "expected"))
	}
	if err := seen.Check(); err != nil {
		t.Errorf("retriable errors: %v", err)
	}
	seen.see(t.Context(), "c", dberr.New(dberr.Timeout, "too late"))
	if err := seen.Check(); err == nil {
		t.Error("a timeout passed")
	}
}
