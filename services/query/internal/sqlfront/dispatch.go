package sqlfront

import (
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// later are statements of the language that this version answers with Unsupported, by their first
// words; the longest match names the feature.
var later = [][]string{
	{"alter", "namespace"}, {"alter", "topic"}, {"alter", "view"},
	{"create", "topic"}, {"create", "view"}, {"create", "or", "replace", "view"},
	{"create", "index"}, {"create", "unique", "index"}, {"create", "policy"}, {"create", "type"},
	{"drop", "topic"}, {"drop", "view"}, {"drop", "index"}, {"drop", "policy"}, {"clear", "topic"},
	{"consume"}, {"ack"}, {"reset", "consumer"},
	{"savepoint"}, {"release"}, {"merge"}, {"truncate"},
}

// forbidden are statements of PostgreSQL and of the query engine that this server never runs.
var forbidden = set(`analyze analyse attach call checkpoint close cluster comment copy deallocate declare detach discard do
	export fetch force grant import install listen load lock move notify pragma prepare reassign refresh reindex
	reset revoke security set show table unlisten vacuum execute create drop alter kill`)

func (r *reader) statement() (Statement, error) {
	first := r.word(0)
	switch first {
	case "select", "with", "values", "insert", "update", "delete":
		return r.query()
	case "create":
		return r.create()
	case "drop":
		return r.drop()
	case "alter":
		return r.alter()
	case "use":
		return r.use()
	case "set":
		if r.word(1) == "namespace" {
			return r.use()
		}
	case "show":
		return r.show()
	case "describe", "desc":
		return r.describe()
	case "execute":
		if r.word(1) == "as" {
			return r.executeAs()
		}
	case "subscribe":
		return r.subscribe()
	case "kill":
		return r.kill()
	case "flush":
		r.pos++
		return r.flush(false)
	case "storage":
		return r.storage()
	case "backup", "restore":
		return r.backupOrRestore()
	case "cluster":
		return r.cluster()
	case "erase":
		if r.accept("erase", "user") {
			return r.eraseUser()
		}
	case "export":
		src := r.source()
		if r.accept("export", "user", "data") {
			return r.end(&Export{Source: src})
		}
	case "explain":
		return r.explain()
	case "begin", "start", "commit", "end", "rollback", "abort":
		return r.transaction()
	case "":
		if t := r.at(0); t.kind == tokPunct && r.raw(t) == "(" {
			return r.query()
		}
	}
	return r.other()
}

func (r *reader) alter() (Statement, error) {
	switch {
	case r.word(1) == "table":
		return r.alterTable()
	case r.accept("alter", "user"):
		return r.alterUser()
	case r.accept("alter", "storage"):
		return r.alterStorage()
	}
	return r.other()
}

// storage reads STORAGE FLUSH, COMPACT and CHECK.
func (r *reader) storage() (Statement, error) {
	switch {
	case r.accept("storage", "flush"):
		return r.flush(true)
	case r.accept("storage", "compact"):
		return r.compact()
	case r.accept("storage", "check"):
		return r.checkStorage()
	}
	return r.other()
}

func (r *reader) backupOrRestore() (Statement, error) {
	src := r.source()
	switch {
	case r.accept("backup", "database"):
		return r.backup(src)
	case r.accept("restore", "database"):
		return r.restore(src)
	case r.accept("restore", "user"):
		return r.restoreUserRows(src)
	}
	return r.other()
}

// other reads what only has a name here.
func (r *reader) other() (Statement, error) {
	for _, words := range later {
		if r.accept(words...) {
			return &Later{Source: r.source(), Feature: strings.ToUpper(strings.Join(words, " "))}, nil
		}
	}
	first := r.word(0)
	if !forbidden[first] {
		return nil, r.unexpected("a statement")
	}
	if second := r.word(1); second != "" && (first == "create" || first == "drop" || first == "alter" || first == "show") {
		return nil, r.fail(dberr.InvalidSQL, 0, "%s %s is not allowed", strings.ToUpper(first), strings.ToUpper(second))
	}
	return nil, r.fail(dberr.InvalidSQL, 0, "%s is not allowed", strings.ToUpper(first))
}

func (r *reader) create() (Statement, error) {
	switch second, third := r.word(1), r.word(2); {
	case second == "namespace":
		return r.createNamespace()
	case second == "table", (second == "user" || second == "shared" || second == "stream") && third == "table":
		return r.createTable()
	case second == "user":
		return r.createUser()
	case second == "storage":
		return r.createStorage()
	}
	return r.other()
}

func (r *reader) drop() (Statement, error) {
	switch second, third := r.word(1), r.word(2); {
	case second == "namespace":
		return r.dropNamespace()
	case second == "table", (second == "user" || second == "shared" || second == "stream") && third == "table":
		return r.dropTable()
	case second == "user":
		return r.dropUser()
	case second == "storage":
		return r.dropStorage()
	}
	return r.other()
}

// transaction reads BEGIN, COMMIT and ROLLBACK in their spellings.
func (r *reader) transaction() (Statement, error) {
	src := r.source()
	var s Statement
	switch {
	case r.accept("begin"):
		s = &Begin{Source: src}
	case r.accept("start"):
		if err := r.expect("transaction"); err != nil {
			return nil, err
		}
		return r.end(&Begin{Source: src})
	case r.accept("commit"), r.accept("end"):
		s = &Commit{Source: src}
	case r.accept("rollback"), r.accept("abort"):
		s = &Rollback{Source: src}
	}
	if !r.accept("transaction") {
		r.accept("work")
	}
	if r.word(0) == "to" {
		return &Later{Source: src, Feature: "ROLLBACK TO SAVEPOINT"}, nil
	}
	return r.end(s)
}
