package sqlfront

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// Limits bound one request's text. A zero field means its default.
type Limits struct {
	// TextBytes (max_sql_bytes) bounds the text itself.
	TextBytes int
	// Statements bounds the statements of one request.
	Statements int
	// ListItems bounds the items of one IN list.
	ListItems int
}

const (
	defaultTextBytes  = 1 << 20 // spec 1.1
	defaultStatements = 1000
	defaultListItems  = 10_000

	// nestingMax bounds parentheses, brackets and CASE inside each other (spec 1.1). PostgreSQL's
	// parser keeps a stack entry for each and the tree's readers recurse.
	nestingMax = 512
	// chainMax bounds operators in a row, as in 1 + 1 + 1 …: they nest to the left without any
	// parenthesis. PostgreSQL's parser crashes the process between 20,000 and 100,000 of them, Go's
	// decoder of its tree gives up at 3,300, and the query engine at 1,000.
	chainMax = 900
	// paramsMax bounds bind parameters (spec 1.1).
	paramsMax = 50
)

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{{&l.TextBytes, defaultTextBytes}, {&l.Statements, defaultStatements}, {&l.ListItems, defaultListItems}} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return l
}

// checkText refuses text that must not reach the lexer.
func (l Limits) checkText(text string) error {
	if len(text) > l.TextBytes {
		return dberr.New(dberr.LimitExceeded, "the SQL text has %d bytes, max_sql_bytes allows %d", len(text), l.TextBytes)
	}
	if i := strings.IndexByte(text, 0); i >= 0 {
		return syntaxError(text, i, "NUL is not allowed in SQL text")
	}
	if !utf8.ValidString(text) {
		for i, r := range text {
			if _, size := utf8.DecodeRuneInString(text[i:]); r == utf8.RuneError && size == 1 {
				return syntaxError(text, i, "SQL text must be UTF-8")
			}
		}
	}
	return nil
}

// level is one open parenthesis, bracket or CASE.
type level struct {
	closer byte // ')' or ']' or 'E' for END
	// fixed counts the joins and set operations, which nest over commas.
	fixed int
	// chain counts the operators since the last separator, inner the height of what was nested there.
	chain, inner int
	highest      int
	commas       int
	list         bool // the parenthesis after IN
}

func (v *level) height() int { return v.fixed + max(v.highest, v.chain+v.inner) }

// separate ends one item of a list.
func (v *level) separate() {
	v.highest, v.chain, v.inner = max(v.highest, v.chain+v.inner), 0, 0
}

// chainWords are the keywords that, like operators, may follow each other without parentheses.
var chainWords = map[string]bool{"not": true, "like": true, "ilike": true, "similar": true, "is": true, "isnull": true,
	"notnull": true, "in": true, "between": true, "collate": true, "at": true, "operator": true, "overlaps": true,
	"distinct": true, "escape": true}

// fixedWords nest over commas.
var fixedWords = map[string]bool{"union": true, "intersect": true, "except": true, "join": true, "explain": true, "execute": true}

// depthCheck follows the tokens of one statement and bounds how high its tree can become.
type depthCheck struct {
	request string
	limits  Limits
	levels  []level
	last    string // the previous token, if it was a word, or "."
}

// checkDepth refuses a statement whose tree would be nested too deeply.
func (l Limits) checkDepth(request string, tokens []token) error {
	c := depthCheck{request: request, limits: l, levels: make([]level, 1, 16)}
	for _, t := range tokens {
		if err := c.token(t); err != nil {
			return err
		}
	}
	return nil
}

func (c *depthCheck) token(t token) error {
	word := ""
	top := &c.levels[len(c.levels)-1]
	switch t.kind {
	case tokOperator:
		top.chain++
	case tokParam:
		if n, err := strconv.Atoi(c.request[t.start+1 : t.end]); err != nil || n > paramsMax || n < 1 {
			return syntaxError(c.request, t.start, "parameters are $1 to $%d", paramsMax)
		}
	case tokPunct:
		if err := c.punct(t, top); err != nil {
			return err
		}
	case tokWord:
		if word = strings.ToLower(c.request[t.start:t.end]); c.last != "." { // t.case is a column
			c.word(word, top)
		}
	}
	if c.last = word; c.request[t.start:t.end] == "." {
		c.last = "."
	}
	top = &c.levels[len(c.levels)-1]
	if len(c.levels)-1 > nestingMax {
		return c.tooDeep(t, "is nested deeper than %d", nestingMax)
	}
	if top.height() > chainMax {
		return c.tooDeep(t, "has more than %d operators in a row", chainMax)
	}
	return nil
}

func (c *depthCheck) tooDeep(t token, format string, limit int) error {
	line, column := position(c.request, t.start)
	return dberr.New(dberr.LimitExceeded, "the statement "+format, limit).At(line, column)
}

func (c *depthCheck) punct(t token, top *level) error {
	switch ch := c.request[t.start]; ch {
	case '(', '[':
		closer := byte(')')
		if ch == '[' {
			closer = ']'
			top.chain++ // a subscript is an operator on what stands before it
		}
		c.levels = append(c.levels, level{closer: closer, list: c.last == "in"})
	case ')', ']':
		c.close(ch)
	case '.':
		top.chain++
	case ',':
		top.separate()
		if top.commas++; top.list && top.commas >= c.limits.ListItems {
			return c.tooDeep(t, "has an IN list of more than %d items", c.limits.ListItems)
		}
	}
	return nil
}

// close ends the innermost level that ch closes, and everything left open in it. Text without a
// matching opener is left to the parser to refuse.
func (c *depthCheck) close(ch byte) {
	for i := len(c.levels) - 1; i > 0; i-- {
		if c.levels[i].closer != ch {
			continue
		}
		height := 0
		for _, v := range c.levels[i:] {
			height += v.height() + 1
		}
		c.levels = c.levels[:i]
		outer := &c.levels[i-1]
		outer.inner = max(outer.inner, height)
		return
	}
}

func (c *depthCheck) word(word string, top *level) {
	switch {
	case word == "case":
		c.levels = append(c.levels, level{closer: 'E'})
	case word == "end" && top.closer == 'E':
		c.close('E')
	case word == "and", word == "or", word == "when", word == "then", word == "else":
		top.separate()
	case fixedWords[word]:
		top.fixed++
	case chainWords[word]:
		top.chain++
	}
}
