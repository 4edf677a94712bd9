package membership

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/host"
	"github.com/kalamdb/kalamdb-go/internal/router"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// Member is the place in the cluster of a process without data, as two roles around the process's own: Enter
// before it, which gives it its number, and Announce after it, which reports while it serves and says
// goodbye before it stops.
type Member struct {
	router *router.Router
	agent  *Agent
	id     uint16
}

// NewMember makes the membership of a role's process. Its settings must be prepared. load may be nil.
func NewMember(cfg *Config, network rpcnet.Network, role, version string, load func() uint64, log *slog.Logger) *Member {
	m := &Member{router: router.New(router.Config{Network: network, Seeds: cfg.Join, Logger: log})}
	m.agent = NewAgent(AgentConfig{Interval: time.Duration(cfg.HeartbeatInterval), Load: load, Logger: log,
		Node: &catalogv1.Node{NodeId: uint32(cfg.NodeID), Role: role, RpcAddr: cfg.AdvertiseAddr, ApiAddr: cfg.APIAddr,
			Zone: cfg.Zone, Version: version}}, m.router.Catalog())
	return m
}

// NodeID is the number the cluster gave; valid after Enter has started.
func (m *Member) NodeID() uint16 { return m.id }

// ServerID is this process's name; valid after Enter has started.
func (m *Member) ServerID() string { return m.agent.cfg.Node.GetServerId() }

// Catalog leads to the catalog's leader.
func (m *Member) Catalog() grpc.ClientConnInterface { return m.router.Catalog() }

// Enter is the role that goes first.
func (m *Member) Enter() host.Role { return (*entering)(m) }

// Announce is the role that goes last.
func (m *Member) Announce() host.Role { return (*announcing)(m) }

type entering Member

func (*entering) Name() string { return "membership" }

func (e *entering) Start(ctx context.Context) (err error) {
	if err := e.router.Start(ctx); err != nil {
		return err
	}
	e.id, err = e.agent.Register(ctx)
	return err
}

func (e *entering) Stop(context.Context) error {
	e.router.Stop()
	return nil
}

type announcing Member

func (*announcing) Name() string { return "reports" }

func (a *announcing) Start(ctx context.Context) error {
	a.agent.Start(ctx)
	return nil
}

func (a *announcing) Stop(ctx context.Context) error {
	a.agent.Leave(ctx)
	return nil
}

// Failed is closed when the cluster no longer wants the process.
func (a *announcing) Failed() <-chan struct{} { return a.agent.Failed() }

// Err is why.
func (a *announcing) Err() error { return a.agent.Err() }
