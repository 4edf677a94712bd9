package sqlfront

import (
	"strconv"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// executeAs reads EXECUTE AS [USER] name followed by one statement, in parentheses or not.
func (r *reader) executeAs() (Statement, error) {
	s := &ExecuteAs{Source: r.source()}
	r.pos += 2
	if r.word(0) == "user" {
		r.pos++
	}
	var err error
	if s.User, err = r.userID(); err != nil {
		return nil, err
	}
	inner := r.tokens[r.pos:]
	if n := len(inner); n > 1 && r.raw(inner[0]) == "(" && r.closing(r.pos) == len(r.tokens)-1 {
		inner = inner[1 : n-1]
	}
	if len(inner) == 0 {
		return nil, r.unexpected("a statement")
	}
	if s.Inner, err = newReader(r.request, inner).statement(); err != nil {
		return nil, err
	}
	switch s.Inner.(type) {
	case *Select, *Insert, *Update, *Delete, *Subscribe, *Export:
		return s, nil
	}
	return nil, r.fail(dberr.InvalidSQL, 0, "EXECUTE AS USER takes one SELECT, INSERT, UPDATE, DELETE or EXPORT USER DATA")
}

// closing finds the parenthesis that closes the one at position i; -1 when there is none.
func (r *reader) closing(i int) int {
	depth := 0
	for ; i < len(r.tokens); i++ {
		switch r.raw(r.tokens[i]) {
		case "(":
			depth++
		case ")":
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// explain reads EXPLAIN [ANALYZE] statement.
func (r *reader) explain() (Statement, error) {
	s := &Explain{Source: r.source()}
	r.pos++
	s.Analyze = r.accept("analyze") || r.accept("analyse")
	if r.word(0) == "verbose" || r.raw(r.at(0)) == "(" && r.word(1) != "select" && r.word(1) != "with" && r.word(1) != "values" {
		return nil, r.fail(dberr.Unsupported, 0, "options of EXPLAIN are not supported")
	}
	if r.done() {
		return nil, r.unexpected("a statement")
	}
	var err error
	if s.Inner, err = newReader(r.request, r.tokens[r.pos:]).statement(); err != nil {
		return nil, err
	}
	switch s.Inner.(type) {
	case *Select, *Insert, *Update, *Delete:
		return s, nil
	}
	return nil, r.fail(dberr.InvalidSQL, 0, "EXPLAIN takes one SELECT, INSERT, UPDATE or DELETE")
}

// subscribe reads SUBSCRIBE TO query [OPTIONS (…)], where the query is a SELECT or table [WHERE …].
func (r *reader) subscribe() (Statement, error) {
	s := &Subscribe{Source: r.source()}
	if err := r.expect("subscribe", "to"); err != nil {
		return nil, err
	}
	query := r.tokens[r.pos:]
	if at := r.optionsStart(); at >= 0 {
		query = r.tokens[r.pos:at]
		options := &reader{request: r.request, tokens: r.tokens, pos: at + 2}
		if err := options.subscribeOptions(&s.Options); err != nil {
			return nil, err
		}
	}
	if len(query) == 0 {
		return nil, r.unexpected("a SELECT or the name of a table")
	}
	prefix := "SELECT * FROM "
	if w := r.word(0); w == "select" || w == "with" || r.raw(query[0]) == "(" {
		prefix = ""
	}
	tree, err := parseTree(r.request, prefix, query)
	if err != nil {
		return nil, err
	}
	inner, err := newReader(r.request, query).fromTree(tree)
	if err != nil {
		return nil, err
	}
	sel, ok := inner.(*Select)
	if !ok {
		return nil, r.fail(dberr.InvalidSQL, 0, "SUBSCRIBE TO takes a SELECT or the name of a table")
	}
	if prefix != "" { // the text form of a query that can be parsed again
		sel.text = tree.parsed
	}
	s.Select = sel
	return s, nil
}

// optionsStart finds the OPTIONS whose parentheses end the statement; -1 when there is none.
func (r *reader) optionsStart() int {
	for i := r.pos; i+1 < len(r.tokens); i++ {
		here := reader{request: r.request, tokens: r.tokens, pos: i}
		if here.word(0) == "options" && here.raw(here.at(1)) == "(" && r.closing(i+1) == len(r.tokens)-1 {
			return i
		}
	}
	return -1
}

// subscribeOptions reads last_rows=n, batch_size=n, from=seq and the closing parenthesis.
func (r *reader) subscribeOptions(o *SubscribeOptions) error {
	for !r.acceptPunct(")") {
		var target **uint64
		name := r.word(0)
		switch name {
		case "last_rows":
			target = &o.LastRows
		case "batch_size":
			target = &o.BatchSize
		case "from", "from_seq":
			target = &o.FromSeq
		default:
			return r.unexpected("last_rows, batch_size or from")
		}
		if *target != nil {
			return r.fail(dberr.InvalidSQL, 0, "option %s is given twice", name)
		}
		r.pos++
		if err := r.expectPunct("="); err != nil {
			return err
		}
		n, err := r.optionNumber(name)
		if err != nil {
			return err
		}
		*target = &n
		if !r.acceptPunct(",") {
			return r.expectPunct(")")
		}
	}
	return nil
}

// optionNumber reads a whole number, which clients may quote because a sequence number does not fit
// a JavaScript number.
func (r *reader) optionNumber(name string) (uint64, error) {
	if r.at(0).kind != tokString {
		return r.count(name)
	}
	text, err := r.text(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, r.fail(dberr.InvalidSQL, -1, "%s must be a whole number", name)
	}
	return n, nil
}
