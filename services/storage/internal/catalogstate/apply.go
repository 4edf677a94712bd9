package catalogstate

import (
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// Result is what applying a command returns through Raft.
type Result struct {
	Response *catalogv1.ApplyResponse
	// Err is a refusal by the catalog's rules: the same on every replica.
	Err error
}

// transaction applies a batch of entries.
type transaction struct {
	tx     *bbolt.Tx
	model  *model
	owned  bool // model is a copy nobody else has
	events []*catalogv1.WatchResponse
	wake   bool // a table waits to be purged
	// wakeJobs: a job was made or moved
	wakeJobs bool
	// erases: the job being made is part of the command that erases
	erases bool
	// wakeLeft: a user was dropped
	wakeLeft bool
	// of the entry being applied
	index uint64
	now   int64
}

// Apply applies committed commands: one bbolt transaction for all, then memory, then the watchers. A
// verify command ends a transaction, as its sum is over the state that it leaves.
func (s *State) Apply(logs []*raft.Log) []any {
	results := make([]any, len(logs))
	for from := 0; from < len(logs); {
		if s.broken.Load() {
			return refuseAll(results[:from], results[from:])
		}
		cmds, err := decode(logs[from:])
		if err == nil {
			err = s.applyTogether(logs[from:from+len(cmds)], cmds, results[from:])
		}
		if err != nil {
			s.broken.Store(true)
			s.cfg.Fail(dberr.New(dberr.Corrupt, "apply to the catalog after entry %d: %w", s.applied.Load(), err))
			continue
		}
		from += len(cmds)
	}
	return results
}

// decode decodes entries up to and including the first verify command.
func decode(logs []*raft.Log) (cmds []*catalogv1.Command, err error) {
	for _, l := range logs {
		cmd := &catalogv1.Command{}
		if err := proto.Unmarshal(l.Data, cmd); err != nil {
			return nil, dberr.New(dberr.Corrupt, "entry %d is not a catalog command: %w", l.Index, err)
		}
		cmds = append(cmds, cmd)
		if cmd.GetVerify() != nil {
			break
		}
	}
	return cmds, nil
}

// applyTogether applies commands in one transaction.
func (s *State) applyTogether(logs []*raft.Log, cmds []*catalogv1.Command, results []any) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.committing.Lock()
	defer s.committing.Unlock()
	t := &transaction{model: s.model.Load()}
	last := s.applied.Load()
	before := last
	err := s.db.Update(func(tx *bbolt.Tx) error {
		t.tx = tx
		for i, l := range logs {
			if l.Index <= last {
				continue // replayed after a restart
			}
			r, err := t.entry(l.Index, cmds[i])
			if err != nil {
				return err
			}
			results[i] = r
			last = l.Index
		}
		if err := putNumber(tx.Bucket(bucketMeta), keyVersion, t.model.version); err != nil {
			return err
		}
		return putNumber(tx.Bucket(bucketMeta), keyApplied, last)
	})
	if err != nil {
		return err
	}
	if n := len(cmds) - 1; cmds[n].GetVerify() != nil && logs[n].Index > before {
		s.sum(logs[n].Index) // before anybody can see the index as applied and ask for it
	}
	s.publish(t, last)
	return nil
}

var errFailed = dberr.New(dberr.Unavailable, "this node's catalog failed; see its log")

// refuseAll answers what could not be applied after what could.
func refuseAll(done, rest []any) []any {
	for i := range rest {
		rest[i] = &Result{Err: errFailed}
	}
	return append(done, rest...)
}

// publish makes what was committed visible and tells the watchers, as one step for them.
func (s *State) publish(t *transaction, applied uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.model.Store(t.model)
	s.applied.Store(applied)
	s.wakeLocked()
	for w := range s.watchers {
		if !w.offer(t.events) {
			delete(s.watchers, w)
		}
	}
	if t.wake {
		signal(s.dropped)
	}
	if t.wakeJobs {
		signal(s.jobs)
	}
	if t.wakeLeft {
		signal(s.left)
	}
}

// signal leaves a token unless there is one already.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// entry applies one command, or answers it as it was answered before. Only faults below the catalog's rules are
// returned as errors.
func (t *transaction) entry(index uint64, cmd *catalogv1.Command) (*Result, error) {
	t.index, t.now = index, cmd.GetTimeUs()
	if err := t.noteFormat(cmd); err != nil { // also of what is refused: whoever reads the log has to read it
		return nil, err
	}
	id := cmd.GetRequestId()
	if len(id) == 0 {
		return t.execute(cmd)
	}
	if len(id) != requestIDBytes {
		return &Result{Err: dberr.New(dberr.InvalidArgument, "a request id of %d bytes, it has %d", len(id), requestIDBytes)}, nil
	}
	if r, err := t.recall(id); r != nil || err != nil {
		return r, err
	}
	r, err := t.execute(cmd)
	if err != nil {
		return nil, err
	}
	return r, t.remember(id, r)
}

func (t *transaction) execute(cmd *catalogv1.Command) (*Result, error) {
	before := len(t.events)
	resp, err := t.command(cmd)
	if refusal, ok := err.(*refused); ok {
		return &Result{Err: refusal.err}, nil
	}
	if err != nil {
		return nil, err
	}
	t.seal(before)
	if resp.GetChanged() && len(t.events) > before {
		t.model.version = t.index
	}
	resp.Version = t.model.version
	return &Result{Response: resp}, nil
}

