// Package maintenance starts and ends jobs: FLUSH, STORAGE COMPACT and KILL JOB (spec 1.15). A statement makes a job and does not wait for it.
package maintenance

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// retriesMax is how often a job is tried again, as in the original. Each attempt waits for elections by itself.
const retriesMax = 3

// jobIDBytes are the random bytes of a job's id: 12 hex digits.
const jobIDBytes = 6

// Jobs runs the statements.
type Jobs struct {
	Catalog *catalogview.View
	// CheckRestoreUser asks the leader of a user's shard.
	CheckRestoreUser func(ctx context.Context, req *storagev1.CheckRestoreUserRequest) (*storagev1.CheckRestoreUserResponse, error)
	Now              func() time.Time
}

// work is what a statement starts jobs for.
type work struct {
	kind, prefix string
	key          func(table uint32) string
	// title begins the messages; noun, verb and done are of what is done.
	title, noun, verb, done string
	// busyIsFine: that it is under way already is no error.
	busyIsFine bool
}

var (
	storageMove = work{kind: catalog.JobMove, prefix: catalog.JobMovePrefix, key: catalog.MoveKey,
		title: "Move", noun: "a move", verb: "move", done: "moved", busyIsFine: true}
	oldFlush = work{kind: catalog.JobFlush, prefix: catalog.JobFlushPrefix, key: catalog.FlushKey,
		title: "Flush", noun: "a flush", verb: "flush", done: "flushed"}
	storageFlush = work{kind: catalog.JobFlush, prefix: catalog.JobFlushPrefix, key: catalog.FlushKey,
		title: "Storage flush", noun: "a flush", verb: "flush", done: "flushed", busyIsFine: true}
	storageCompact = work{kind: catalog.JobCompact, prefix: catalog.JobCompactPrefix, key: catalog.CompactKey,
		title: "Storage compact", noun: "a compaction", verb: "compact", done: "compacted", busyIsFine: true}
)

// Flush executes FLUSH TABLE and FLUSH ALL in the given default namespace, in both forms.
func (j *Jobs) Flush(ctx context.Context, id catalog.Identity, namespace string, s *sqlfront.Flush) (string, error) {
	w := &oldFlush
	if s.Storage {
		w = &storageFlush
	}
	if s.All {
		return j.all(ctx, id, cmp.Or(s.In, namespace), w)
	}
	return j.one(ctx, id, cmp.Or(s.Table.Namespace, namespace), s.Table.Name, w)
}

// Compact executes STORAGE COMPACT TABLE and STORAGE COMPACT ALL in the given default namespace.
func (j *Jobs) Compact(ctx context.Context, id catalog.Identity, namespace string, s *sqlfront.Compact) (string, error) {
	if s.All {
		return j.all(ctx, id, cmp.Or(s.In, namespace), &storageCompact)
	}
	return j.one(ctx, id, cmp.Or(s.Table.Namespace, namespace), s.Table.Name, &storageCompact)
}

// one starts the work on a table.
func (j *Jobs) one(ctx context.Context, id catalog.Identity, namespace, name string, w *work) (string, error) {
	if err := access.Can(id.Role, access.FlushTables); err != nil {
		return "", err
	}
	t, err := j.storedTable(namespace, name, w)
	if err != nil {
		return "", err
	}
	job, err := j.start(ctx, id, t, w)
	switch {
	case dberr.Is(err, dberr.AlreadyExists):
		return w.busy("table '" + t.QualifiedName() + "'")
	case err != nil:
		return "", err
	}
	return fmt.Sprintf("%s started for table '%s'. Job ID: %s", w.title, t.QualifiedName(), job), nil
}

// busy is the answer when it is under way already.
func (w *work) busy(what string) (string, error) {
	text := w.noun + " is already queued or running for " + what
	if w.busyIsFine {
		return w.title + " skipped: " + text, nil
	}
	return "", dberr.New(dberr.AlreadyExists, "%s", text)
}

// storedTable finds a table that has rows on disk.
func (j *Jobs) storedTable(namespace, name string, w *work) (*catalog.Table, error) {
	if systemtable.IsSystem(namespace) {
		return nil, dberr.New(dberr.InvalidOperation, "%s.%s is a system table: it is computed when it is read, and there is nothing to %s", namespace, name, w.verb)
	}
	t, ok := j.Catalog.State().Table(namespace, name)
	if !ok {
		return nil, dberr.New(dberr.TableNotFound, "relation \"%s.%s\" does not exist", namespace, name)
	}
	if t.Kind == catalog.StreamTable {
		return nil, dberr.New(dberr.InvalidOperation, "%s is a STREAM table: its rows are in memory only and cannot be %s", t.QualifiedName(), w.done)
	}
	return t, nil
}

