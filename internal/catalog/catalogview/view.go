// Package catalogview is a role's copy of the catalog. It follows CatalogService.Watch: tables and
// namespaces are held whole, users only while they are in use.
package catalogview

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/pause"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	"github.com/kalamdb/kalamdb-go/internal/silence"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	// usersMax bounds the users kept; an idle user costs nothing here after userTTL.
	usersMax = 10_000
	userTTL  = 5 * time.Minute
	// retryDelay is the pause before a broken watch is opened again.
	retryDelay = 100 * time.Millisecond
)

// Namespace is one namespace.
type Namespace struct {
	Name        string
	CreatedAtUS int64
	CreatedBy   string
}

// State is one version of the catalog. It is immutable.
type State struct {
	Version    uint64
	ClusterID  string
	Shards     shardmap.Map
	Namespaces map[string]Namespace
	Tables     map[uint32]*catalog.Table
	// Storages are all but local, without credentials.
	Storages map[string]*catalogv1.Storage
	Topology

	byName map[string]*catalog.Table // by namespace.name
}

// Table finds a table by its folded names.
func (s *State) Table(namespace, name string) (*catalog.Table, bool) {
	t, ok := s.byName[namespace+"."+name]
	return t, ok
}

// SortedStorages are the storages by id.
func (s *State) SortedStorages() []*catalogv1.Storage {
	return slices.SortedFunc(maps.Values(s.Storages), func(a, b *catalogv1.Storage) int { return strings.Compare(a.GetStorageId(), b.GetStorageId()) })
}

// View is the copy. Make it with New, then Start.
type View struct {
	client catalogv1.CatalogServiceClient
	log    *slog.Logger
	state  atomic.Pointer[State]
	users  *expirable.LRU[string, *catalogv1.User]
	newest versions

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	hooks   []func(Event)

	stop context.CancelFunc
	done chan struct{}

	// ticker is silence.Ticker, but in tests.
	ticker func() (ticks <-chan time.Time, stop func())
}

// Event tells a hook what changed; exactly one field is set.
type Event struct {
	UserChanged  string
	TableDropped uint32
	TableChanged *catalog.Table
	// Topology: nodes or placements changed.
	Topology bool
	// Reset: the catalog was read anew, so anything may have changed.
	Reset bool
}

// New makes a view over a connection to the storage role.
func New(conn grpc.ClientConnInterface, log *slog.Logger) *View {
	return &View{client: catalogv1.NewCatalogServiceClient(conn), log: log, changed: make(chan struct{}),
		users: expirable.NewLRU[string, *catalogv1.User](usersMax, nil, userTTL), newest: versions{now: time.Now},
		done: make(chan struct{}), ticker: silence.Ticker}
}

// OnChange calls f for every later event, in order. Register before Start; f must not block.
func (v *View) OnChange(f func(Event)) { v.hooks = append(v.hooks, f) }

// Client is the catalog service itself, for commands.
func (v *View) Client() catalogv1.CatalogServiceClient { return v.client }

// Apply commits a command. The request's id, from ctx, makes it happen once however often it is sent: a
// request applies at most one command of a kind.
func (v *View) Apply(ctx context.Context, c *catalogv1.Command) (*catalogv1.ApplyResponse, error) {
	if len(c.GetRequestId()) == 0 {
		id := requestid.From(ctx).Derive(fmt.Appendf(nil, "%T", c.GetCommand()))
		c.RequestId = id[:]
	}
	return v.client.Apply(ctx, &catalogv1.ApplyRequest{Command: c})
}

// Start follows the catalog until Stop; it returns when the first snapshot is there.
func (v *View) Start(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	v.stop = cancel
	go v.follow(run)
	for v.state.Load() == nil {
		if err := v.wait(ctx, func() bool { return v.state.Load() != nil }); err != nil {
			cancel()
			<-v.done
			return dberr.New(dberr.Unavailable, "read the catalog: %w", err)
		}
	}
	return nil
}

