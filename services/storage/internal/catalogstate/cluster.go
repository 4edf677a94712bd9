package catalogstate

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// Formats of commands. A replica stops at a command it does not know, so the leader appends only what every
// registered storage node reads.
const (
	// FormatTables is namespaces, tables and users.
	FormatTables = 1
	// FormatNodes brought nodes, placements, request ids and VerifyCatalog.
	FormatNodes = 2
	// FormatPartitions brought partitioned tables, whose rows are in other places than an older node thinks.
	FormatPartitions = 3
	// FormatJobs brought jobs and UseFormat.
	FormatJobs = 4
	// FormatAlter brought AlterTable, in the same version as jobs.
	FormatAlter = 4
	// FormatKeys brought SetClusterKey, users' data keys, backups and restores, FormatErase erasures, FormatStorages storages besides local.
	FormatKeys     = 5
	FormatErase    = 5
	FormatStorages = 5
	// Format is the newest, for Node.format.
	Format = FormatErase
)

// formatOf is what a node must read to apply a command.
func formatOf(c *catalogv1.Command) uint32 {
	switch k := c.GetCommand().(type) {
	case *catalogv1.Command_CreateTable:
		if k.CreateTable.GetTable().GetPartitions() > 0 {
			return FormatPartitions
		}
	case *catalogv1.Command_UseFormat:
		return max(FormatJobs, k.UseFormat.GetFormat())
	case *catalogv1.Command_CreateJob, *catalogv1.Command_UpdateJob:
		return FormatJobs
	case *catalogv1.Command_AlterTable:
		if _, ok := k.AlterTable.GetChange().(*catalogv1.AlterTable_SetStorage); ok {
			return FormatStorages
		}
		return FormatAlter
	case *catalogv1.Command_CreateStorage, *catalogv1.Command_AlterStorage, *catalogv1.Command_DropStorage:
		return FormatStorages
	case *catalogv1.Command_CreateUser:
		if u := k.CreateUser.GetUser(); u.GetStorageMode() != "" || u.GetStorageId() != "" {
			return FormatStorages
		}
	case *catalogv1.Command_AlterUser:
		if k.AlterUser.StorageMode != nil || k.AlterUser.StorageId != nil {
			return FormatStorages
		}
	case *catalogv1.Command_SetClusterKey:
		return FormatKeys
	case *catalogv1.Command_BeginErase, *catalogv1.Command_UpdateErasure, *catalogv1.Command_FinishErase:
		return FormatErase
	case *catalogv1.Command_RecordBackup, *catalogv1.Command_RestoreTable, *catalogv1.Command_RestoreVersions, *catalogv1.Command_FinishRestore,
		*catalogv1.Command_AbandonRestore, *catalogv1.Command_RestoreAccounts, *catalogv1.Command_CreateUserKeys,
		*catalogv1.Command_DestroyUserKey:
		return FormatKeys
	case *catalogv1.Command_RegisterNode, *catalogv1.Command_SetNodeStatus, *catalogv1.Command_RemoveNode,
		*catalogv1.Command_SetReplica, *catalogv1.Command_RemoveReplica, *catalogv1.Command_Verify:
		return FormatNodes
	case *catalogv1.Command_InitCluster:
		if k.InitCluster.GetNode() != nil || k.InitCluster.GetReplicationFactor() != 0 {
			return FormatNodes
		}
	}
	if len(c.GetRequestId()) > 0 {
		return FormatNodes
	}
	return FormatTables
}

// noteFormat remembers the highest format in the log, for nodes that register later.
func (t *transaction) noteFormat(c *catalogv1.Command) error {
	f := formatOf(c)
	if f <= t.model.logFormat {
		return nil
	}
	t.edit().logFormat = f
	return putNumber(t.bucket(bucketMeta), keyLogFormat, uint64(f))
}

// ReadByAll is the highest format of Raft entries that every registered storage node reads, whichever group the
// entries are of. It is newest where no node is registered: then there is only this one.
func (s *State) ReadByAll(newest uint32) uint32 {
	for _, n := range s.model.Load().nodes {
		if HoldsReplicas(n.GetRole()) {
			newest = min(newest, max(n.GetFormat(), FormatTables))
		}
	}
	return newest
}

