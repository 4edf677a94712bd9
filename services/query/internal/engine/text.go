package engine

import (
	"regexp"
	"strings"
	"unicode/utf8"
	"unsafe"

	duckdb "github.com/duckdb/duckdb-go-bindings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// textArgs are one row's arguments of a text function.
type textArgs struct {
	text    [4]string
	integer int64
	state   *textState
}

// textState is kept for the rows of a chunk.
type textState struct {
	*site
	pattern string
	options string
	re      *regexp.Regexp
}

// stringCell is DuckDB's string: up to 12 bytes inline, else four of them and a pointer.
type stringCell struct {
	length uint32
	inline [12]byte
}

const inlineMax = 12

// get returns the text without copying it; it is valid while the chunk is.
func (c *stringCell) get() string {
	if c.length <= inlineMax {
		return unsafe.String(&c.inline[0], int(c.length))
	}
	return unsafe.String(*(**byte)(unsafe.Pointer(&c.inline[4])), int(c.length))
}

// textFunction runs f on the rows that have no NULL among their arguments. f takes from the state what
// it is going to make before it makes it.
func textFunction(f func(a *textArgs) (string, error)) func(*site, duckdb.DataChunk, int, duckdb.Vector) error {
	return func(at *site, in duckdb.DataChunk, rows int, out duckdb.Vector) error {
		n := int(duckdb.DataChunkGetColumnCount(in))
		var texts [4][]stringCell
		var ints []int64
		var ok [4]func(int) bool
		for i := range n {
			v := duckdb.DataChunkGetVector(in, duckdb.IdxT(i))
			ok[i] = valid(v)
			lt := duckdb.VectorGetColumnType(v)
			if duckdb.GetTypeId(lt) == duckdb.TypeBigInt {
				ints = values[int64](v, rows)
			} else {
				texts[i] = values[stringCell](v, rows)
			}
			duckdb.DestroyLogicalType(&lt)
		}
		args := textArgs{state: &textState{site: at}}
	row:
		for r := range rows {
			if err := at.poll(r); err != nil {
				return err
			}
			for i := range n {
				if !ok[i](r) {
					setNull(out, r)
					continue row
				}
				if texts[i] != nil {
					args.text[i] = texts[i][r].get()
				} else {
					args.integer = ints[r]
				}
			}
			s, err := f(&args)
			if err != nil {
				return err
			}
			duckdb.VectorAssignStringElement(out, duckdb.IdxT(r), s)
		}
		return nil
	}
}

func concat(a *textArgs) (string, error) {
	if err := a.state.take(len(a.text[0]) + len(a.text[1])); err != nil {
		return "", err
	}
	return a.text[0] + a.text[1], nil
}

func repeat(a *textArgs) (string, error) {
	n := max(a.integer, 0)
	if n > growthMax {
		return "", a.state.take(-1)
	}
	if err := a.state.take(len(a.text[0]) * int(n)); err != nil {
		return "", err
	}
	return strings.Repeat(a.text[0], int(n)), nil
}

func replace(a *textArgs) (string, error) {
	s, from, to := a.text[0], a.text[1], a.text[2]
	if from == "" {
		return s, a.state.take(len(s))
	}
	if err := a.state.take(len(s) + strings.Count(s, from)*(len(to)-len(from))); err != nil {
		return "", err
	}
	return strings.ReplaceAll(s, from, to), nil
}

func padLeft(a *textArgs) (string, error) {
	s, pad, err := padding(a)
	return pad + s, err
}

func padRight(a *textArgs) (string, error) {
	s, pad, err := padding(a)
	return s + pad, err
}

// padding cuts the text to the wanted number of characters, or says what is missing.
func padding(a *textArgs) (s, pad string, err error) {
	s = a.text[0]
	want := max(a.integer, 0)
	if want > growthMax {
		return "", "", a.state.take(-1)
	}
	fill := a.text[2]
	have := int64(utf8.RuneCountInString(s))
	if want <= have {
		s = firstRunes(s, int(want))
		return s, "", a.state.take(len(s))
	}
	missing := int(want - have)
	fillRunes := utf8.RuneCountInString(fill)
	if fillRunes == 0 {
		return s, "", a.state.take(len(s))
	}
	rest := firstRunes(fill, missing%fillRunes)
	whole := missing / fillRunes
	if err := a.state.take(len(s) + whole*len(fill) + len(rest)); err != nil {
		return "", "", err
	}
	return s, strings.Repeat(fill, whole) + rest, nil
}

func firstRunes(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// regexpReplace is PostgreSQL's regexp_replace(text, pattern, replacement, flags): the first match, or
// with flag g all of them; \1 to \9 and \& refer to what matched.
func regexpReplace(a *textArgs) (string, error) {
	s, st := a.text[0], a.state
	if st.re == nil || st.pattern != a.text[1] || st.options != a.text[3] {
		re, err := compile(a.text[1], a.text[3])
		if err != nil {
			return "", err
		}
		st.re, st.pattern, st.options = re, strings.Clone(a.text[1]), strings.Clone(a.text[3])
	}
	most := 1
	if strings.Contains(a.text[3], "g") {
		most = -1
	}
	var b []byte
	last := 0
	for _, m := range st.re.FindAllStringSubmatchIndex(s, most) {
		b = append(b, s[last:m[0]]...)
		b = expand(b, a.text[2], s, m)
		last = m[1]
		if int64(len(b)) > st.room() {
			return "", st.take(len(b))
		}
	}
	b = append(b, s[last:]...)
	return string(b), st.take(len(b))
}

func compile(pattern, flags string) (*regexp.Regexp, error) {
	prefix := ""
	for _, f := range flags {
		switch f {
		case 'i':
			prefix = "(?i)"
		case 'g', 'c':
		default:
			return nil, dberr.New(dberr.InvalidSQL, "regexp_replace: unknown flag %q", f)
		}
	}
	re, err := regexp.Compile(prefix + pattern)
	if err != nil {
		return nil, dberr.New(dberr.InvalidSQL, "regexp_replace: %w", err)
	}
	return re, nil
}

// expand appends the replacement for one match.
func expand(b []byte, replacement, s string, m []int) []byte {
	for i := 0; i < len(replacement); i++ {
		c := replacement[i]
		if c != '\\' || i+1 == len(replacement) {
			b = append(b, c)
			continue
		}
		i++
		switch c := replacement[i]; {
		case c == '&':
			b = append(b, s[m[0]:m[1]]...)
		case c >= '1' && c <= '9':
			if g := int(c-'0') * 2; g+1 < len(m) && m[g] >= 0 {
				b = append(b, s[m[g]:m[g+1]]...)
			}
		default:
			b = append(b, c)
		}
	}
	return b
}

// boundedJSON looks at what DuckDB's JSON functions made.
func boundedJSON(s *site, in duckdb.DataChunk, rows int, out duckdb.Vector) error {
	v := duckdb.DataChunkGetVector(in, 0)
	ok := valid(v)
	cells := values[stringCell](v, rows)
	for i := range cells {
		if !ok(i) {
			continue
		}
		if err := s.take(int(cells[i].length)); err != nil {
			return err
		}
	}
	duckdb.VectorReferenceVector(out, v)
	return nil
}

// bytesFunction reads BYTES as they are written everywhere else; what is bytes already stays.
func bytesFunction(s *site, in duckdb.DataChunk, rows int, out duckdb.Vector) error {
	v := duckdb.DataChunkGetVector(in, 0)
	lt := duckdb.VectorGetColumnType(v)
	defer duckdb.DestroyLogicalType(&lt)
	if duckdb.GetTypeId(lt) == duckdb.TypeBlob {
		duckdb.VectorReferenceVector(out, v)
		return nil
	}
	return textFunction(parseBytes)(s, in, rows, out)
}

func parseBytes(a *textArgs) (string, error) {
	d, err := datum.ParseText(catalog.Type{Kind: catalog.Bytes}, a.text[0])
	if err != nil {
		return "", err
	}
	return d.AsText(), a.state.take(len(d.AsText()))
}
