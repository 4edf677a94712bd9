package clusteradmin

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
)

// calls counts what reaches the cluster.
type calls struct{ n int }

func (c *calls) View() *catalogview.View               { return nil }
func (c *calls) Group(uint32) grpc.ClientConnInterface { return c }

var errCalled = errors.New("called")

func (c *calls) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	c.n++
	return errCalled
}

func (c *calls) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	c.n++
	return nil, errCalled
}

// Whoever only asks for the columns, as a client that prepares a statement does, changes nothing.
func TestColumnsAloneDoNothing(t *testing.T) {
	for _, action := range []sqlfront.ClusterAction{sqlfront.ClusterTransferLeader, sqlfront.ClusterRebalance, sqlfront.ClusterDrain,
		sqlfront.ClusterUndrain, sqlfront.ClusterRemove, sqlfront.ClusterVerify, sqlfront.ClusterList, sqlfront.ClusterStatus} {
		c := &calls{}
		a := &Admin{Router: c}
		rows, err := a.Run(catalog.Identity{UserID: "root", Role: catalog.RoleSystem}, &sqlfront.Cluster{Action: action, Number: 1})
		if err != nil || rows.Schema().NumFields() == 0 {
			t.Fatalf("%s: %v", action, err)
		}
		if c.n != 0 {
			t.Errorf("%s: %d calls before a row was asked for", action, c.n)
		}
		if _, err := rows.Next(t.Context()); !errors.Is(err, errCalled) || c.n != 1 {
			t.Errorf("%s: %v after %d calls", action, err, c.n)
		}
		rows.Release()
	}
}