// LogFormat is the highest format that was written to a log: nodes that do not read it cannot register.
func (s *State) LogFormat() uint32 { return s.model.Load().logFormat }

func (m *model) sortedNodes() []*catalogv1.Node {
	return slices.SortedFunc(maps.Values(m.nodes), func(a, b *catalogv1.Node) int { return cmp.Compare(a.GetNodeId(), b.GetNodeId()) })
}

func (m *model) sortedPlacements() []*catalogv1.Placement {
	return slices.SortedFunc(maps.Values(m.placements), func(a, b *catalogv1.Placement) int { return cmp.Compare(a.GetGroup(), b.GetGroup()) })
}

func (m *model) replicationFactor() uint32 {
	if m.factor == 0 {
		return DefaultReplicationFactor
	}
	return m.factor
}

// Nodes returns all nodes in order of id. What this and the following return is shared: it must not be changed.
func (s *State) Nodes() []*catalogv1.Node { return s.model.Load().sortedNodes() }

// Node returns a node by id.
func (s *State) Node(id uint32) (*catalogv1.Node, bool) {
	n, ok := s.model.Load().nodes[id]
	return n, ok
}

// NodeByServer returns the node whose present incarnation has the server id.
func (s *State) NodeByServer(server string) (*catalogv1.Node, bool) {
	for _, n := range s.model.Load().nodes {
		if n.GetServerId() == server {
			return n, true
		}
	}
	return nil, false
}

// Placement returns where the replicas of a group are; nil if nobody ever said.
func (s *State) Placement(group uint32) *catalogv1.Placement { return s.model.Load().placements[group] }

// Placements returns all placements in order of group.
func (s *State) Placements() []*catalogv1.Placement { return s.model.Load().sortedPlacements() }

// Topology is nodes, placements and replication factor as of one version.
type Topology struct {
	Version           uint64
	Shards            uint32
	ReplicationFactor uint32
	Nodes             []*catalogv1.Node      // by id
	Placements        []*catalogv1.Placement // by group
}

// Topology returns all of it at once.
func (s *State) Topology() Topology {
	m := s.model.Load()
	return Topology{Version: m.version, Shards: m.shards, ReplicationFactor: m.replicationFactor(),
		Nodes: m.sortedNodes(), Placements: m.sortedPlacements()}
}

// ReplicationFactor is how many voters a group should have, nodes permitting.
func (s *State) ReplicationFactor() uint32 { return s.model.Load().replicationFactor() }

// Retired reports whether a node id is blocked at a time because a node was removed shortly before.
func (s *State) Retired(id uint32, now time.Time) (blocked bool, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRetired)
		blocked = b.Get(idKey(id)) != nil && now.UnixMicro() < int64(number(b, idKey(id)))+RetiredFor.Microseconds()
		return nil
	})
	return blocked, err
}

// Former reports whether a server id is that of a storage node that was removed or replaced.
func (s *State) Former(server string) (former bool, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		former = tx.Bucket(bucketFormer).Get([]byte(server)) != nil
		return nil
	})
	return former, err
}

// Version is the catalog version.
func (s *State) Version() uint64 { return s.model.Load().version }

// Moved returns a channel that is closed by the next batch of commands. Take it before looking at the state:
//
//	for { moved := s.Moved(); look(s); <-moved }
func (s *State) Moved() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.moved
}

// wakeLocked closes the channel of Moved.
func (s *State) wakeLocked() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// WaitVersion waits until this replica knows the catalog as of a version, which is the Raft index of a command.
func (s *State) WaitVersion(ctx context.Context, version uint64) error {
	if s.applied.Load() >= version {
		return nil
	}
	for {
		moved := s.Moved()
		if s.applied.Load() >= version {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return dberr.New(dberr.CodeOf(dberr.FromStatus(ctx.Err())), "wait for catalog version %d, at %d now: %w",
				version, s.applied.Load(), ctx.Err())
		}
	}
}
