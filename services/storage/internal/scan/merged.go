package scan

import (
	"bytes"
	"context"
	"errors"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/segment"
)

// versions are rows of partitions in the direction of a scan, ascending or descending by key.
type versions interface {
	// next returns a row whose memory is good until the following call.
	next() (key []byte, v keycodec.Version, ok bool, err error)
	// skip passes over the rest of the partition whose keys begin with prefix, in which the last row was.
	skip(prefix []byte)
	close() error
}

// merged are the hot rows and the cold ones: of a row that is in both, the newer version.
type merged struct {
	hot, cold head
	owner     datum.Datum
	reverse   bool
}

// head is what a side has next.
type head struct {
	from versions
	key  []byte
	v    keycodec.Version
	ok   bool
	// loaded: the row was not returned yet. ended: there is none.
	loaded, ended bool
}

func (h *head) fill() (err error) {
	if h.loaded || h.ended {
		return nil
	}
	h.key, h.v, h.ok, err = h.from.next()
	h.loaded, h.ended = h.ok, !h.ok
	return err
}

func (h *head) take() ([]byte, keycodec.Version, bool, error) {
	h.loaded = false
	return h.key, h.v, true, nil
}

// skip passes over a partition: the row that waits, or that was returned last, is in it or behind it.
func (h *head) skip(prefix []byte) {
	if h.ended || h.loaded && !bytes.HasPrefix(h.key, prefix) {
		return
	}
	h.from.skip(prefix)
	h.loaded = false
}

func (m *merged) next() ([]byte, keycodec.Version, bool, error) {
	if err := errors.Join(m.hot.fill(), m.cold.fill()); err != nil {
		return nil, keycodec.Version{}, false, err
	}
	switch {
	case m.hot.ended && m.cold.ended:
		return nil, keycodec.Version{}, false, nil
	case m.cold.ended:
		return m.hot.take()
	case m.hot.ended:
		return m.cold.take()
	}
	c := bytes.Compare(m.hot.key, m.cold.key)
	if m.reverse {
		c = -c
	}
	switch {
	case c < 0:
		return m.hot.take()
	case c > 0:
		return m.cold.take()
	}
	m.hot.loaded, m.cold.loaded = false, false
	if m.cold.v.Seq > m.hot.v.Seq {
		return m.cold.take()
	}
	return m.hot.take()
}

// nextGroup returns a row group of a segment that comes next, and has no row in common with the hot ones.
func (m *merged) nextGroup(ctx context.Context, usable func(*segment.Reader) bool) (*cold.Group, bool, error) {
	frozen, ok := m.cold.from.(*coldRows)
	if !ok || m.cold.loaded || m.cold.ended {
		return nil, false, nil
	}
	if err := m.hot.fill(); err != nil {
		return nil, false, err
	}
	var before []byte
	if m.hot.ok {
		before = m.hot.key
	}
	return frozen.nextGroup(ctx, before, usable)
}

func (m *merged) skip(prefix []byte) {
	m.hot.skip(prefix)
	m.cold.skip(prefix)
}

func (m *merged) user() datum.Datum { return m.owner }

func (m *merged) close() error { return errors.Join(m.hot.from.close(), m.cold.from.close()) }
