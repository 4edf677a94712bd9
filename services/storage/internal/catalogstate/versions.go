package catalogstate

import (
	"bytes"
	"context"
	"encoding/binary"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

// bucketVersions has the former versions of tables: id, version → Table. It is made by the first ALTER TABLE and not when
// the file is opened: a replica of an earlier version would not have it, and their sums would differ.
var bucketVersions = []byte("table_versions")

// versionsPageBytes bounds one page of ListTableVersions.
const versionsPageBytes = 1 << 20

func versionKey(table, version uint32) []byte {
	return binary.BigEndian.AppendUint32(idKey(table), version)
}

// keepVersion keeps what is about to be replaced.
func (t *transaction) keepVersion(p *catalogv1.Table) error {
	b, err := t.tx.CreateBucketIfNotExists(bucketVersions)
	if err != nil {
		return err
	}
	return putMessage(b, versionKey(p.GetId(), p.GetSchemaVersion()), p)
}

// forgetVersions removes the former versions of a table that is dropped.
func (t *transaction) forgetVersions(table uint32) error {
	b := t.bucket(bucketVersions)
	if b == nil {
		return nil
	}
	var keys [][]byte // a cursor that deletes may skip
	c := b.Cursor()
	for k, _ := c.Seek(idKey(table)); bytes.HasPrefix(k, idKey(table)); k, _ = c.Next() {
		keys = append(keys, k)
	}
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// FormerVersions returns the former versions behind a table's version, of one table or (zero) of all, and whether there are more.
func (s *State) FormerVersions(table, afterTable, afterVersion uint32) (versions []*catalogv1.Table, more bool, err error) {
	first, prefix := versionKey(afterTable, afterVersion), []byte{}
	if table != 0 {
		prefix = idKey(table)
		if afterTable != table {
			first = versionKey(table, 0)
		}
	}
	err = s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketVersions)
		if b == nil {
			return nil
		}
		size, c := 0, b.Cursor()
		for k, v := c.Seek(first); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
			if bytes.Equal(k, first) {
				continue
			}
			if size += len(v); size > versionsPageBytes && len(versions) > 0 {
				more = true
				return nil
			}
			p := new(catalogv1.Table)
			if err := proto.Unmarshal(v, p); err != nil {
				return dberr.New(dberr.Corrupt, "read a former version of a table: %w", err)
			}
			versions = append(versions, p)
		}
		return nil
	})
	return versions, more, err
}

// ListTableVersions pages through the former versions of tables, as of now.
func (s *Service) ListTableVersions(ctx context.Context, req *catalogv1.ListTableVersionsRequest) (*catalogv1.ListTableVersionsResponse, error) {
	if err := s.group.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	versions, more, err := s.state.FormerVersions(req.GetTableId(), req.GetAfterTableId(), req.GetAfterSchemaVersion())
	if err != nil {
		return nil, err
	}
	return &catalogv1.ListTableVersionsResponse{Tables: versions, HasMore: more}, nil
}
