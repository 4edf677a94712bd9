package shard

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const (
	// copyRecordBytesMax bounds what a record of a snapshot makes Restore allocate.
	copyRecordBytesMax = commandBytesMax + keyBytesMax
	// restoreBatchBytes is how much Restore writes at a time.
	restoreBatchBytes = 4 << 20
)

// Applied is the index of the last entry applied.
func (s *Shard) Applied() uint64 { return s.applied.Load().Index }

// MakeDurable returns once everything up to index is on disk. The hot store has no write-ahead log, so
// this flushes it, unless another shard's snapshot or a full memtable has done so. Raft counts an entry as applied
// that was refused; a snapshot behind it would make the next start skip it.
func (s *Shard) MakeDurable(index uint64) error {
	if s.broken.Load() {
		return errFailed
	}
	if err := s.notFailed(); err != nil {
		return err
	}
	durable, err := s.durable()
	if err != nil || durable >= index {
		return err
	}
	if err := s.cfg.DB.Flush(); err != nil {
		return dberr.New(dberr.Unavailable, "flush the hot store: %w", err)
	}
	if durable, err = s.durable(); err != nil {
		return err
	}
	if durable < index {
		return dberr.New(dberr.Internal, "shard %d: entry %d is not durable after a flush, only %d is", s.cfg.ID, index, durable)
	}
	return nil
}

// durable is the applied index a crash now would leave.
func (s *Shard) durable() (index uint64, err error) {
	key := keycodec.AppliedKey(s.cfg.ID)
	it, err := s.cfg.DB.NewIter(&pebble.IterOptions{LowerBound: key, UpperBound: keycodec.PrefixEnd(key),
		OnlyReadGuaranteedDurable: true})
	if err != nil {
		return 0, readFailed(err)
	}
	if it.First() {
		var a keycodec.Applied
		a, err = keycodec.DecodeApplied(it.Value())
		index = a.Index
	}
	return index, errors.Join(err, it.Error(), it.Close())
}

// WriteSnapshot writes every key of the shard as of now: length, key, length, value.
func (s *Shard) WriteSnapshot(w io.Writer) error {
	snap := s.cfg.DB.NewSnapshot()
	err := s.copySpans(snap, w)
	return errors.Join(err, snap.Close())
}

func (s *Shard) copySpans(snap *pebble.Snapshot, w io.Writer) error {
	var head []byte
	for _, span := range keycodec.ShardSpans(s.cfg.ID) {
		it, err := snap.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
		if err != nil {
			return readFailed(err)
		}
		for ok := it.First(); ok && err == nil; ok = it.Next() {
			var value []byte
			if value, err = it.ValueAndErr(); err != nil {
				break
			}
			head = binary.AppendUvarint(head[:0], uint64(len(it.Key())))
			head = append(head, it.Key()...)
			head = binary.AppendUvarint(head, uint64(len(value)))
			if _, err = w.Write(head); err == nil {
				_, err = w.Write(value)
			}
		}
		if err := errors.Join(err, it.Error(), it.Close()); err != nil {
			return dberr.New(dberr.Unavailable, "copy shard %d: %w", s.cfg.ID, err)
		}
	}
	return nil
}

// Torn reports that a restore did not end.
func (s *Shard) Torn() (bool, error) {
	_, closer, err := s.cfg.DB.Get(keycodec.RestoringKey(s.cfg.ID))
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, readFailed(err)
	}
	return true, closer.Close()
}

// Restore replaces the shard by what WriteSnapshot wrote. A durable marker stands from before the first
// key goes until the last one is there; the applied index comes last. One that fails ends the node: the shard is
// neither what it was nor what it should be. The next start repeats it from the received file.
func (s *Shard) Restore(r io.Reader) error {
	if s.broken.Load() {
		return errFailed
	}
	err := s.replace(r)
	if err != nil {
		s.broken.Store(true)
		s.cfg.Fail(dberr.New(dberr.CodeOf(err), "replace shard %d by its leader's snapshot: %w", s.cfg.ID, err))
	}
	return err
}