// Stop ends following.
func (v *View) Stop() {
	if v.stop != nil {
		v.stop()
		<-v.done
	}
}

// State returns the newest version known.
func (v *View) State() *State { return v.state.Load() }

// WaitVersion returns once the view has reached a version: what was written is then seen.
func (v *View) WaitVersion(ctx context.Context, version uint64) error {
	return v.wait(ctx, func() bool { return v.State() != nil && v.State().Version >= version })
}

func (v *View) wait(ctx context.Context, reached func() bool) error {
	for {
		v.mu.Lock()
		changed := v.changed
		v.mu.Unlock()
		if reached() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// User returns a user, from memory when known; nil when there is none. Dropped users are returned.
func (v *View) User(ctx context.Context, id string) (*catalogv1.User, error) {
	if u, ok := v.users.Get(id); ok {
		return u, nil
	}
	before := v.State().Version
	resp, err := v.client.GetUser(ctx, &catalogv1.GetUserRequest{UserId: id})
	if err != nil {
		return nil, err
	}
	// Remember only what no change can have overtaken, and only users that exist: asking for
	// millions of invented names must not push real ones out.
	if u := resp.GetUser(); u != nil && v.State().Version == before {
		v.users.Add(id, u)
	}
	return resp.GetUser(), nil
}

func (v *View) follow(ctx context.Context) {
	defer close(v.done)
	for ctx.Err() == nil {
		err := v.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		v.log.WarnContext(ctx, "catalog watch broke, opening it again", "error", err)
		_ = pause.For(ctx, retryDelay) // the loop looks at ctx
	}
}

// watch follows one storage node until it breaks the watch, or says nothing any more.
func (v *View) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	stream, err := v.client.Watch(ctx, &catalogv1.WatchRequest{Alive: true})
	if err != nil {
		cancel(nil)
		return err
	}
	var heard silence.Meter
	var listener sync.WaitGroup
	listener.Go(func() {
		ticks, stop := v.ticker()
		defer stop()
		if heard.Listen(ctx, ticks) {
			cancel(silence.Err)
		}
	})
	err = v.receive(stream, &heard)
	if errors.Is(context.Cause(ctx), silence.Err) {
		err = silence.Err
	}
	cancel(nil)
	listener.Wait()
	return err
}

func (v *View) receive(stream grpc.ServerStreamingClient[catalogv1.WatchResponse], heard *silence.Meter) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		heard.Hear()
		if m.GetAlive() != nil {
			heard.Promise()
			continue
		}
		if err := v.check(m); err != nil {
			return err
		}
		v.apply(m)
	}
}

// check keeps the view from going back: after a failover the watch may be with a node that lags, and
// whoever waited for a version has been told that it is here.
func (v *View) check(m *catalogv1.WatchResponse) error {
	now, snap := v.state.Load(), m.GetSnapshot()
	switch {
	case now == nil && snap == nil:
		return dberr.New(dberr.Internal, "the catalog's watch began with an event")
	case now == nil || snap == nil:
		return nil
	case snap.GetClusterId() != now.ClusterID:
		return dberr.New(dberr.InvalidOperation, "this is the catalog of cluster %s, not of %s", snap.GetClusterId(), now.ClusterID)
	case m.GetVersion() < now.Version:
		return dberr.New(dberr.Unavailable, "this node's catalog is at version %d, version %d was seen", m.GetVersion(), now.Version)
	}
	return nil
}

