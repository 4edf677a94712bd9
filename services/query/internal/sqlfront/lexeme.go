package sqlfront

import (
	"strconv"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// identifier reads a name, quoted or not, folded to lower case.
func (r *reader) identifier(what string) (string, error) {
	t := r.at(0)
	switch t.kind {
	case tokWord:
		r.pos++
		return foldName(r.raw(t)), nil
	case tokQuoted:
		r.pos++
		raw := r.raw(t)
		quote := raw[:1]
		return foldName(strings.ReplaceAll(raw[1:len(raw)-1], quote+quote, quote)), nil
	}
	return "", r.unexpected(what)
}

// foldName lowers ASCII letters, as PostgreSQL does.
func foldName(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}, s)
}

// defaultCatalog may stand before the namespace of a table.
const defaultCatalog = "kalam"

// name reads [ns.]name.
func (r *reader) name(what string) (Name, error) {
	first, err := r.identifier(what)
	if err != nil {
		return Name{}, err
	}
	parts := []string{first}
	for r.acceptPunct(".") {
		part, err := r.identifier(what)
		if err != nil {
			return Name{}, err
		}
		parts = append(parts, part)
	}
	if len(parts) == 3 && parts[0] == defaultCatalog {
		parts = parts[1:]
	}
	switch len(parts) {
	case 1:
		return Name{Name: first}, nil
	case 2:
		return Name{Namespace: parts[0], Name: parts[1]}, nil
	}
	return Name{}, r.fail(dberr.InvalidSQL, -1, "a table is named namespace.table, not %s", strings.Join(parts, "."))
}

// text reads a string literal.
func (r *reader) text(what string) (string, error) {
	if r.at(0).kind != tokString {
		return "", r.unexpected(what)
	}
	s, ok := unquoteString(r.raw(r.at(0)))
	if !ok {
		return "", r.fail(dberr.InvalidSQL, 0, "this form of string is not supported for %s", what)
	}
	r.pos++
	return s, nil
}

// unquoteString returns the value of a string token; ok is false for bit strings and bad escapes.
func unquoteString(raw string) (string, bool) {
	switch raw[0] {
	case '\'':
		return strings.ReplaceAll(raw[1:len(raw)-1], "''", "'"), true
	case 'n', 'N':
		return unquoteString(raw[1:])
	case 'e', 'E':
		return unescape(raw[2 : len(raw)-1])
	case '$':
		tag := strings.IndexByte(raw[1:], '$') + 2
		return raw[tag : len(raw)-tag], true
	}
	return "", false
}

// unescape reads the backslash escapes of E'…'; octal, hexadecimal and Unicode ones are refused.
func unescape(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\'':
			i++ // always doubled
			b.WriteByte('\'')
		case s[i] != '\\':
			b.WriteByte(s[i])
		default:
			i++
			if i == len(s) {
				return "", false
			}
			if at := strings.IndexByte("bfnrt", s[i]); at >= 0 {
				b.WriteByte("\b\f\n\r\t"[at])
			} else if strings.IndexByte("01234567xuU", s[i]) >= 0 {
				return "", false
			} else {
				b.WriteByte(s[i])
			}
		}
	}
	return b.String(), true
}

// nameOrText reads an identifier (folded) or a string literal (as it is).
func (r *reader) nameOrText(what string) (string, error) {
	if r.at(0).kind == tokString {
		return r.text(what)
	}
	return r.identifier(what)
}

// count reads a whole number.
func (r *reader) count(what string) (uint64, error) {
	t := r.at(0)
	v, err := strconv.ParseUint(r.raw(t), 10, 63)
	if t.kind != tokNumber || err != nil {
		return 0, r.unexpected("a whole number for " + what)
	}
	r.pos++
	return v, nil
}

// boolean reads true or false, bare or quoted.
func (r *reader) boolean(what string) (bool, error) {
	word := r.word(0)
	if t := r.at(0); t.kind == tokString {
		word, _ = unquoteString(r.raw(t))
	}
	switch strings.ToLower(word) {
	case "true":
		r.pos++
		return true, nil
	case "false":
		r.pos++
		return false, nil
	}
	return false, r.unexpected("true or false for " + what)
}

// ifNotExists reads IF NOT EXISTS if it is next.
func (r *reader) ifNotExists() bool { return r.accept("if", "not", "exists") }

// ifExists reads IF EXISTS if it is next.
func (r *reader) ifExists() bool { return r.accept("if", "exists") }
