package sqlfront

import (
	"strings"
	"unicode/utf8"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// tokenKind is what a token is to the lexer; words are not yet told apart.
type tokenKind uint8

const (
	tokEnd      tokenKind = iota
	tokWord               // an unquoted identifier or keyword
	tokQuoted             // "identifier" or `identifier`
	tokString             // 'text', E'text', $$text$$ and their relatives
	tokNumber             // 12, 1.5, 1e3, 0x1F
	tokParam              // $1
	tokOperator           // a run of operator characters
	tokPunct              // ( ) [ ] , ; . :
)

// token is a piece of text[start:end].
type token struct {
	kind       tokenKind
	start, end int
}

// lexer cuts SQL text into tokens by PostgreSQL's lexical rules, so that where statements end and
// what is inside quotes is decided in one place. It also accepts `identifiers`.
type lexer struct {
	text string
	pos  int
	// purge: CLUSTER PURGE was just read, so that --UPTO is its option and no comment.
	purge bool
}

// lex returns all tokens of text, ending with a tokEnd.
func lex(text string) ([]token, error) {
	l := lexer{text: text}
	out := make([]token, 0, len(text)/4+1)
	for {
		t, err := l.next()
		if err != nil {
			return nil, err
		}
		out = append(out, t)
		l.purge = l.endsInPurge(out)
		if t.kind == tokEnd {
			return out, nil
		}
	}
}

// endsInPurge reports whether the tokens of the current statement are CLUSTER PURGE.
func (l *lexer) endsInPurge(tokens []token) bool {
	n := len(tokens)
	if n < 2 || !l.isWord(tokens[n-1], "purge") || !l.isWord(tokens[n-2], "cluster") {
		return false
	}
	return n == 2 || tokens[n-3].kind == tokPunct && l.text[tokens[n-3].start] == ';'
}

func (l *lexer) isWord(t token, word string) bool {
	return t.kind == tokWord && strings.EqualFold(l.text[t.start:t.end], word)
}

// optionUpto is read like white space: PURGE --UPTO n is PURGE n.
const optionUpto = "--upto"

// atUpto reports whether the option follows, and not a comment that begins like it.
func (l *lexer) atUpto() bool {
	end := l.pos + len(optionUpto)
	return l.purge && end <= len(l.text) && strings.EqualFold(l.text[l.pos:end], optionUpto) &&
		(end == len(l.text) || !isWordPart(l.text[end]))
}

func (l *lexer) next() (token, error) {
	if err := l.skipSpace(); err != nil {
		return token{}, err
	}
	t := token{start: l.pos, end: l.pos}
	if l.pos == len(l.text) {
		return t, nil
	}
	var err error
	t.kind, err = l.scan(l.text[l.pos])
	t.end = l.pos
	return t, err
}

func (l *lexer) scan(c byte) (tokenKind, error) {
	switch {
	case isWordStart(c):
		return l.word()
	case c >= '0' && c <= '9', c == '.' && l.digitAt(l.pos+1):
		return l.number()
	case c == '\'':
		return tokString, l.quoted('\'', false, "string")
	case c == '"', c == '`':
		return tokQuoted, l.quoted(c, false, "quoted identifier")
	case c == '$':
		return l.dollar()
	case strings.IndexByte(operatorChars, c) >= 0:
		l.operator()
		return tokOperator, nil
	case strings.HasPrefix(l.text[l.pos:], "::"), strings.HasPrefix(l.text[l.pos:], ":="):
		l.pos += 2
		return tokOperator, nil
	case strings.IndexByte("()[],;.:{}\\", c) >= 0:
		l.pos++
		return tokPunct, nil
	}
	return 0, syntaxError(l.text, l.pos, "unexpected character %q", l.text[l.pos:l.pos+1])
}

const operatorChars = "~!@#^&|?+-*/%<>="

func isWordStart(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= utf8.RuneSelf
}

func isWordPart(c byte) bool { return isWordStart(c) || c >= '0' && c <= '9' || c == '$' }

func (l *lexer) digitAt(i int) bool { return i < len(l.text) && l.text[i] >= '0' && l.text[i] <= '9' }

// skipSpace passes over white space, -- comments and nested /* */ comments.
func (l *lexer) skipSpace() error {
	for l.pos < len(l.text) {
		rest := l.text[l.pos:]
		switch {
		case strings.IndexByte(" \t\r\n\f\v", rest[0]) >= 0:
			l.pos++
		case l.atUpto():
			l.pos += len(optionUpto)
			l.purge = false
		case strings.HasPrefix(rest, "--"):
			n := strings.IndexAny(rest, "\r\n") // PostgreSQL ends the comment at either
			if n < 0 {
				n = len(rest)
			}
			l.pos += n
		case strings.HasPrefix(rest, "/*"):
			if err := l.blockComment(); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

func (l *lexer) blockComment() error {
	start, depth := l.pos, 0
	for l.pos < len(l.text) {
		switch rest := l.text[l.pos:]; {
		case strings.HasPrefix(rest, "/*"):
			depth++
			l.pos += 2
		case strings.HasPrefix(rest, "*/"):
			depth--
			l.pos += 2
			if depth == 0 {
				return nil
			}
		default:
			l.pos++
		}
	}
	return syntaxError(l.text, start, "comment does not end")
}

// word scans an identifier, and the strings that a letter introduces: E”, B”, X”, N”, U&”.
func (l *lexer) word() (tokenKind, error) {
	start := l.pos
	for l.pos < len(l.text) && isWordPart(l.text[l.pos]) {
		l.pos++
	}
	rest := l.text[l.pos:]
	if l.pos-start != 1 || rest == "" {
		return tokWord, nil
	}
	c := l.text[start] | 0x20
	switch {
	case rest[0] == '\'' && strings.IndexByte("ebxn", c) >= 0:
		return tokString, l.quoted('\'', c == 'e', "string")
	case c == 'u' && (strings.HasPrefix(rest, "&'") || strings.HasPrefix(rest, `&"`)):
		return 0, syntaxError(l.text, start, "U& strings are not supported")
	}
	return tokWord, nil
}

// quoted scans to the closing quote; a doubled quote, and after a backslash any, belongs to the text.
func (l *lexer) quoted(quote byte, backslash bool, what string) error {
	start := l.pos
	for l.pos++; l.pos < len(l.text); l.pos++ {
		switch {
		case backslash && l.text[l.pos] == '\\':
			l.pos++
		case l.text[l.pos] != quote:
		case l.pos+1 < len(l.text) && l.text[l.pos+1] == quote:
			l.pos++
		default:
			l.pos++
			return nil
		}
	}
	l.pos = len(l.text)
	return syntaxError(l.text, start, "%s does not end", what)
}

// dollar scans $1 and $tag$text$tag$.
func (l *lexer) dollar() (tokenKind, error) {
	start := l.pos
	l.pos++
	if l.digitAt(l.pos) {
		for l.digitAt(l.pos) {
			l.pos++
		}
		return tokParam, nil
	}
	for l.pos < len(l.text) && isWordPart(l.text[l.pos]) && l.text[l.pos] != '$' {
		l.pos++
	}
	if l.pos == len(l.text) || l.text[l.pos] != '$' {
		return 0, syntaxError(l.text, start, "$ must begin a parameter ($1) or a dollar-quoted string")
	}
	l.pos++
	tag := l.text[start:l.pos]
	end := strings.Index(l.text[l.pos:], tag)
	if end < 0 {
		return 0, syntaxError(l.text, start, "dollar-quoted string does not end")
	}
	l.pos += end + len(tag)
	return tokString, nil
}

func (l *lexer) number() (tokenKind, error) {
	start := l.pos
	for l.pos < len(l.text) {
		c := l.text[l.pos]
		exponent := l.pos > start && (l.text[l.pos-1]|0x20) == 'e' && !strings.HasPrefix(l.text[start:], "0x") &&
			!strings.HasPrefix(l.text[start:], "0X")
		switch {
		case c >= '0' && c <= '9', c == '_', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case c == '.' && !strings.HasPrefix(l.text[l.pos:], ".."):
		case (c == '+' || c == '-') && exponent && l.digitAt(l.pos+1):
		default:
			return tokNumber, nil
		}
		l.pos++
	}
	return tokNumber, nil
}

// operator scans the longest operator PostgreSQL would: a comment ends it, and so does a trailing +
// or - unless another character of the operator allows it, so that 1*-2 is * and -.
func (l *lexer) operator() {
	start := l.pos
	for l.pos < len(l.text) && strings.IndexByte(operatorChars, l.text[l.pos]) >= 0 {
		rest := l.text[l.pos:]
		if l.pos > start && (strings.HasPrefix(rest, "--") || strings.HasPrefix(rest, "/*")) {
			break
		}
		l.pos++
	}
	op := l.text[start:l.pos]
	for len(op) > 1 && strings.IndexByte("+-", op[len(op)-1]) >= 0 && !strings.ContainsAny(op, "~!@#^&|?%") {
		op = op[:len(op)-1]
	}
	l.pos = start + len(op)
}

// syntaxError is an InvalidSQL error at a byte offset of the request.
func syntaxError(request string, offset int, format string, args ...any) error {
	line, column := position(request, offset)
	return dberr.New(dberr.InvalidSQL, "line %d, column %d: "+format, append([]any{line, column}, args...)...).At(line, column)
}

// position counts lines and characters from 1.
func position(text string, offset int) (line, column int) {
	before := text[:max(0, min(offset, len(text)))]
	start := strings.LastIndexByte(before, '\n') + 1
	return strings.Count(before, "\n") + 1, utf8.RuneCountInString(before[start:]) + 1
}