func (v *View) apply(m *catalogv1.WatchResponse) {
	var ev Event
	var next *State
	switch e := m.GetEvent().(type) {
	case *catalogv1.WatchResponse_Snapshot:
		next = fromSnapshot(e.Snapshot)
		v.users.Purge() // changes may have been missed
		ev.Reset = true
	case *catalogv1.WatchResponse_UserChanged:
		next = v.State().sameContent()
		v.users.Remove(e.UserChanged)
		ev.UserChanged = e.UserChanged
	case *catalogv1.WatchResponse_NamespaceCreated:
		next = v.State().clone()
		next.Namespaces[e.NamespaceCreated.GetName()] = namespaceFrom(e.NamespaceCreated)
	case *catalogv1.WatchResponse_NamespaceDropped:
		next = v.State().clone()
		delete(next.Namespaces, e.NamespaceDropped)
	case *catalogv1.WatchResponse_TableChanged:
		next = v.State().clone()
		ev.TableChanged = catalog.TableFromProto(e.TableChanged)
		next.put(ev.TableChanged)
	case *catalogv1.WatchResponse_TableDropped:
		next = v.State().clone()
		next.remove(e.TableDropped)
		ev.TableDropped = e.TableDropped
	case *catalogv1.WatchResponse_NodeChanged:
		next, ev.Topology = v.State().sameContent(), true
		next.Topology = next.Topology.withNode(e.NodeChanged)
	case *catalogv1.WatchResponse_NodeRemoved:
		next, ev.Topology = v.State().sameContent(), true
		next.Topology = next.Topology.withoutNode(e.NodeRemoved)
	case *catalogv1.WatchResponse_PlacementChanged:
		next, ev.Topology = v.State().sameContent(), true
		next.Topology = next.Topology.withPlacement(e.PlacementChanged)
	case *catalogv1.WatchResponse_StorageChanged:
		next = v.State().sameContent()
		next.Storages = maps.Clone(next.Storages)
		next.Storages[e.StorageChanged.GetStorageId()] = e.StorageChanged
	case *catalogv1.WatchResponse_StorageDropped:
		next = v.State().sameContent()
		next.Storages = maps.Clone(next.Storages)
		delete(next.Storages, e.StorageDropped)
	default: // an event of a newer version: only the version moves
		next = v.State().sameContent()
	}
	next.Version = m.GetVersion()
	v.state.Store(next)
	for _, f := range v.hooks {
		f(ev)
	}
	v.mu.Lock()
	close(v.changed)
	v.changed = make(chan struct{})
	v.mu.Unlock()
}

func fromSnapshot(p *catalogv1.Snapshot) *State {
	s := &State{ClusterID: p.GetClusterId(), Shards: shardmap.Even(p.GetShards()), Topology: topologyFrom(p),
		Namespaces: map[string]Namespace{}, Tables: map[uint32]*catalog.Table{}, byName: map[string]*catalog.Table{}, Storages: map[string]*catalogv1.Storage{}}
	for _, st := range p.GetStorages() {
		s.Storages[st.GetStorageId()] = st
	}
	for _, n := range p.GetNamespaces() {
		s.Namespaces[n.GetName()] = namespaceFrom(n)
	}
	for _, t := range p.GetTables() {
		s.put(catalog.TableFromProto(t))
	}
	return s
}

func namespaceFrom(p *catalogv1.Namespace) Namespace {
	return Namespace{Name: p.GetName(), CreatedAtUS: p.GetCreatedAtUs(), CreatedBy: p.GetCreatedBy()}
}

// sameContent shares the maps: logins are frequent, and change no table.
func (s *State) sameContent() *State {
	c := *s
	return &c
}

// clone copies the maps; DDL is rare, reading is not, so writers pay.
func (s *State) clone() *State {
	c := *s
	c.Namespaces = make(map[string]Namespace, len(s.Namespaces))
	for k, n := range s.Namespaces {
		c.Namespaces[k] = n
	}
	c.Tables = make(map[uint32]*catalog.Table, len(s.Tables))
	c.byName = make(map[string]*catalog.Table, len(s.Tables))
	for _, t := range s.Tables {
		c.put(t)
	}
	return &c
}

func (s *State) put(t *catalog.Table) {
	if old, ok := s.Tables[t.ID]; ok {
		delete(s.byName, old.QualifiedName())
	}
	s.Tables[t.ID] = t
	s.byName[t.QualifiedName()] = t
}

func (s *State) remove(id uint32) {
	if t, ok := s.Tables[id]; ok {
		delete(s.byName, t.QualifiedName())
		delete(s.Tables, id)
	}
}