// seal gives a command's events their versions: only the last one completes the command, so whoever
// waits for its version has seen all of it.
func (t *transaction) seal(from int) {
	for i := from; i < len(t.events); i++ {
		t.events[i].Version = t.model.version
		if i == len(t.events)-1 {
			t.events[i].Version = t.index
		}
	}
}

// refused marks an error as the answer to the command: nothing was changed.
type refused struct{ err error }

func (r *refused) Error() string { return r.err.Error() }

func refuse(code dberr.Code, text string, args ...any) error {
	return &refused{dberr.New(code, text, args...)}
}

func (t *transaction) command(c *catalogv1.Command) (*catalogv1.ApplyResponse, error) {
	switch k := c.GetCommand().(type) {
	case *catalogv1.Command_InitCluster:
		return t.initCluster(k.InitCluster)
	case *catalogv1.Command_CreateNamespace:
		return t.createNamespace(k.CreateNamespace)
	case *catalogv1.Command_DropNamespace:
		return t.dropNamespace(k.DropNamespace)
	case *catalogv1.Command_CreateTable:
		return t.createTable(k.CreateTable)
	case *catalogv1.Command_DropTable:
		return t.dropTable(k.DropTable)
	case *catalogv1.Command_AlterTable:
		return t.alterTable(k.AlterTable)
	case *catalogv1.Command_CreateStorage:
		return t.createStorage(k.CreateStorage)
	case *catalogv1.Command_AlterStorage:
		return t.alterStorage(k.AlterStorage)
	case *catalogv1.Command_DropStorage:
		return t.dropStorage(k.DropStorage)
	case *catalogv1.Command_SetClusterKey:
		return t.setClusterKey(k.SetClusterKey)
	case *catalogv1.Command_TablePurged:
		return t.tablePurged(k.TablePurged)
	case *catalogv1.Command_CreateUser:
		return t.createUser(k.CreateUser)
	case *catalogv1.Command_AlterUser:
		return t.alterUser(k.AlterUser)
	case *catalogv1.Command_DropUser:
		return t.dropUser(k.DropUser)
	case *catalogv1.Command_RestoreUser:
		return t.restoreUser(k.RestoreUser)
	case *catalogv1.Command_RecordLogin:
		return t.recordLogin(k.RecordLogin)
	case *catalogv1.Command_RevokeTokens:
		return t.revokeTokens(k.RevokeTokens)
	case *catalogv1.Command_RegisterNode:
		return t.registerNode(k.RegisterNode.GetNode())
	case *catalogv1.Command_SetNodeStatus:
		return t.setNodeStatus(k.SetNodeStatus)
	case *catalogv1.Command_RemoveNode:
		return t.removeNode(k.RemoveNode)
	case *catalogv1.Command_SetReplica:
		return t.setReplica(k.SetReplica)
	case *catalogv1.Command_RemoveReplica:
		return t.removeReplica(k.RemoveReplica)
	case *catalogv1.Command_CreateJob:
		return t.createJob(k.CreateJob)
	case *catalogv1.Command_UpdateJob:
		return t.updateJob(k.UpdateJob)
	case *catalogv1.Command_BeginErase:
		return t.beginErase(k.BeginErase)
	case *catalogv1.Command_UpdateErasure:
		return t.updateErasure(k.UpdateErasure)
	case *catalogv1.Command_FinishErase:
		return t.finishErase(k.FinishErase)
	case *catalogv1.Command_UseFormat:
		return unchanged() // noteFormat has noted it
	case *catalogv1.Command_Verify:
		return unchanged() // what it is for happens after its transaction
	}
	return t.backupCommand(c)
}

// backupCommand applies what backups and restores tell.
func (t *transaction) backupCommand(c *catalogv1.Command) (*catalogv1.ApplyResponse, error) {
	switch k := c.GetCommand().(type) {
	case *catalogv1.Command_RecordBackup:
		return t.recordBackup(k.RecordBackup)
	case *catalogv1.Command_RestoreTable:
		return t.restoreTable(k.RestoreTable)
	case *catalogv1.Command_RestoreVersions:
		return t.restoreVersions(k.RestoreVersions)
	case *catalogv1.Command_FinishRestore:
		return t.finishRestore(k.FinishRestore)
	case *catalogv1.Command_AbandonRestore:
		return t.abandonRestore(k.AbandonRestore.GetRestoreId())
	case *catalogv1.Command_RestoreAccounts:
		return t.restoreAccounts(k.RestoreAccounts)
	case *catalogv1.Command_DestroyUserKey:
		return t.destroyUserKey(k.DestroyUserKey)
	case *catalogv1.Command_CreateUserKeys:
		return t.createUserKeys(k.CreateUserKeys)
	}
	// An entry of a newer version: this replica cannot know what it leaves out.
	return nil, dberr.New(dberr.Corrupt, "a catalog command this version does not know")
}

// edit returns the model to change, a copy the first time.
func (t *transaction) edit() *model {
	if !t.owned {
		t.model = t.model.clone()
		t.owned = true
	}
	return t.model
}

func (t *transaction) emit(e *catalogv1.WatchResponse) {
	t.edit() // the version moves
	t.events = append(t.events, e)
}

func (t *transaction) bucket(name []byte) *bbolt.Bucket { return t.tx.Bucket(name) }

func unchanged() (*catalogv1.ApplyResponse, error) { return &catalogv1.ApplyResponse{}, nil }

func changed() *catalogv1.ApplyResponse { return &catalogv1.ApplyResponse{Changed: true} }
