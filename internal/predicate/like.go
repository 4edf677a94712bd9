package predicate

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// likeUnderscoreMax bounds the characters between two % of a LIKE pattern when they include _: such a
// piece is searched for character by character, which costs its length at every character of the text.
const likeUnderscoreMax = 1024

// likeTriesMax is how many places of a text are tried before stop is asked: at most a few milliseconds.
const likeTriesMax = 1024

// likePattern is a compiled LIKE pattern. Matching never backtracks over more than one piece.
type likePattern struct {
	pieces []likePiece // what stands between the %
	// anchored at the start: the pattern does not begin with %; likewise at the end.
	start, end bool
	fold       bool // ILIKE
}

// likePiece is a run of characters; where any is true, every character fits (_).
type likePiece struct {
	text string // when no character is _
	runs []rune
	any  []bool
}

// compileLike reads a pattern. An escape of "" means none.
func compileLike(pattern, escape string, fold bool) (*likePattern, error) {
	esc, size := utf8.DecodeRuneInString(escape)
	if size != len(escape) {
		return nil, dberr.New(dberr.InvalidArgument, "ESCAPE must be one character, not %q", escape)
	}
	if escape == "" {
		esc = -1
	}
	if fold {
		pattern = foldText(pattern)
		esc = unicode.ToLower(esc)
	}
	p := &likePattern{start: true, end: true, fold: fold}
	var runs []rune
	var wild []bool
	endPiece := func() {
		p.pieces = append(p.pieces, newLikePiece(runs, wild))
		runs, wild = nil, nil
	}
	escaped, percent := false, false
	for i, r := range pattern {
		switch {
		case !escaped && r == esc:
			escaped = true
			continue
		case !escaped && r == '%':
			p.start = p.start && i > 0
			if !percent && len(runs) > 0 {
				endPiece()
			}
			percent = true
			continue
		}
		runs, wild = append(runs, r), append(wild, !escaped && r == '_')
		escaped, percent = false, false
	}
	if escaped {
		return nil, dberr.New(dberr.InvalidArgument, "LIKE pattern must not end with the escape character")
	}
	p.end = !percent
	if len(runs) > 0 {
		endPiece()
	}
	for _, piece := range p.pieces {
		if piece.any != nil && len(piece.runs) > likeUnderscoreMax {
			return nil, dberr.New(dberr.LimitExceeded, "LIKE pattern has more than %d characters between two %%", likeUnderscoreMax)
		}
	}
	return p, nil
}

func newLikePiece(runs []rune, wild []bool) likePiece {
	for _, w := range wild {
		if w {
			return likePiece{runs: runs, any: wild}
		}
	}
	return likePiece{text: string(runs)}
}

// Like is a compiled LIKE pattern, for those who match texts that are not in rows.
type Like struct{ pattern *likePattern }

// CompileLike reads a pattern. An escape of "" means none; fold is for ILIKE.
func CompileLike(pattern, escape string, fold bool) (*Like, error) {
	p, err := compileLike(pattern, escape, fold)
	if err != nil {
		return nil, err
	}
	return &Like{pattern: p}, nil
}

// Match reports whether the whole text fits the pattern. It calls stop from time to time, and gives up
// with its error.
func (l *Like) Match(text string, stop func() error) (bool, error) {
	return l.pattern.search(text, stop)
}

// match reports whether the whole text fits the pattern.
func (p *likePattern) match(text string) bool {
	ok, _ := p.search(text, nil) // only stop fails
	return ok
}

func (p *likePattern) search(text string, stop func() error) (bool, error) {
	if p.fold {
		text = foldText(text)
	}
	pieces := p.pieces
	if len(pieces) == 0 { // "" or only %
		return !p.start || text == "", nil
	}
	if p.start {
		n, ok := pieces[0].prefix(text)
		if !ok {
			return false, nil
		}
		text, pieces = text[n:], pieces[1:]
		if len(pieces) == 0 {
			return !p.end || text == "", nil
		}
	}
	last := len(pieces)
	if p.end {
		last--
	}
	for _, piece := range pieces[:last] { // the leftmost place leaves most for the rest
		n, ok, err := piece.find(text, stop)
		if !ok || err != nil {
			return false, err
		}
		text = text[n:]
	}
	return !p.end || pieces[last].suffix(text), nil
}

