package catalogstate

import (
	"context"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// catchingUp is a group whose barrier applies what was committed before.
type catchingUp struct {
	Group
	barrier func() error
}

func (c catchingUp) ReadBarrier(context.Context) error { return c.barrier() }

func TestGetUserTellsTheVersionAsOfNow(t *testing.T) {
	a := cluster(t)
	before := a.state.Version()
	s := NewService(a.state, catchingUp{barrier: func() error {
		a.must(text(t, `create_namespace { name: "b" }`, 5))
		return nil
	}}, nil, nil)
	got, err := s.GetUser(t.Context(), &catalogv1.GetUserRequest{}) // names nobody: only the version is asked for
	if err != nil || got.GetUser() != nil || got.GetVersion() <= before || got.GetVersion() != a.state.Version() {
		t.Errorf("got %v, %v; the version was %d and is %d", got, err, before, a.state.Version())
	}
	refusal := dberr.New(dberr.NotLeader, "elsewhere")
	s = NewService(a.state, catchingUp{barrier: func() error { return refusal }}, nil, nil)
	if got, err := s.GetUser(t.Context(), &catalogv1.GetUserRequest{}); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("of a node that does not lead: %v, %v", got, err)
	}
}
