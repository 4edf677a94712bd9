// Package statement runs requests: it parses the whole text, checks every statement's rights, and then
// executes the statements one after another.
package statement

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/catalog/catalogview"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/requestid"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/account"
	"github.com/kalamdb/kalamdb-go/services/query/internal/admission"
	"github.com/kalamdb/kalamdb-go/services/query/internal/clusteradmin"
	"github.com/kalamdb/kalamdb-go/services/query/internal/ddl"
	"github.com/kalamdb/kalamdb-go/services/query/internal/dml"
	"github.com/kalamdb/kalamdb-go/services/query/internal/exec"
	"github.com/kalamdb/kalamdb-go/services/query/internal/fleet"
	"github.com/kalamdb/kalamdb-go/services/query/internal/listing"
	"github.com/kalamdb/kalamdb-go/services/query/internal/maintenance"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/storageddl"
	"github.com/kalamdb/kalamdb-go/services/query/internal/subscriptionplan"
)

// DefaultNamespace is where unqualified names live when the request names no namespace.
const DefaultNamespace = "default"

// Fields of errors that only this package sets.
const (
	// FieldReason refines a code; ReasonParamsWithBatch is its value for parameters in a batch.
	FieldReason           = "reason"
	ReasonParamsWithBatch = "PARAMS_WITH_BATCH"
	// FieldStatement is the 1-based number of the statement that failed.
	FieldStatement = "statement"
)

// Limits bound a request; see the role's Config for their defaults.
type Limits struct {
	Parse sqlfront.Limits
	// RowsMax cuts a result; the result says so.
	RowsMax uint64
	// ResultBytesMax bounds the results of a request together.
	ResultBytesMax int
	// Timeout is a statement's, TransactionTimeout that of all from BEGIN to COMMIT.
	Timeout            time.Duration
	TransactionTimeout time.Duration
}

// Config holds what statements are run with.
type Config struct {
	Limits        Limits
	Gate          *admission.Gate
	Catalog       *catalogview.View
	Live          *fleet.Nodes
	Runner        *exec.Runner
	DDL           *ddl.DDL
	Accounts      *account.Accounts
	Storages      *storageddl.Storages
	Listings      *listing.Listings
	Writer        *dml.Writer
	Cluster       *clusteradmin.Admin
	Jobs          *maintenance.Jobs
	Subscriptions *subscriptionplan.Planner
	Now           func() time.Time
	// Observe is told of every statement that ended; it may be nil.
	Observe func(command string, took time.Duration, err error)
}

// Executor runs requests.
type Executor struct {
	Config
	texts *textCache
}

// New makes an executor.
func New(cfg Config) (*Executor, error) {
	texts, err := newTextCache(cfg.Limits.Parse)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "make the cache of parsed texts: %w", err)
	}
	return &Executor{Config: cfg, texts: texts}, nil
}

// call is a request being run. EXECUTE AS USER runs its inner statement with a copy.
type call struct {
	id        catalog.Identity
	namespace string
	params    []datum.Datum
	rowsMax   uint64
	// bytesLeft is what remains of the request's result budget.
	bytesLeft *int
	parsed    *parsed
	// of the reads
	consistency    storagev1.Consistency
	maxStalenessMS uint32
	// transaction is the one the statement belongs to; nil when it stands alone.
	transaction *openTransaction
}

// Execute runs a request. When the first statement fails, or none could start, the error is returned
// whole; a later statement's error stands in the response, beside the results before it.
func (e *Executor) Execute(ctx context.Context, req *queryv1.ExecuteRequest) (*queryv1.ExecuteResponse, error) {
	c, err := e.begin(catalog.IdentityFromProto(req.GetIdentity()), req.GetNamespace(), req.GetSql(), req.GetParams())
	if err != nil {
		return nil, err
	}
	if c.rowsMax = e.Limits.RowsMax; req.GetMaxRows() > 0 && req.GetMaxRows() < c.rowsMax {
		c.rowsMax = req.GetMaxRows()
	}
	c.consistency, c.maxStalenessMS = req.GetConsistency(), req.GetMaxStalenessMs()
	if err := e.checkAll(ctx, *c); err != nil {
		return nil, err
	}
	id := requestid.FromBytes(req.GetRequestId())
	if req.GetRepetition() {
		ctx = requestid.AsRepetition(ctx)
	}
	leave, err := e.Gate.Enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return e.runAll(ctx, c, id)
}