// prefix reports whether text begins with the piece, and how many bytes that takes.
func (p likePiece) prefix(text string) (int, bool) {
	if p.any == nil {
		return len(p.text), strings.HasPrefix(text, p.text)
	}
	at := 0
	for i, want := range p.runs {
		if at == len(text) {
			return 0, false
		}
		r, size := utf8.DecodeRuneInString(text[at:])
		if !p.any[i] && r != want {
			return 0, false
		}
		at += size
	}
	return at, true
}

// find returns the end of the piece's leftmost place in text.
func (p likePiece) find(text string, stop func() error) (int, bool, error) {
	if p.any == nil {
		at := strings.Index(text, p.text)
		return at + len(p.text), at >= 0, nil
	}
	for at, tries := 0, 1; ; tries++ {
		if n, ok := p.prefix(text[at:]); ok {
			return at + n, true, nil
		}
		if at == len(text) {
			return 0, false, nil
		}
		if stop != nil && tries%likeTriesMax == 0 {
			if err := stop(); err != nil {
				return 0, false, err
			}
		}
		_, size := utf8.DecodeRuneInString(text[at:])
		at += size
	}
}

func (p likePiece) suffix(text string) bool {
	if p.any == nil {
		return strings.HasSuffix(text, p.text)
	}
	at := len(text)
	for range p.runs {
		if at == 0 {
			return false
		}
		_, size := utf8.DecodeLastRuneInString(text[:at])
		at -= size
	}
	n, ok := p.prefix(text[at:])
	return ok && at+n == len(text)
}

// foldText lowers text for comparing without case.
func foldText(s string) string { return strings.ToLower(s) }

// literalPrefix is the text that everything matching the pattern begins with; exact says that the
// pattern is that text followed by one %.
func (p *likePattern) literalPrefix() (prefix string, exact bool) {
	if p.fold || !p.start || len(p.pieces) == 0 {
		return "", false
	}
	first := p.pieces[0]
	if first.any == nil {
		return first.text, len(p.pieces) == 1 && !p.end
	}
	n := 0
	for n < len(first.runs) && !first.any[n] {
		n++
	}
	return string(first.runs[:n]), false
}

// buildLike makes LIKE, ILIKE and their negations; the third argument is the escape character,
// backslash by default, "" for none.
func buildLike(name string, args []*node) (*node, error) {
	for i, a := range args {
		n, err := resolveText(name, a)
		if err != nil {
			return nil, err
		}
		args[i] = n
	}
	escape := constant(datum.Text(`\`), textType)
	if len(args) == 3 {
		escape = args[2]
	}
	fold := name == "ilike" || name == "not ilike"
	n, err := likeNode(args[0], args[1], escape, fold)
	if err != nil {
		return nil, err
	}
	if name == "not like" || name == "not ilike" {
		return negate(n), nil
	}
	return n, nil
}

func likeNode(text, pattern, escape *node, fold bool) (*node, error) {
	eval := text.eval
	if pattern.isConst && escape.isConst && !pattern.value.IsNull() && !escape.value.IsNull() {
		p, err := compileLike(pattern.value.AsText(), escape.value.AsText(), fold)
		if err != nil {
			return nil, err
		}
		return testNode(func(env *Env, row RowReader) (truth, error) {
			d, err := eval(env, row)
			if err != nil || d.IsNull() {
				return isUnknown, err
			}
			return truthIf(p.match(d.AsText())), nil
		}), nil
	}
	parts := []evalFunc{text.eval, pattern.eval, escape.eval}
	return testNode(func(env *Env, row RowReader) (truth, error) {
		var v [3]string
		for i, part := range parts {
			d, err := part(env, row)
			if err != nil || d.IsNull() {
				return isUnknown, err
			}
			v[i] = d.AsText()
		}
		p, err := compileLike(v[1], v[2], fold)
		if err != nil {
			return isUnknown, err
		}
		return truthIf(p.match(v[0])), nil
	}), nil
}
