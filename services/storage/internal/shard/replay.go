package shard

import (
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// closed is what a write waits for that is over.
var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// replay answers a request as it was answered when it was done. The table may have another schema since, or
// be gone: only RETURNING needs it.
func (s *Shard) replay(req *storagev1.WriteRequest, done *keycodec.Request) (*Pending, error) {
	if len(done.Counts) != len(req.GetWrites()) {
		return nil, dberr.New(dberr.InvalidArgument, "the request id was used for another write, of %d tables instead of %d", len(done.Counts), len(req.GetWrites()))
	}
	if owner := req.GetUserId(); owner != "" && owner != req.GetIdentity().GetUserId() && !partition.IsName(owner) {
		return nil, dberr.New(dberr.PermissionDenied, "the request's rows belong to another user")
	}
	p := &Pending{shard: s, first: done.FirstSeq, returns: req.GetReturnRows(), remembered: true, done: closed, affected: make([]int, len(done.Counts))}
	rows := 0
	for i, n := range done.Counts {
		p.affected[i] = int(n)
		rows += int(n)
	}
	p.position = snowflake.At(p.first, max(rows-1, 0))
	if !p.returns {
		return p, nil
	}
	row := 0
	for i, w := range req.GetWrites() {
		shown, err := s.writtenRows(req, w.GetTableId(), p.first, row, p.affected[i])
		if err != nil {
			return nil, err
		}
		p.stored = append(p.stored, shown...)
		row += p.affected[i]
	}
	return p, nil
}

// writtenRows reads from the change log what RETURNING showed: n rows, the first of them number from of the
// command that begins at first.
func (s *Shard) writtenRows(req *storagev1.WriteRequest, table uint32, first uint64, from, n int) (shown [][]byte, err error) {
	t, ok := s.cfg.Tables.Table(table)
	if !ok {
		return nil, dberr.New(dberr.TableNotFound, "table %d does not exist any more; the write was done before", table)
	}
	user := ""
	if t.Owned() {
		user = req.GetUserId()
	}
	for len(shown) < n {
		at := snowflake.At(first, from+len(shown))
		changes, _, err := changelog.Read(s.cfg.DB, s.cfg.ID, table, user, at-1, changelog.Limits{Rows: n - len(shown)})
		if err != nil {
			return nil, err
		}
		for _, ch := range changes {
			if want := snowflake.At(first, from+len(shown)); ch.GetSeq() != want {
				return nil, notItsRows(t.QualifiedName())
			}
			row := ch.GetRow()
			if ch.GetKind() == storagev1.ChangeKind_CHANGE_KIND_DELETE {
				row = ch.GetOldRow()
			}
			shown = append(shown, row)
		}
		if len(changes) == 0 {
			return nil, notItsRows(t.QualifiedName())
		}
	}
	return shown, nil
}

func notItsRows(table string) error {
	return dberr.New(dberr.InvalidArgument, "the request id was used for another write: the rows of %s are not those of this request", table)
}