// all starts the work on each table of a namespace that it can be done on and is not being done on.
func (j *Jobs) all(ctx context.Context, id catalog.Identity, namespace string, w *work) (string, error) {
	if err := access.Can(id.Role, access.FlushTables); err != nil {
		return "", err
	}
	tables, err := j.tablesOf(namespace, w)
	if err != nil {
		return "", err
	}
	var ids []string
	busy, request := 0, requestid.From(ctx)
	for _, t := range tables {
		// A request applies one command of a kind, so each table's is a part of it.
		job, err := j.start(requestid.With(ctx, request.Part(uint64(t.ID))), id, t, w)
		switch {
		case err == nil:
			ids = append(ids, job)
		case dberr.Is(err, dberr.AlreadyExists):
			busy++
		case dberr.Is(err, dberr.TableNotFound): // dropped meanwhile
		case len(ids) > 0:
			return "", dberr.New(dberr.CodeOf(err), "table '%s': %w; for the tables before it these jobs were started: [%s]",
				t.QualifiedName(), err, strings.Join(ids, ", "))
		default:
			return "", err
		}
	}
	return w.startedAll(namespace, ids, busy)
}

// startedAll is the answer for a whole namespace.
func (w *work) startedAll(namespace string, ids []string, busy int) (string, error) {
	switch {
	case len(ids) == 0 && busy > 0:
		return w.busy("every table in namespace '" + namespace + "'")
	case len(ids) == 0:
		return fmt.Sprintf("%s skipped: there is no table to %s in namespace '%s'", w.title, w.verb, namespace), nil
	}
	text := fmt.Sprintf("%s started for %d table(s) in namespace '%s'. Job IDs: [%s]", w.title, len(ids), namespace, strings.Join(ids, ", "))
	if busy > 0 {
		text += fmt.Sprintf(" (%d table(s) skipped: %s is already queued or running)", busy, w.noun)
	}
	return text, nil
}

// tablesOf are the tables of a namespace that have rows on disk, in order of name.
func (j *Jobs) tablesOf(namespace string, w *work) ([]*catalog.Table, error) {
	if systemtable.IsSystem(namespace) {
		return nil, dberr.New(dberr.InvalidOperation, "namespace '%s' has system tables only, which cannot be %s", namespace, w.done)
	}
	state := j.Catalog.State()
	if _, ok := state.Namespaces[namespace]; !ok {
		return nil, dberr.New(dberr.NamespaceNotFound, "Namespace '%s' does not exist", namespace)
	}
	var tables []*catalog.Table
	for _, t := range state.Tables {
		if t.Namespace == namespace && t.Kind != catalog.StreamTable {
			tables = append(tables, t)
		}
	}
	slices.SortFunc(tables, func(a, b *catalog.Table) int { return cmp.Compare(a.Name, b.Name) })
	return tables, nil
}

// start makes the job and returns its id: that of the first attempt when the request is repeated.
func (j *Jobs) start(ctx context.Context, id catalog.Identity, t *catalog.Table, w *work) (string, error) {
	var random [jobIDBytes]byte
	_, _ = rand.Read(random[:]) // never fails: see crypto/rand
	parameters, err := json.Marshal(struct {
		Namespace string `json:"namespace"`
		Table     string `json:"table"`
		TableID   uint32 `json:"table_id"`
	}{t.Namespace, t.Name, t.ID})
	if err != nil {
		return "", dberr.New(dberr.Internal, "describe a job: %w", err)
	}
	resp, err := j.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_CreateJob{CreateJob: &catalogv1.CreateJob{Job: &catalogv1.Job{
		JobId: w.prefix + hex.EncodeToString(random[:]), Type: w.kind, Namespace: t.Namespace,
		TableName: t.Name, TableId: t.ID, Parameters: string(parameters), IdempotencyKey: w.key(t.ID),
		MaxRetries: retriesMax, CreatedBy: id.UserID}}}})
	return resp.GetJob().GetJobId(), err
}

// Move starts the job that moves a table's segments to where they belong, and returns its id.
func (j *Jobs) Move(ctx context.Context, id catalog.Identity, t *catalog.Table) (string, error) {
	return j.start(ctx, id, t, &storageMove)
}

// Kill executes KILL JOB. The job is cancelled when this returns; what runs of it ends soon after.
func (j *Jobs) Kill(ctx context.Context, id catalog.Identity, s *sqlfront.KillJob) (string, error) {
	if err := access.Can(id.Role, access.KillJob); err != nil {
		return "", err
	}
	_, err := j.apply(ctx, &catalogv1.Command{Command: &catalogv1.Command_UpdateJob{UpdateJob: &catalogv1.UpdateJob{JobId: s.ID,
		Status: catalogv1.JobStatus_JOB_STATUS_CANCELLED, Message: "cancelled by " + id.UserID}}})
	if err != nil {
		return "", err
	}
	return "Job " + s.ID + " killed: " + catalog.JobStatusName(catalogv1.JobStatus_JOB_STATUS_CANCELLED), nil
}

func (j *Jobs) apply(ctx context.Context, c *catalogv1.Command) (*catalogv1.ApplyResponse, error) {
	c.TimeUs = j.Now().UnixMicro()
	return j.Catalog.Apply(ctx, c)
}
