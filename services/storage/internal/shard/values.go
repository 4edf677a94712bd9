package shard

import (
	"io"
	"math"
	"math/big"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
)

// filler completes rows: defaults, then the checks that need nothing but the row.
type filler struct {
	now  time.Time // the statement's time: NOW() is the same in all its rows
	user string
	ids  *snowflake.Generator
	rand io.Reader
}

// Complete fills in a row's defaults and checks it, for tables that do not pass through the log. n
// counts the statement's rows from 1.
func (s *Shard) Complete(t *catalog.Table, user string, row *rowcodec.Row, n int) error {
	f := s.filler(user)
	if err := f.fillDefaults(t, row); err != nil {
		return err
	}
	return checkRow(t, row, n)
}

func (s *Shard) filler(user string) filler {
	return filler{now: s.cfg.Now(), user: user, ids: s.cfg.IDs, rand: s.cfg.Rand}
}

// fillDefaults sets every column the INSERT left out.
func (f *filler) fillDefaults(t *catalog.Table, row *rowcodec.Row) error {
	for i := range t.Columns {
		if row.Set[i] {
			continue
		}
		d, err := f.defaultOf(&t.Columns[i])
		if err != nil {
			return err
		}
		row.Put(i, d)
	}
	return nil
}

func (f *filler) defaultOf(c *catalog.Column) (datum.Datum, error) {
	kind := c.Default.Kind
	if c.Hidden && kind == catalog.NoDefault {
		kind = catalog.DefaultSnowflakeID
	}
	switch kind {
	case catalog.NoDefault:
		return datum.Null, nil
	case catalog.DefaultLiteral:
		d, rest, err := datum.Decode(c.Default.Literal)
		if err != nil || len(rest) > 0 {
			return datum.Null, dberr.New(dberr.Corrupt, "the default of column %s does not decode", c.Name)
		}
		return d, nil
	case catalog.DefaultNow:
		return f.timeFor(c)
	case catalog.DefaultSnowflakeID:
		return datum.Int(int64(f.ids.Next())), nil
	case catalog.DefaultUUIDV7:
		return f.uuidFor(c)
	case catalog.DefaultULID:
		b, err := f.timeAndRandom()
		return datum.Text(ulid.ULID(b).String()), err
	case catalog.DefaultCurrentUser:
		return datum.Text(f.user), nil
	}
	return datum.Null, dberr.New(dberr.Unsupported, "the default of column %s is of kind %d, which this version does not know", c.Name, kind)
}

func (f *filler) timeFor(c *catalog.Column) (datum.Datum, error) {
	us := f.now.UnixMicro()
	const dayUS = 24 * 60 * 60 * 1_000_000
	day := us / dayUS
	if us < day*dayUS { // before 1970, division rounds up
		day--
	}
	switch c.Type.Kind {
	case catalog.Timestamp, catalog.DateTime:
		return datum.Timestamp(us), nil
	case catalog.Date:
		return datum.Date(day), nil
	case catalog.Time:
		return datum.Time(us - day*dayUS), nil
	}
	return datum.Null, dberr.New(dberr.InvalidOperation, "column %s is a %s: NOW() cannot be its default", c.Name, c.Type)
}

func (f *filler) uuidFor(c *catalog.Column) (datum.Datum, error) {
	b, err := f.timeAndRandom()
	b[6] = b[6]&0x0F | 0x70 // version 7
	b[8] = b[8]&0x3F | 0x80 // variant of RFC 9562
	if c.Type.Kind == catalog.UUID {
		return datum.UUID(b), err
	}
	return datum.Text(uuid.UUID(b).String()), err
}

// timeAndRandom is what UUID v7 and ULID share: 48 bits of milliseconds, 80 random bits.
func (f *filler) timeAndRandom() (b [16]byte, err error) {
	ms := f.now.UnixMilli()
	for i := range 6 {
		b[i] = byte(ms >> (40 - 8*i))
	}
	if _, err := io.ReadFull(f.rand, b[6:]); err != nil {
		return b, dberr.New(dberr.Internal, "read random bits: %w", err)
	}
	return b, nil
}

// checkRow checks NOT NULL and the ranges of the column types. n counts the statement's rows from 1.
func checkRow(t *catalog.Table, row *rowcodec.Row, n int) error {
	for i := range t.Columns {
		c := &t.Columns[i]
		if row.Values[i].IsNull() {
			if c.NotNull || c.PrimaryKey {
				return dberr.New(dberr.NotNullViolation, "NOT NULL constraint violation: column '%s' cannot be NULL (row %d)", c.Name, n)
			}
			continue
		}
		if err := checkValue(c, row.Values[i]); err != nil {
			return err
		}
	}
	return nil
}

const dayMicros = 24 * 60 * 60 * 1_000_000

// checkValue checks what the datum's kind alone does not promise.
func checkValue(c *catalog.Column, d datum.Datum) error {
	switch c.Type.Kind {
	case catalog.SmallInt:
		if v := d.AsInt(); v != int64(int16(v)) {
			return outOfRange(c)
		}
	case catalog.Int, catalog.Date:
		if v := d.AsInt(); v != int64(int32(v)) {
			return outOfRange(c)
		}
	case catalog.Time:
		if v := d.AsInt(); v < 0 || v >= dayMicros {
			return outOfRange(c)
		}
	case catalog.Float:
		if v := math.Abs(d.AsFloat()); v > math.MaxFloat32 && !math.IsInf(v, 0) {
			return outOfRange(c)
		}
	case catalog.Decimal:
		return checkDecimal(c, d)
	case catalog.Text, catalog.JSON, catalog.File:
		if !utf8.ValidString(d.AsText()) {
			return dberr.New(dberr.InvalidArgument, "column '%s': text that is not UTF-8", c.Name)
		}
	case catalog.Embedding:
		if n := len(d.AsText()) / 4; n != int(c.Type.Dimension) {
			return dberr.New(dberr.InvalidArgument, "column '%s' is %s: got %d elements", c.Name, c.Type, n)
		}
	}
	return nil
}

func checkDecimal(c *catalog.Column, d datum.Datum) error {
	_, _, scale := d.AsDecimal()
	if scale != c.Type.Scale {
		return dberr.New(dberr.InvalidArgument, "column '%s' is %s: got a value of scale %d", c.Name, c.Type, scale)
	}
	if d.DecimalBig().CmpAbs(powersOfTen[c.Type.Precision]) >= 0 {
		return outOfRange(c)
	}
	return nil
}

// powersOfTen[p] is the first absolute value that has more than p digits.
var powersOfTen = func() (p [39]*big.Int) {
	for i := range p {
		p[i] = new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(i)), nil)
	}
	return p
}()

func outOfRange(c *catalog.Column) error {
	return dberr.New(dberr.ValueOutOfRange, "value out of range for column '%s' of type %s", c.Name, c.Type)
}
