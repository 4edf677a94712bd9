package dml

import (
	"fmt"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/exec"
	"github.com/kalamdb/kalamdb-go/services/query/internal/plan"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storageclient"
)

func predicateEnv(e *plan.Env) *predicate.Env {
	return &predicate.Env{NowUS: e.NowUS, UserID: e.Identity.UserID, Role: e.Identity.Role}
}

// Writer executes INSERT, UPDATE and DELETE.
type Writer struct {
	Catalog *catalogview.View
	Storage *storageclient.Client
	// Runner is the reading side: INSERT … SELECT, and the rows that UPDATE and DELETE change.
	Runner *exec.Runner
	// NextID makes the values of SNOWFLAKE_ID().
	NextID func() int64
	Now    func() time.Time
}

// Result is what a statement did.
type Result struct {
	// Verb begins the message: Inserted, Updated, Deleted.
	Verb       string
	Rows       uint64
	Durability storagev1.Durability
	Position   uint64
	// Returning holds the rows of RETURNING; the caller releases it. Nil without the clause.
	Returning arrow.RecordBatch
	// Committed is set for a statement of a transaction: it makes what the statement did of the commit's answer.
	Committed func(*storagev1.WriteResponse) (*Result, error)
}

// Message is a result's text (spec 1.9).
func Message(verb string, rows uint64) string { return fmt.Sprintf("%s %d row(s)", verb, rows) }

// table finds the table a statement writes.
func table(state *catalogview.State, namespace string, name sqlfront.Name) (*catalog.Table, error) {
	if name.Namespace != "" {
		namespace = name.Namespace
	}
	t, ok := state.Table(namespace, name.Name)
	if !ok {
		return nil, dberr.New(dberr.TableNotFound, "relation \"%s.%s\" does not exist", namespace, name.Name)
	}
	return t, nil
}

func durabilityOf(t *catalog.Table) storagev1.Durability {
	if t.Kind == catalog.StreamTable {
		return storagev1.Durability_DURABILITY_MEMORY
	}
	return storagev1.Durability_DURABILITY_QUORUM
}