func (s *Shard) replace(r io.Reader) error {
	if err := s.cfg.DB.Set(keycodec.RestoringKey(s.cfg.ID), nil, pebble.NoSync); err != nil {
		return restoreFailed(err)
	}
	if err := s.cfg.DB.Flush(); err != nil {
		return restoreFailed(err)
	}
	in := restorer{shard: s, src: bufio.NewReader(r), batch: s.cfg.DB.NewBatch()}
	if err := in.run(); err != nil {
		return errors.Join(err, in.batch.Close())
	}
	if err := s.cfg.DB.Flush(); err != nil {
		return restoreFailed(err)
	}
	if err := s.load(); err != nil {
		return err
	}
	s.progress.advance()
	if s.cfg.SegmentsChanged != nil {
		s.cfg.SegmentsChanged(s.cfg.ID, nil)
	}
	return nil
}

func restoreFailed(err error) error { return dberr.New(dberr.Unavailable, "restore a shard: %w", err) }

type restorer struct {
	shard   *Shard
	src     *bufio.Reader
	batch   *pebble.Batch
	applied []byte
}

func (in *restorer) run() error {
	spans := keycodec.ShardSpans(in.shard.cfg.ID)
	for _, span := range spans {
		if err := in.batch.DeleteRange(span.Start, span.End, nil); err != nil {
			return restoreFailed(err)
		}
	}
	for {
		key, err := in.record()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		value, err := in.value()
		if err != nil {
			return err
		}
		if err := in.put(spans, key, value); err != nil {
			return err
		}
	}
	if in.applied == nil {
		return dberr.New(dberr.Corrupt, "snapshot of shard %d: it has no applied index", in.shard.cfg.ID)
	}
	err := in.batch.Set(keycodec.AppliedKey(in.shard.cfg.ID), in.applied, nil)
	if err == nil {
		err = in.batch.Delete(keycodec.RestoringKey(in.shard.cfg.ID), nil)
	}
	if err == nil {
		err = in.batch.Commit(pebble.NoSync)
	}
	if err != nil {
		return restoreFailed(err)
	}
	return in.batch.Close()
}

// record reads a key; io.EOF only where a record may begin.
func (in *restorer) record() ([]byte, error) {
	if _, err := in.src.Peek(1); errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	return in.value()
}

func (in *restorer) value() ([]byte, error) {
	n, err := binary.ReadUvarint(in.src)
	if err != nil {
		return nil, dberr.New(dberr.Corrupt, "snapshot of shard %d: a bad length: %w", in.shard.cfg.ID, noEOF(err))
	}
	if n > copyRecordBytesMax {
		return nil, dberr.New(dberr.Corrupt, "snapshot of shard %d: a record of %d bytes, the limit is %d (copyRecordBytesMax)", in.shard.cfg.ID, n, copyRecordBytesMax)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(in.src, b); err != nil {
		return nil, dberr.New(dberr.Corrupt, "snapshot of shard %d: a short record: %w", in.shard.cfg.ID, noEOF(err))
	}
	return b, nil
}

// noEOF keeps an end in the wrong place from being taken for the end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (in *restorer) put(spans []keycodec.Span, key, value []byte) error {
	id := in.shard.cfg.ID
	if string(key) == string(keycodec.AppliedKey(id)) {
		if _, err := keycodec.DecodeApplied(value); err != nil {
			return err
		}
		in.applied = value
		return nil
	}
	if !within(spans, key) {
		return dberr.New(dberr.Corrupt, "snapshot of shard %d: a key of something else", id)
	}
	if err := in.batch.Set(key, value, nil); err != nil {
		return restoreFailed(err)
	}
	if in.batch.Len() < restoreBatchBytes {
		return nil
	}
	if err := errors.Join(in.batch.Commit(pebble.NoSync), in.batch.Close()); err != nil {
		return restoreFailed(err)
	}
	in.batch = in.shard.cfg.DB.NewBatch()
	return nil
}

func within(spans []keycodec.Span, key []byte) bool {
	for _, s := range spans {
		if string(key) >= string(s.Start) && string(key) < string(s.End) {
			return true
		}
	}
	return false
}
