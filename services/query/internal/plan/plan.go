package plan

import (
	pg "github.com/pganalyze/pg_query_go/v6"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/query/internal/sqlfront"
	"github.com/kalamdb/kalamdb-go/services/query/internal/systemtable"
	"github.com/kalamdb/kalamdb-go/services/query/internal/transaction"
)

// Kind says who executes a plan.
type Kind uint8

const (
	// Engine plans run in the engine over one scan per table.
	Engine Kind = iota
	// FastScan plans are one scan of the storage role, passed through.
	FastScan
	// FastCount plans count the rows of one scan.
	FastCount
)

func (k Kind) String() string { return [...]string{"engine", "storage", "count"}[k] }

// Env is what a statement runs under.
type Env struct {
	Identity catalog.Identity
	// Namespace of unqualified names.
	Namespace string
	Params    []datum.Datum
	// NowUS is the statement's time, microseconds since the Unix epoch.
	NowUS int64
	// Consistency of the statement's reads, MaxStalenessMS for stale ones. What UPDATE and DELETE read to
	// write is always linearizable.
	Consistency    storagev1.Consistency
	MaxStalenessMS uint32
	// Transaction is the one the statement belongs to; nil when it stands alone.
	Transaction *transaction.Transaction
}

// staged reports whether rows that are not in storage yet are among those to read: the scan of a table then has no
// order, and no limit.
func (e *Env) staged() bool { return e.Transaction != nil && e.Transaction.Writes() }

// Plan is a planned SELECT. It is immutable and shared.
type Plan struct {
	Kind  Kind
	Scans []*Scan
	// SQL is the engine's text: it reads Scans[i] as kalam_scan(i). Empty for fast plans.
	SQL string
	// Output describes the result's columns as far as planning knows them: by position, nil for an
	// expression. For engine plans it may be shorter than the result.
	Output []Output

	// Spread is the engine's plan of the same statement, for a fast plan whose table is partitioned and whose
	// parameters choose several partitions or none. Nil in other plans.
	Spread *Plan

	// params says what each of the engine's parameters is: the number of one of the statement's, or one
	// of paramUser and the following.
	params []int
	// refs are the column names the text uses, for errors of the engine.
	refs   []columnRef
	locate func(location int32) (line, column int)
}

// Output is one result column.
type Output struct {
	// Name is the column's name; empty when the engine names it.
	Name string
	// Column is the table's column that it shows unchanged; nil for an expression.
	Column *catalog.Column
}

// Scan is one table read by a plan.
type Scan struct {
	// Table or System is set.
	Table  *catalog.Table
	System *systemtable.Table
	// AllUsers reads the partitions of every user the caller may act for, and names their owners.
	AllUsers bool
	// Columns are what can be read: all columns for an engine plan, which reads those it needs, and
	// the result's columns for a fast plan.
	Columns []catalog.Column
	// IncludeDeleted shows tombstones: the WHERE mentions _deleted.
	IncludeDeleted bool
	// Ordered says that the plan relies on the scan's order.
	Ordered bool
	Order   []*exprv1.OrderBy

	// staged says that rows of a transaction are read beside the scan's.
	staged bool
	// keyed says that the text sorts by the hidden key, so the engine must see it.
	keyed bool
	// alias is how the text names the table.
	alias string
	// filters are conditions the storage role evaluates, nodes of tree.
	filters []*pg.Node
	tree    *sqlfront.Tree
	// limit and offset are constants or parameters; nil means none. cut says that limit and offset
	// together bound the rows read, while the engine applies them.
	limit, offset *pg.Node
	cut           bool
}

// Bound is a plan with the values of one execution.
type Bound struct {
	*Plan
	Scans []BoundScan
	// Params are the engine's.
	Params []datum.Datum
}

// BoundScan is what one execution reads of a Scan.
type BoundScan struct {
	*Scan
	Filter *exprv1.Expr
	// Limit zero means none. Empty says that no row is wanted at all (LIMIT 0).
	Limit, Offset uint64
	Empty         bool
}

// Spreads reports whether the rows come from several scans or from elsewhere too, so in no order.
func (s *Scan) Spreads() bool {
	return s.AllUsers || s.staged || s.Table != nil && s.Table.Partitioned()
}

// Bind computes filters and limits from the parameters and gives the engine the statement's user, role
// and time.
func (p *Plan) Bind(env *Env) (*Bound, error) {
	b := &Bound{Plan: p, Scans: make([]BoundScan, len(p.Scans))}
	for i, s := range p.Scans {
		b.Scans[i].Scan = s
		if err := b.Scans[i].bind(env.Params); err != nil {
			return nil, err
		}
	}
	for _, which := range p.params {
		b.Params = append(b.Params, env.param(which))
	}
	return b, nil
}

// What the engine is told of a statement's surroundings, as parameters.
const (
	paramUser = -1 - iota
	paramRole
	paramNow
	paramNamespace
)

func (e *Env) param(which int) datum.Datum {
	switch which {
	case paramUser:
		return datum.Text(e.Identity.UserID)
	case paramRole:
		return datum.Text(e.Identity.Role.String())
	case paramNow:
		return datum.Int(e.NowUS)
	case paramNamespace:
		return datum.Text(e.Namespace)
	}
	return e.Params[which-1]
}

func (b *BoundScan) bind(params []datum.Datum) error {
	var err error
	if b.Filter, err = b.filter(params); err != nil {
		return err
	}
	limit, limited, err := count("LIMIT", b.limit, params)
	if err != nil {
		return err
	}
	offset, _, err := count("OFFSET", b.offset, params)
	if err != nil {
		return err
	}
	b.Empty = limited && limit == 0
	if b.cut { // the engine applies both; the scan need not go beyond their sum
		if limited {
			limit = saturated(limit, offset)
		}
		offset = 0
	}
	b.Limit, b.Offset = limit, offset
	return nil
}

func saturated(a, b uint64) uint64 {
	if a+b < a {
		return ^uint64(0)
	}
	return a + b
}

// EngineColumns are the columns the engine may see: a star in its text shows all of them, so the hidden
// key is one of them only when the text sorts by it.
func (s *Scan) EngineColumns() []catalog.Column {
	n := len(s.Columns)
	for n > 0 && !s.keyed && s.Columns[n-1].Hidden {
		n--
	}
	return s.Columns[:n]
}

// Keyed reports whether EngineColumns holds the hidden key.
func (s *Scan) Keyed() bool { return s.keyed }
