package scan

import (
	"encoding/binary"
	"math"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const (
	// columnsMax bounds the columns of one scan.
	columnsMax = 4096
	// orderMax bounds the sort keys of one scan.
	orderMax = 64
)

// plan is a request made ready to run.
type plan struct {
	req   *storagev1.ScanRequest
	table *catalog.Table
	user  string
	env   predicate.Env
	*layout

	// filter is nil when every row matches.
	filter *predicate.Program
	// filterColumns and outputColumns are what is decoded before and after the filter.
	filterColumns, outputColumns *rowcodec.Projection

	// spans are visited in this order.
	spans   []keycodec.Span
	reverse bool
	// sortBy is nil when the primary key's order is asked for.
	sortBy      []sortColumn
	sortColumns *rowcodec.Projection
}

// layout is what all scans of the same columns of a table version share.
type layout struct {
	columns []catalog.Column
	schema  *arrow.Schema
	header  []byte
}

func (s *Server) plan(req *storagev1.ScanRequest) (*plan, error) {
	t, ok := s.shards.Table(req.GetTableId())
	if !ok {
		return nil, dberr.New(dberr.TableNotFound, "scan: there is no table %d", req.GetTableId())
	}
	if req.GetSchemaVersion() != t.SchemaVersion {
		return nil, dberr.New(dberr.SchemaChanged, "%s has schema version %d, the statement was bound to %d",
			t.QualifiedName(), t.SchemaVersion, req.GetSchemaVersion())
	}
	if err := authorize(t, req); err != nil {
		return nil, err
	}
	if t.Kind.PerUser() && !req.GetAllUsers() && s.cfg.Open != nil {
		if err := s.cfg.Open(req.GetUserId()); err != nil {
			return nil, err
		}
	}
	p := &plan{req: req, table: t, user: req.GetUserId(), env: predicate.Env{NowUS: req.GetNowUs(),
		UserID: req.GetIdentity().GetUserId(), Role: catalog.Role(req.GetIdentity().GetRole())}}
	var err error
	if p.layout, err = s.layoutOf(t, req.GetColumnIds()); err != nil {
		return nil, err
	}
	p.outputColumns = rowcodec.NewProjection(t, req.GetColumnIds())
	if err := p.setFilter(req.GetFilter()); err != nil {
		return nil, err
	}
	if err := p.setOrder(req.GetOrder()); err != nil {
		return nil, err
	}
	p.spans = inDirection(p.spansOf(req.GetFilter()), p.reverse)
	return p, nil
}

// authorize lets an identity read its own partitions and shared ones, whose access level the query role has
// checked. No role reads another user's by naming them: EXECUTE AS changes the identity.
func authorize(t *catalog.Table, req *storagev1.ScanRequest) error {
	switch {
	case t.Partitioned():
		return authorizePartitioned(t, req)
	case req.GetAllUsers():
		return authorizeAll(t, req)
	case t.Kind.PerUser() && (req.GetUserId() == "" || req.GetUserId() != req.GetIdentity().GetUserId()):
		return dberr.New(dberr.PermissionDenied, "scan: the rows of another user of %s cannot be read", t.QualifiedName())
	case !t.Kind.PerUser() && req.GetUserId() != "":
		return dberr.New(dberr.InvalidArgument, "scan: %s is a shared table and has no partition of a user", t.QualifiedName())
	}
	return nil
}

// owner is the user whose rows are read, NULL in SHARED tables and across users.
func (p *plan) owner() datum.Datum {
	if p.table.Kind.PerUser() && !p.req.GetAllUsers() {
		return datum.Text(p.user)
	}
	return datum.Null
}

func (s *Server) layoutOf(t *catalog.Table, ids []uint32) (*layout, error) {
	if len(ids) > columnsMax {
		return nil, dberr.New(dberr.LimitExceeded, "scan: %d columns, the limit is %d (columnsMax)", len(ids), columnsMax)
	}
	name := make([]byte, 0, 64)
	name = binary.LittleEndian.AppendUint32(name, t.ID)
	name = binary.LittleEndian.AppendUint32(name, t.SchemaVersion)
	for _, id := range ids {
		name = binary.LittleEndian.AppendUint32(name, id)
	}
	if l, ok := s.layouts.Get(string(name)); ok {
		return l, nil
	}
	l, err := newLayout(t, ids, s.cfg.Allocator)
	if err != nil {
		return nil, err
	}
	s.layouts.Add(string(name), l)
	return l, nil
}

func newLayout(t *catalog.Table, ids []uint32, alloc memory.Allocator) (*layout, error) {
	l := &layout{columns: make([]catalog.Column, len(ids))}
	for i, id := range ids {
		c, ok := t.AnyColumn(id)
		if !ok {
			return nil, dberr.New(dberr.ColumnNotFound, "scan: %s has no column with id %d", t.QualifiedName(), id)
		}
		l.columns[i] = *c
	}
	var err error
	if l.schema, err = rowbatch.SchemaOf(l.columns); err != nil {
		return nil, err
	}
	l.header = rowbatch.SchemaHeader(l.schema, alloc)
	return l, nil
}

func (p *plan) setFilter(e *exprv1.Expr) error {
	if e == nil {
		return nil
	}
	var err error
	if p.filter, err = predicate.CompileFilter(e, p.table); err != nil {
		return err
	}
	p.filterColumns = rowcodec.NewProjection(p.table, p.filter.Columns())
	return nil
}

// setOrder decides how to sort. Descending by the whole key is the key's order backwards.
func (p *plan) setOrder(order []*exprv1.OrderBy) error {
	if len(order) > orderMax {
		return dberr.New(dberr.LimitExceeded, "scan: %d sort keys, the limit is %d (orderMax)", len(order), orderMax)
	}
	if p.byKey(order) {
		p.reverse = len(order) > 0 && order[0].GetDescending()
		return nil
	}
	ids := make([]uint32, len(order))
	p.sortBy = make([]sortColumn, len(order))
	for i, o := range order {
		ids[i] = o.GetColumnId()
		if _, ok := p.table.AnyColumn(ids[i]); !ok {
			return dberr.New(dberr.ColumnNotFound, "scan: %s has no column with id %d", p.table.QualifiedName(), ids[i])
		}
		p.sortBy[i] = sortColumn{id: ids[i], descending: o.GetDescending(), nullsFirst: o.GetNullsFirst()}
	}
	p.sortColumns = rowcodec.NewProjection(p.table, ids)
	return nil
}

// byKey reports whether order is what the keys' order gives: the key's columns in their order and one
// direction. What comes after the whole key decides nothing, as keys are unique.
func (p *plan) byKey(order []*exprv1.OrderBy) bool {
	if p.req.GetAllUsers() {
		return p.byOwnerAndKey(order)
	}
	key := p.table.Key()
	for i := range key {
		if i == len(order) { // ties are in key order anyway, which is ascending
			return i == 0 || !order[0].GetDescending()
		}
		if order[i].GetColumnId() != p.table.KeyColumn(i).ID || order[i].GetDescending() != order[0].GetDescending() {
			return false
		}
	}
	return true
}

// wanted is how many matching rows are needed, offset included.
func (p *plan) wanted() uint64 {
	limit, offset := p.req.GetLimit(), p.req.GetOffset()
	if limit == 0 || limit+offset < limit {
		return math.MaxUint64
	}
	return limit + offset
}
