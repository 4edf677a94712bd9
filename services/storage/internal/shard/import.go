package shard

import (
	"context"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// Import writes rows of a partition with the _seq they have, deleted ones too. t is the table they are restored into; nobody sees
// it yet, so nothing is compared with what is there, and nothing goes to the change log. Doing it again changes nothing. Every _seq
// that this shard gives from then on is above theirs.
func (s *Shard) Import(ctx context.Context, t *catalog.Table, owner string, rows []*storagev1.ImportRow) error {
	term, err := s.office()
	if err != nil {
		return err
	}
	if err := s.useFormat(ctx, command.VersionImport, "restored rows"); err != nil {
		return err
	}
	cmd := &command.Command{Kind: command.Import, Term: term, User: owner, Table: t.ID, Imported: make([]command.ImportedRow, len(rows))}
	top, size := uint64(0), 0
	for i, r := range rows {
		seq, err := s.importRow(t, owner, r, &cmd.Imported[i])
		if err != nil {
			return err
		}
		top, size = max(top, seq), size+len(r.GetKey())+len(r.GetVersion())
	}
	pend, err := s.admit(ctx, &plan{bytes: size})
	if err != nil {
		return err
	}
	s.seq.Raise(top) // before log takes the entry's own _seq, which apply makes the shard's position
	if err := s.log(pend, cmd, nil); err != nil {
		return err
	}
	_, err = pend.Wait(ctx)
	return err
}

// importRow checks a row and finds its places.
func (s *Shard) importRow(t *catalog.Table, owner string, r *storagev1.ImportRow, to *command.ImportedRow) (seq uint64, err error) {
	v, err := keycodec.DecodeVersion(r.GetVersion())
	if err != nil {
		return 0, dberr.New(dberr.InvalidArgument, "a row to import: %w", err)
	}
	to.Key = append(keycodec.PartitionPrefix(nil, s.cfg.ID, t.ID, owner), r.GetKey()...)
	to.Version = r.GetVersion()
	columns := uniqueColumns(t)
	if v.Deleted || len(columns) == 0 {
		return v.Seq, nil
	}
	row := rowcodec.NewRow(t)
	if err := rowcodec.DecodeStored(v.Row, t, &row); err != nil {
		return 0, err
	}
	keys, err := uniqueKeys(s.cfg.ID, t, owner, &row, columns)
	for _, k := range keys {
		if k != nil {
			to.UniqueSet = append(to.UniqueSet, k)
		}
	}
	return v.Seq, err
}

// imported applies an Import.
func (a *application) imported(c *command.Command) error {
	if a.shard.dropped[c.Table] {
		return dberr.New(dberr.TableNotFound, "table %d was dropped", c.Table)
	}
	a.scratch = keycodec.PartitionPrefix(a.scratch[:0], a.shard.cfg.ID, c.Table, c.User)
	prefix := len(a.scratch)
	for i := range c.Imported {
		r := &c.Imported[i]
		if len(r.Key) < prefix {
			return dberr.New(dberr.Corrupt, "apply: a row key shorter than its partition's prefix")
		}
		if err := a.batch.Set(r.Key, r.Version, nil); err != nil {
			return batchFailed(err)
		}
		for _, k := range r.UniqueSet {
			if err := a.batch.Set(k, r.Key[prefix:], nil); err != nil {
				return batchFailed(err)
			}
		}
	}
	a.applied.Seq = max(a.applied.Seq, c.FirstSeq)
	a.shard.unflushed.missed() // nobody counts them: the next count finds them
	return nil
}
