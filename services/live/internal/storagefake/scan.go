package storagefake

import (
	"math"
	"sort"

	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// DoGet serves scans ordered by _seq, which is all that the live role asks for.
func (n *Node) DoGet(ticket *flight.Ticket, stream flight.FlightService_DoGetServer) error {
	var req storagev1.ScanRequest
	if err := proto.Unmarshal(ticket.GetTicket(), &req); err != nil {
		return dberr.New(dberr.InvalidArgument, "ticket: %w", err)
	}
	s := n.storage
	s.mu.Lock()
	before := s.beforeScan
	s.scans++
	s.mu.Unlock()
	if before != nil {
		before()
	}
	s.mu.Lock()
	leads, notLeader := s.leads(n), s.notLeader()
	s.mu.Unlock()
	if !leads {
		return notLeader
	}
	t, rows, position, err := s.read(&req)
	if err != nil {
		return err
	}
	return send(t, &req, rows, position, stream)
}

// read takes the rows of the partition as they are now.
func (s *Storage) read(req *storagev1.ScanRequest) (*catalog.Table, []tableRow, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[req.GetTableId()]
	if t == nil {
		return nil, nil, 0, dberr.New(dberr.NotFound, "no such table")
	}
	if t.SchemaVersion != req.GetSchemaVersion() {
		return nil, nil, 0, dberr.New(dberr.SchemaChanged, "version %d", t.SchemaVersion)
	}
	filter, err := predicate.CompileFilter(req.GetFilter(), t)
	if err != nil {
		return nil, nil, 0, err
	}
	if s.scanRows > 0 && req.GetLimit() > s.scanRows {
		return nil, nil, 0, dberr.New(dberr.LimitExceeded, "more than %d rows to order", s.scanRows)
	}
	var rows []tableRow
	all, position := s.now(partitionKey{req.GetTableId(), req.GetUserId()})
	for _, r := range all {
		tr := tableRow{table: t, row: r}
		env := predicate.Env{NowUS: req.GetNowUs(), UserID: req.GetIdentity().GetUserId()}
		ok, err := filter.Matches(&env, tr)
		if err != nil {
			return nil, nil, 0, err
		}
		if ok && r.seq > req.GetAfterSeq() {
			rows = append(rows, tr)
		}
	}
	descending := req.GetOrder()[0].GetDescending()
	sort.Slice(rows, func(i, j int) bool { return (rows[i].seq < rows[j].seq) != descending })
	if n := req.GetLimit(); n > 0 && n < uint64(len(rows)) {
		rows = rows[:n]
	}
	return t, rows, position, nil
}

// scanBatch is small, so that tests see several records.
const scanBatch = 300

func send(t *catalog.Table, req *storagev1.ScanRequest, rows []tableRow, position uint64, stream flight.FlightService_DoGetServer) error {
	var columns []catalog.Column
	for _, id := range req.GetColumnIds() {
		c, ok := t.AnyColumn(id)
		if !ok {
			return dberr.New(dberr.ColumnNotFound, "column %d", id)
		}
		columns = append(columns, *c)
	}
	schema, err := rowbatch.SchemaOf(columns)
	if err != nil {
		return err
	}
	header, err := proto.Marshal(&storagev1.ScanHeader{Position: position})
	if err != nil {
		return err
	}
	w := rowbatch.NewFlightWriter(stream, memory.DefaultAllocator)
	if err := w.Start(rowbatch.SchemaHeader(schema, memory.DefaultAllocator), header); err != nil {
		return err
	}
	b := rowbatch.NewBuilder(memory.DefaultAllocator, schema, columns)
	defer b.Release()
	for i, r := range rows {
		for c := range columns {
			if err := b.Append(c, r.Column(columns[c].ID)); err != nil {
				return err
			}
		}
		b.EndRow()
		if b.Rows() < scanBatch && i+1 < len(rows) {
			continue
		}
		rec := b.NewBatch()
		err := w.Write(rec)
		rec.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// tableRow is a row that predicates and scans read.
type tableRow struct {
	table *catalog.Table
	*row
}

// Column returns a value by the column's id.
func (r tableRow) Column(id uint32) datum.Datum {
	if id == catalog.SeqColumnID {
		return datum.Int(int64(r.seq))
	}
	if id == 0 || id > math.MaxUint16 || int(id) > len(r.values) {
		return datum.Null
	}
	return r.values[id-1]
}
