package scan

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/stream"
)

// rows are a partition's versions in the plan's direction of the key. What next returns is good until the
// following call.
type rows interface {
	next() (key []byte, v keycodec.Version, ok bool, err error)
	// user is the owner of the row last returned, NULL in SHARED tables.
	user() datum.Datum
	close() error
}

// storedRows reads the hot store. One iterator is one consistent view: it reads the applied position and the
// list of segments first, then the rows.
type storedRows struct {
	it      *pebble.Iterator
	owner   datum.Datum
	reverse bool
	spans   []keycodec.Span // not yet visited
	inSpan  bool
	// placed: the iterator stands on the next row already.
	placed bool
}

// storedOrMerged are the rows of partitions: the hot ones, with those of segments merged in where there are any.
type storedOrMerged interface {
	rows
	versions
}

// openStored opens a view. closed is how an iterator was closed that came too early.
func (s *Server) openStored(ctx context.Context, r pebble.Reader, p *plan, closed error) (storedOrMerged, uint64, error) {
	if closed != nil {
		return nil, 0, readFailed(closed)
	}
	at := keycodec.PrefixSpan(keycodec.AppliedKey(p.req.GetShard()))
	it, err := r.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: at.Start, UpperBound: at.End})
	if err != nil {
		return nil, 0, readFailed(err)
	}
	var applied keycodec.Applied
	if it.First() {
		var v []byte
		if v, err = it.ValueAndErr(); err == nil {
			applied, err = keycodec.DecodeApplied(v)
		}
	} else {
		var began bool
		if began, err = neverApplied(r, p.req.GetShard()); began && it.Error() == nil {
			return s.openStored(ctx, r, p, it.Close()) // behind its first entry
		}
		err = errors.Join(it.Error(), err)
	}
	if err != nil {
		return nil, 0, errors.Join(readFailed(err), it.Close())
	}
	frozen, err := openCold(ctx, it, p, s.cfg.Cold)
	if err != nil {
		return nil, 0, errors.Join(err, it.Close())
	}
	position := max(applied.Seq, changelog.Beginning)
	hot := &storedRows{it: it, owner: p.owner(), reverse: p.reverse, spans: p.spans}
	if frozen == nil {
		return hot, position, nil
	}
	return &merged{hot: head{from: hot}, cold: head{from: frozen}, owner: hot.owner, reverse: p.reverse}, position, nil
}

// neverApplied is nil if a shard whose position is missing never applied anything: it has no rows either. While a
// snapshot of the leader takes its place, rows are there before the position is. began says that the position has come
// meanwhile.
func neverApplied(r pebble.Reader, shard uint32) (began bool, err error) {
	has := func(key []byte) (bool, error) {
		_, closer, err := r.Get(key)
		if errors.Is(err, pebble.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		return true, closer.Close()
	}
	restoring, err := has(keycodec.RestoringKey(shard))
	if restoring {
		err = dberr.New(dberr.Unavailable, "shard %d is being replaced by its leader's snapshot here", shard)
	}
	if err != nil {
		return false, err
	}
	return has(keycodec.AppliedKey(shard))
}

func (s *storedRows) next() ([]byte, keycodec.Version, bool, error) {
	if !s.step() {
		if err := s.it.Error(); err != nil {
			return nil, keycodec.Version{}, false, readFailed(err)
		}
		return nil, keycodec.Version{}, false, nil
	}
	value, err := s.it.ValueAndErr()
	if err != nil {
		return nil, keycodec.Version{}, false, readFailed(err)
	}
	v, err := keycodec.DecodeVersion(value)
	return s.it.Key(), v, err == nil, err
}

// step moves to the next row, in the next span that has one if need be.
func (s *storedRows) step() bool {
	if s.inSpan && (s.placed || s.along()) {
		s.placed = false
		return true
	}
	s.placed = false
	for s.it.Error() == nil && len(s.spans) > 0 {
		s.it.SetBounds(s.spans[0].Start, s.spans[0].End)
		s.spans = s.spans[1:]
		if s.inSpan = s.enter(); s.inSpan {
			return true
		}
	}
	s.inSpan = false
	return false
}

func (s *storedRows) along() bool {
	if s.reverse {
		return s.it.Prev()
	}
	return s.it.Next()
}

func (s *storedRows) enter() bool {
	if s.reverse {
		return s.it.Last()
	}
	return s.it.First()
}

// skip moves behind all keys with a prefix, in the direction of the scan, within the current span.
func (s *storedRows) skip(prefix []byte) {
	if s.reverse {
		s.placed = s.it.SeekLT(prefix)
	} else {
		s.placed = s.it.SeekGE(keycodec.PrefixEnd(prefix))
	}
	s.inSpan = s.placed
}

func (s *storedRows) user() datum.Datum { return s.owner }

func (s *storedRows) close() error {
	if err := s.it.Close(); err != nil {
		return readFailed(err)
	}
	return nil
}

func readFailed(err error) error {
	if dberr.CodeOf(err) != dberr.Internal || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return dberr.New(dberr.Internal, "scan: %w", err)
}

// streamRows goes over the rows of a STREAM table as they were when the scan began.
type streamRows struct {
	list  []stream.Row
	owner datum.Datum
}

func newStreamRows(list []stream.Row, p *plan) *streamRows {
	slices.SortFunc(list, func(a, b stream.Row) int {
		if p.reverse {
			a, b = b, a
		}
		return strings.Compare(a.Key, b.Key)
	})
	return &streamRows{list: list, owner: p.owner()}
}

func (s *streamRows) next() ([]byte, keycodec.Version, bool, error) {
	if len(s.list) == 0 {
		return nil, keycodec.Version{}, false, nil
	}
	r := s.list[0]
	s.list = s.list[1:]
	return []byte(r.Key), r.Version, true, nil
}

func (s *streamRows) user() datum.Datum { return s.owner }

func (s *streamRows) close() error { return nil }