// runAll runs the request's statements until one fails. Those of a transaction succeed or fail together.
func (e *Executor) runAll(ctx context.Context, c *call, id requestid.ID) (*queryv1.ExecuteResponse, error) {
	resp := &queryv1.ExecuteResponse{}
	for i := 0; i < len(c.parsed.statements); {
		results, failed, err := e.step(ctx, c, id, i)
		if err != nil {
			if i == 0 {
				return nil, numbered(err, failed, len(c.parsed.statements))
			}
			resp.Error, resp.FailedStatement = dberr.ToMessage(err), uint32(failed+1)
			return resp, nil
		}
		resp.Results = append(resp.Results, results...)
		i += len(results)
	}
	return resp, nil
}

// step runs statement i, or the transaction that it begins.
func (e *Executor) step(ctx context.Context, c *call, id requestid.ID, i int) (results []*queryv1.StatementResult, failed int, err error) {
	s := c.parsed.statements[i]
	if _, ok := s.(*sqlfront.Begin); ok {
		return e.transact(ctx, c, id, i)
	}
	result, err := e.run(requestid.With(ctx, id.Part(uint64(i))), c, s)
	return []*queryv1.StatementResult{result}, i, err
}

// begin parses a request and checks what concerns it as a whole.
func (e *Executor) begin(id catalog.Identity, namespace, text string, params []*queryv1.Param) (*call, error) {
	if id.UserID == "" {
		return nil, dberr.New(dberr.Unauthenticated, "the request names no user")
	}
	bound, err := dml.Params(params)
	if err != nil {
		return nil, err
	}
	p, bound, err := e.parse(text, bound)
	if err != nil {
		return nil, err
	}
	if len(p.statements) == 0 {
		return nil, dberr.New(dberr.InvalidSQL, "the text holds no statement")
	}
	if len(p.statements) > 1 && len(params) > 0 {
		return nil, dberr.New(dberr.InvalidArgument, "parameters are allowed with one statement only, and the text holds %d",
			len(p.statements)).With(FieldReason, ReasonParamsWithBatch)
	}
	if namespace == "" {
		namespace = DefaultNamespace
	}
	left := e.Limits.ResultBytesMax
	return &call{id: id, namespace: fold(namespace), params: bound, rowsMax: e.Limits.RowsMax, bytesLeft: &left, parsed: p}, nil
}

// parse parses a text. An INSERT of plain literals is parsed as one with parameters, which the cache
// knows from the last time; when the parser does not like that form, it sees the text itself.
func (e *Executor) parse(text string, params []datum.Datum) (*parsed, []datum.Datum, error) {
	if len(params) == 0 && len(text) <= templateBytesMax {
		if t, literals, ok := template(text); ok {
			if p, err := e.texts.parse(t); err == nil {
				return p, literals, nil
			}
		}
	}
	p, err := e.texts.parse(text)
	return p, params, err
}

// run executes one statement within its timeout.
func (e *Executor) run(ctx context.Context, c *call, s sqlfront.Statement) (*queryv1.StatementResult, error) {
	began := e.Now()
	ctx, cancel := e.withTimeout(ctx)
	defer cancel()
	result, err := e.dispatchCurrent(ctx, c, s)
	err = timeoutError(ctx, err)
	if e.Observe != nil {
		e.Observe(s.Command(), e.Now().Sub(began), err)
	}
	if err != nil {
		return nil, err
	}
	result.Command = s.Command()
	if result.AsUser == "" {
		result.AsUser = c.id.UserID
	}
	return result, nil
}

// withTimeout bounds one statement. The cause tells the statement's timeout from the caller's.
func (e *Executor) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, e.Limits.Timeout, dberr.New(dberr.Timeout,
		"the statement ran longer than allowed (limit statement_timeout, %s)", e.Limits.Timeout))
}

// timeoutError returns what ended ctx, when that is why a statement failed.
func timeoutError(ctx context.Context, err error) error {
	var cause *dberr.Error
	if err != nil && errors.As(context.Cause(ctx), &cause) {
		return cause
	}
	return err
}

// numbered says which statement of several failed.
func numbered(err error, i, of int) error {
	if of == 1 {
		return err
	}
	n := strconv.Itoa(i + 1)
	wrapped := dberr.New(dberr.CodeOf(err), "statement %s: %w", n, err).With(FieldStatement, n)
	for key, value := range dberr.FieldsOf(err) {
		wrapped = wrapped.With(key, value)
	}
	return wrapped
}
