// Package maintenance starts and ends jobs: FLUSH and KILL JOB (spec 1.15). A statement makes a job and does not wait for it.
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
	"github.com/kalamdb/kalamdb-go/services/query/internal/access"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
)

// flushRetriesMax is how often a flush is tried again, as in the original. Each attempt waits for elections by itself.
const flushRetriesMax = 3

// jobIDBytes are the random bytes of a job's id: 12 hex digits.
const jobIDBytes = 6

// Jobs runs the statements.
type Jobs struct {
	Catalog *catalogview.View
	Now     func() time.Time
}

// Flush executes FLUSH TABLE and FLUSH ALL in the given default namespace, in both forms.
func (j *Jobs) Flush(ctx context.Context, id catalog.Identity, namespace string, s *sqlfront.Flush) (string, error) {
	if err := access.Can(id.Role, access.FlushTables); err != nil {
		return "", err
	}
	if s.All {
		return j.flushAll(ctx, id, cmp.Or(s.In, namespace), s)
	}
	t, err := j.flushable(cmp.Or(s.Table.Namespace, namespace), s.Table.Name)
	if err != nil {
		return "", err
	}
	job, err := j.start(ctx, id, t)
	switch {
	case dberr.Is(err, dberr.AlreadyExists) && s.Storage:
		return fmt.Sprintf("Storage flush skipped: a flush is already queued or running for table '%s'", t.QualifiedName()), nil
	case dberr.Is(err, dberr.AlreadyExists):
		return "", dberr.New(dberr.AlreadyExists, "a flush is already queued or running for table '%s'", t.QualifiedName())
	case err != nil:
		return "", err
	}
	return fmt.Sprintf("%s started for table '%s'. Job ID: %s", title(s), t.QualifiedName(), job), nil
}

// title begins the messages.
func title(s *sqlfront.Flush) string {
	if s.Storage {
		return "Storage flush"
	}
	return "Flush"
}

// flushable finds a table that has rows to be flushed.
func (j *Jobs) flushable(namespace, name string) (*catalog.Table, error) {
	if systemtable.IsSystem(namespace) {
		return nil, dberr.New(dberr.InvalidOperation, "%s.%s is a system table: it is computed when it is read, and there is nothing to flush", namespace, name)
	}
	t, ok := j.Catalog.State().Table(namespace, name)
	if !ok {
		return nil, dberr.New(dberr.TableNotFound, "relation \"%s.%s\" does not exist", namespace, name)
	}
	if t.Kind == catalog.StreamTable {
		return nil, dberr.New(dberr.InvalidOperation, "%s is a STREAM table: its rows are in memory only and cannot be flushed", t.QualifiedName())
	}
	return t, nil
}

// flushAll starts a flush of each table of a namespace that can be flushed and is not being flushed.
func (j *Jobs) flushAll(ctx context.Context, id catalog.Identity, namespace string, s *sqlfront.Flush) (string, error) {
	tables, err := j.tablesOf(namespace)
	if err != nil {
		return "", err
	}
	var ids []string
	busy, request := 0, requestid.From(ctx)
	for _, t := range tables {
		// A request applies one command of a kind, so each table's is a part of it.
		job, err := j.start(requestid.With(ctx, request.Part(uint64(t.ID))), id, t)
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
	return startedAll(namespace, s, ids, busy)
}

// startedAll is the answer of FLUSH ALL.
func startedAll(namespace string, s *sqlfront.Flush, ids []string, busy int) (string, error) {
	switch {
	case len(ids) == 0 && busy > 0 && s.Storage:
		return fmt.Sprintf("Storage flush skipped: a flush is already queued or running for every table in namespace '%s'", namespace), nil
	case len(ids) == 0 && busy > 0:
		return "", dberr.New(dberr.AlreadyExists, "a flush is already queued or running for every table in namespace '%s'", namespace)
	case len(ids) == 0:
		return fmt.Sprintf("%s skipped: there is no table to flush in namespace '%s'", title(s), namespace), nil
	}
	text := fmt.Sprintf("%s started for %d table(s) in namespace '%s'. Job IDs: [%s]", title(s), len(ids), namespace, strings.Join(ids, ", "))
	if busy > 0 {
		text += fmt.Sprintf(" (%d table(s) skipped: a flush is already queued or running)", busy)
	}
	return text, nil
}

// tablesOf are the tables of a namespace that can be flushed, in order of name.
func (j *Jobs) tablesOf(namespace string) ([]*catalog.Table, error) {
	if systemtable.IsSystem(namespace) {
		return nil, dberr.New(dberr.InvalidOperation, "namespace '%s' has system tables only, which cannot be flushed", namespace)
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
func (j *Jobs) start(ctx context.Context, id catalog.Identity, t *catalog.Table) (string, error) {
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
		JobId: catalog.JobFlushPrefix + hex.EncodeToString(random[:]), Type: catalog.JobFlush, Namespace: t.Namespace,
		TableName: t.Name, TableId: t.ID, Parameters: string(parameters), IdempotencyKey: catalog.FlushKey(t.ID),
		MaxRetries: flushRetriesMax, CreatedBy: id.UserID}}}})
	return resp.GetJob().GetJobId(), err
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
