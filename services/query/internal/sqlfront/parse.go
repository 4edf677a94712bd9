package sqlfront

import (
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Parse reads a request: one statement or several, separated by semicolons. Errors are InvalidSQL
// with the line and column of the request, LimitExceeded, or Unsupported for what the grammar knows
// and this version refuses.
func Parse(text string, limits Limits) ([]Statement, error) {
	limits = limits.withDefaults()
	if err := limits.checkText(text); err != nil {
		return nil, err
	}
	tokens, err := lex(text)
	if err != nil {
		return nil, err
	}
	pieces := split(text, tokens)
	if len(pieces) == 0 {
		return nil, dberr.New(dberr.InvalidSQL, "the SQL text holds no statement").At(1, 1)
	}
	if len(pieces) > limits.Statements {
		return nil, dberr.New(dberr.LimitExceeded, "the request has %d statements, the limit is %d", len(pieces), limits.Statements)
	}
	out := make([]Statement, 0, len(pieces))
	for _, piece := range pieces {
		if err := limits.checkDepth(text, piece); err != nil {
			return nil, err
		}
		s, err := newReader(text, piece).statement()
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// split cuts the tokens at semicolons and leaves out empty statements.
func split(text string, tokens []token) [][]token {
	var out [][]token
	start := 0
	for i, t := range tokens {
		if t.kind != tokEnd && (t.kind != tokPunct || text[t.start] != ';') {
			continue
		}
		if i > start {
			out = append(out, tokens[start:i:i])
		}
		start = i + 1
	}
	return out
}

// reader reads the tokens of one statement from the left.
type reader struct {
	request string
	tokens  []token
	pos     int
}

func newReader(request string, tokens []token) *reader {
	return &reader{request: request, tokens: tokens}
}

// source is what the statement's types embed.
func (r *reader) source() Source {
	from, to := r.tokens[0].start, r.tokens[len(r.tokens)-1].end
	return Source{text: r.request[from:to], offset: from}
}

// at returns the n-th token from here; past the end, an empty one at the statement's end.
func (r *reader) at(n int) token {
	if r.pos+n < len(r.tokens) {
		return r.tokens[r.pos+n]
	}
	end := r.tokens[len(r.tokens)-1].end
	return token{kind: tokEnd, start: end, end: end}
}

func (r *reader) raw(t token) string { return r.request[t.start:t.end] }

// word returns the n-th token from here in lower case if it is an unquoted word, else "".
func (r *reader) word(n int) string {
	if t := r.at(n); t.kind == tokWord {
		return strings.ToLower(r.raw(t))
	}
	return ""
}

func (r *reader) done() bool { return r.pos >= len(r.tokens) }

// accept reads the words if they are next.
func (r *reader) accept(words ...string) bool {
	for i, w := range words {
		if r.word(i) != w {
			return false
		}
	}
	r.pos += len(words)
	return true
}

// acceptPunct reads a punctuation or operator if it is next.
func (r *reader) acceptPunct(s string) bool {
	if t := r.at(0); (t.kind == tokPunct || t.kind == tokOperator) && r.raw(t) == s {
		r.pos++
		return true
	}
	return false
}

func (r *reader) expect(words ...string) error {
	if !r.accept(words...) {
		return r.unexpected(strings.ToUpper(strings.Join(words, " ")))
	}
	return nil
}

func (r *reader) expectPunct(s string) error {
	if !r.acceptPunct(s) {
		return r.unexpected(`"` + s + `"`)
	}
	return nil
}

// secretTexts are what optionText expects after words that introduce secrets.
var secretTexts = set(`password credentials config`)

// nearMax bounds how much of the text an error repeats.
const nearMax = 40

// unexpected says what was expected instead of the next token.
func (r *reader) unexpected(expected string) error {
	t := r.at(0)
	if t.kind == tokEnd {
		return syntaxError(r.request, t.start, "expected %s at the end", expected)
	}
	near := r.raw(t)
	if t.kind == tokString || secretTexts[strings.TrimPrefix(expected, "the ")] {
		near = "this value" // it may be a secret
	} else if len(near) > nearMax {
		near = near[:nearMax] + "…"
	}
	return syntaxError(r.request, t.start, "expected %s near %s", expected, near)
}

// fail makes an error at the n-th token from here.
func (r *reader) fail(code dberr.Code, n int, format string, args ...any) error {
	line, column := position(r.request, r.at(n).start)
	return dberr.New(code, "line %d, column %d: "+format, append([]any{line, column}, args...)...).At(line, column)
}

// end refuses anything that follows a complete statement.
func (r *reader) end(s Statement) (Statement, error) {
	if !r.done() {
		return nil, r.unexpected("the end of the statement")
	}
	return s, nil
}
