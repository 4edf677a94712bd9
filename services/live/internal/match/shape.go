// Package match decides what a change means to a subscription and writes it down: the filter is
// evaluated on the old and the new row, the projection is applied, the rows are encoded. A Shape does
// this for all subscriptions that share filter, projection and encoding.
package match

import (
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/celljson"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

const (
	// schemaBytesMax bounds an encoded schema; tables have far fewer columns than would reach it.
	schemaBytesMax = 4 << 20
	// rowBytesMax bounds one encoded row: half of what a message between roles may hold, as an UPDATE
	// carries two.
	rowBytesMax = 60 << 20
)

// Spec is what subscriptions must have in common to share a Shape.
type Spec struct {
	Table *catalog.Table
	// Columns are the ids of the columns asked for, in order.
	Columns []uint32
	// Filter is absent when every row matches.
	Filter   *exprv1.Expr
	Encoding livev1.Encoding
	// UserID and Role are the subscriber's: what CURRENT_USER and CURRENT_ROLE mean in the filter.
	UserID string
	Role   catalog.Role
}

// Shape is a compiled Spec. It is immutable and safe for concurrent use.
type Shape struct {
	table    *catalog.Table
	filter   *predicate.Program // nil when every row matches
	expr     *exprv1.Expr
	encoding livev1.Encoding
	userID   string
	role     catalog.Role

	columns   []catalog.Column // delivered, _seq last (not in the seed's encoding)
	asked     int              // so many of columns were asked for; then come the key and _seq
	scan      []uint32         // columns of a scan: those delivered, and _seq last in every encoding
	positions []int            // of columns in the table; negative for system columns
	rows      *celljson.RowEncoder
	schema    *arrow.Schema
	schemaIPC []byte
}

// Compile makes a Shape.
func Compile(spec Spec) (*Shape, error) {
	s := &Shape{table: spec.Table, expr: spec.Filter, encoding: spec.Encoding, userID: spec.UserID, role: spec.Role}
	if err := s.project(spec.Columns); err != nil {
		return nil, err
	}
	if spec.Filter != nil {
		p, err := predicate.CompileFilter(spec.Filter, spec.Table)
		if err != nil {
			return nil, err
		}
		s.filter = p
	}
	if d := s.Dialect(); d.Valid() {
		s.rows = celljson.NewRowEncoder(s.columns, d)
	} else if s.encoding != livev1.Encoding_ENCODING_ARROW_IPC {
		return nil, dberr.New(dberr.InvalidArgument, "subscribe: encoding %d is not known", s.encoding)
	}
	var err error
	if s.schema, err = rowbatch.SchemaOf(s.columns); err != nil {
		return nil, err
	}
	s.schemaIPC, err = rowbatch.Encode(memory.DefaultAllocator, s.schema, nil, schemaBytesMax)
	return s, err
}

// project finds the columns to deliver: those asked for, then what identifies a row and its version.
func (s *Shape) project(ids []uint32) error {
	for _, id := range ids {
		col, ok := s.table.AnyColumn(id)
		if !ok || col.Hidden || id == catalog.UserColumnID {
			return dberr.New(dberr.ColumnNotFound, "subscribe: %s has no column with id %d", s.table.QualifiedName(), id)
		}
		if id != catalog.SeqColumnID && !s.delivers(id) {
			s.columns = append(s.columns, *col)
		}
	}
	s.asked = len(s.columns)
	seed := s.encoding == livev1.Encoding_ENCODING_SEED_JSON
	for i := range s.table.Key() {
		if key := s.table.KeyColumn(i); !seed && !key.Hidden && !s.delivers(key.ID) {
			s.columns = append(s.columns, *key)
		}
	}
	for i := range s.columns {
		s.scan = append(s.scan, s.columns[i].ID)
	}
	s.scan = append(s.scan, catalog.SeqColumnID)
	if !seed {
		seq, _ := s.table.AnyColumn(catalog.SeqColumnID)
		s.columns = append(s.columns, *seq)
	}
	for i := range s.columns {
		s.positions = append(s.positions, slices.IndexFunc(s.table.Columns, func(c catalog.Column) bool { return c.ID == s.columns[i].ID }))
	}
	return nil
}

func (s *Shape) delivers(id uint32) bool {
	return slices.ContainsFunc(s.columns, func(c catalog.Column) bool { return c.ID == id })
}

// Table is the version of the table that the shape was compiled for.
func (s *Shape) Table() *catalog.Table { return s.table }

// Encoding is how rows are encoded.
func (s *Shape) Encoding() livev1.Encoding { return s.encoding }

// Filter is the condition, nil when every row matches.
func (s *Shape) Filter() *exprv1.Expr { return s.expr }

// Columns are the columns delivered, in order.
func (s *Shape) Columns() []catalog.Column { return s.columns }

// ScanColumns are the columns a scan must return: those delivered, in order, and _seq as the last.
func (s *Shape) ScanColumns() []uint32 { return s.scan }

// Schema describes the rows delivered.
func (s *Shape) Schema() *arrow.Schema { return s.schema }

// SchemaIPC is the schema as an Arrow IPC stream.
func (s *Shape) SchemaIPC() []byte { return s.schemaIPC }

// Dialect is the encoding as celljson knows it; not Valid for Arrow.
func (s *Shape) Dialect() celljson.Dialect {
	switch s.encoding {
	case livev1.Encoding_ENCODING_JSON:
		return celljson.JSON
	case livev1.Encoding_ENCODING_SEED_JSON:
		return celljson.Seed
	case livev1.Encoding_ENCODING_MSGPACK:
		return celljson.Msgpack
	}
	return 0
}
