package statement

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kalamdb/kalamdb-go/internal/datum"
)

const (
	// templateBytesMax and literalsMax bound the texts whose literals are taken out: longer ones have
	// so many rows that a second text of the same form is unlikely.
	templateBytesMax = 64 << 10
	literalsMax      = 50 // what sqlfront allows of parameters
)

// template turns INSERT INTO t (…) VALUES (1, 'x') into INSERT INTO t (…) VALUES ($1, $2) and the
// literals, so that texts that differ in their literals only are parsed and bound once.
//
// It knows very little SQL on purpose: anything but plain names, whole numbers, plain strings, TRUE,
// FALSE, NULL and DEFAULT makes it give up, and the parser decides what the text means. A literal it
// takes out is converted to its column's type exactly as the parser's would be.
func template(text string) (out string, literals []datum.Datum, ok bool) {
	if !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0 {
		return "", nil, false
	}
	s := scanner{text: text}
	if !s.word("insert") || !s.space() || !s.word("into") || !s.space() || !s.head() {
		return "", nil, false
	}
	for {
		if !s.row() {
			return "", nil, false
		}
		s.space()
		if !s.byte(',') {
			break
		}
		s.space()
	}
	s.byte(';')
	s.space()
	if s.at != len(text) || len(s.literals) == 0 {
		return "", nil, false
	}
	s.out.WriteString(text[s.copied:])
	return s.out.String(), s.literals, true
}

// scanner reads a text from left to right. Its methods report whether what they look for is there, and
// move behind it.
type scanner struct {
	text     string
	at       int
	copied   int // what precedes is in out
	out      strings.Builder
	literals []datum.Datum
}

func (s *scanner) byte(c byte) bool {
	if s.at < len(s.text) && s.text[s.at] == c {
		s.at++
		return true
	}
	return false
}

func (s *scanner) space() bool {
	start := s.at
	for s.at < len(s.text) && strings.IndexByte(" \t\r\n", s.text[s.at]) >= 0 {
		s.at++
	}
	return s.at > start
}

// word reads a keyword that is not part of a longer word.
func (s *scanner) word(w string) bool {
	end := s.at + len(w)
	if end > len(s.text) || !strings.EqualFold(s.text[s.at:end], w) || end < len(s.text) && wordByte(s.text[end]) {
		return false
	}
	s.at = end
	return true
}

func wordByte(c byte) bool {
	return c == '_' || c == '$' || c >= utf8.RuneSelf || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

// name reads an unquoted name.
func (s *scanner) name() bool {
	start := s.at
	for s.at < len(s.text) && wordByte(s.text[s.at]) && s.text[s.at] != '$' && s.text[s.at] < utf8.RuneSelf {
		s.at++
	}
	return s.at > start
}

// head reads table (columns) VALUES.
func (s *scanner) head() bool {
	if !s.name() || s.byte('.') && !s.name() {
		return false
	}
	spaced := s.space()
	if s.byte('(') {
		for more := true; more; more = s.byte(',') {
			s.space()
			if !s.name() {
				return false
			}
			s.space()
		}
		if !s.byte(')') {
			return false
		}
		s.space()
		spaced = true
	}
	if !spaced || !s.word("values") {
		return false
	}
	s.space()
	return true
}

// row reads ( value, … ).
func (s *scanner) row() bool {
	if !s.byte('(') {
		return false
	}
	for more := true; more; more = s.byte(',') {
		s.space()
		if !s.value() {
			return false
		}
		s.space()
	}
	return s.byte(')')
}

// value reads one value; what is a literal is replaced by a parameter.
func (s *scanner) value() bool {
	start := s.at
	var d datum.Datum
	switch {
	case s.word("default"):
		return true
	case s.word("null"):
		d = datum.Null
	case s.word("true"):
		d = datum.Bool(true)
	case s.word("false"):
		d = datum.Bool(false)
	default:
		var ok bool
		if d, ok = s.string(); !ok {
			if d, ok = s.integer(); !ok {
				return false
			}
		}
	}
	if len(s.literals) == literalsMax {
		return false
	}
	s.literals = append(s.literals, d)
	s.out.WriteString(s.text[s.copied:start])
	s.out.WriteByte('$')
	s.out.WriteString(strconv.Itoa(len(s.literals)))
	s.copied = s.at
	return true
}

// string reads '…', in which only a doubled quote means something else than itself.
func (s *scanner) string() (datum.Datum, bool) {
	if !s.byte('\'') {
		return datum.Null, false
	}
	start, doubled := s.at, false
	for {
		n := strings.IndexByte(s.text[s.at:], '\'')
		if n < 0 {
			return datum.Null, false
		}
		s.at += n + 1
		if !s.byte('\'') {
			break
		}
		doubled = true
	}
	body := s.text[start : s.at-1]
	if doubled {
		body = strings.ReplaceAll(body, "''", "'")
	}
	return datum.Text(body), true
}

// integer reads a whole number that a BIGINT holds. What follows must not belong to it.
func (s *scanner) integer() (datum.Datum, bool) {
	start := s.at
	s.byte('-')
	digits := s.at
	for s.at < len(s.text) && '0' <= s.text[s.at] && s.text[s.at] <= '9' {
		s.at++
	}
	if s.at == digits || s.at < len(s.text) && (wordByte(s.text[s.at]) || s.text[s.at] == '.') {
		return datum.Null, false
	}
	n, err := strconv.ParseInt(s.text[start:s.at], 10, 64)
	return datum.Int(n), err == nil
}
