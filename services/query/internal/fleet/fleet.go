// Package fleet asks all nodes of a role the same thing and joins what they answer.
package fleet

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// askedAtOnce bounds the nodes one statement waits for at the same time.
const askedAtOnce = 16

// Directory is where nodes are found.
type Directory interface {
	Nodes(role string) []*catalogv1.Node
	Conn(addr string) (*rpcnet.Conn, error)
}

// Nodes are the nodes of one role.
type Nodes struct {
	directory Directory
	roles     []string
	// fixed is used while the catalog names no node of the roles: one process, where roles have names.
	fixed string
}

// New finds nodes of the given roles in a directory; without any, the node at address fixed is meant.
func New(directory Directory, fixed string, roles ...string) *Nodes {
	return &Nodes{directory: directory, roles: roles, fixed: fixed}
}

// member is one node to ask.
type member struct {
	id   uint32
	addr string
}

func (n *Nodes) members() []member {
	var out []member
	for _, role := range n.roles {
		for _, node := range n.directory.Nodes(role) {
			out = append(out, member{node.GetNodeId(), node.GetRpcAddr()})
		}
	}
	if len(out) == 0 && n.fixed != "" {
		out = append(out, member{addr: n.fixed})
	}
	return out
}

// ask calls f for every node, several at a time, and returns the answers in the order of the nodes. One
// that cannot be asked is an error: an answer that is short without saying so would mislead.
func ask[T any](ctx context.Context, n *Nodes, f func(ctx context.Context, conn grpc.ClientConnInterface) (T, error)) ([]T, []member, error) {
	members := n.members()
	answers, errs := make([]T, len(members)), make([]error, len(members))
	room := make(chan struct{}, askedAtOnce)
	var asking sync.WaitGroup
	for i, m := range members {
		room <- struct{}{}
		asking.Go(func() {
			defer func() { <-room }()
			conn, err := n.directory.Conn(m.addr)
			if err == nil {
				answers[i], err = f(ctx, conn)
			}
			errs[i] = err
		})
	}
	asking.Wait()
	for i, err := range errs {
		if err != nil {
			return nil, nil, dberr.New(dberr.CodeOf(err), "ask node %d at %s: %w", members[i].id, members[i].addr, err)
		}
	}
	return answers, members, nil
}
