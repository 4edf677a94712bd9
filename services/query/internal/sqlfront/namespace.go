package sqlfront

import "github.com/kalamdb/kalamdb-go/internal/dberr"

func (r *reader) createNamespace() (Statement, error) {
	s := &CreateNamespace{Source: r.source()}
	r.pos += 2
	s.IfNotExists = r.ifNotExists()
	var err error
	if s.Namespace, err = r.identifier("the name of a namespace"); err != nil {
		return nil, err
	}
	if err := checkNamespaceName(s.Namespace); err != nil {
		return nil, r.fail(dberr.CodeOf(err), -1, "%w", err)
	}
	return r.end(s)
}

func (r *reader) dropNamespace() (Statement, error) {
	s := &DropNamespace{Source: r.source()}
	r.pos += 2
	s.IfExists = r.ifExists()
	var err error
	if s.Namespace, err = r.identifier("the name of a namespace"); err != nil {
		return nil, err
	}
	s.Cascade = r.accept("cascade")
	return r.end(s)
}

// use reads USE [NAMESPACE] name and SET NAMESPACE name. USE namespace is the namespace of that name.
func (r *reader) use() (Statement, error) {
	s := &UseNamespace{Source: r.source()}
	r.pos++
	if r.word(0) == "namespace" && r.pos+1 < len(r.tokens) {
		r.pos++
	}
	var err error
	if s.Namespace, err = r.identifier("the name of a namespace"); err != nil {
		return nil, err
	}
	return r.end(s)
}

func (r *reader) show() (Statement, error) {
	src := r.source()
	switch {
	case r.accept("show", "namespaces"):
		return r.end(&ShowNamespaces{Source: src})
	case r.accept("show", "users"):
		return r.end(&ShowUsers{Source: src})
	case r.accept("show", "storages"):
		return r.end(&ShowStorages{Source: src})
	case r.accept("show", "jobs"):
		return r.end(&ShowJobs{Source: src})
	case r.accept("show", "manifest"):
		return r.end(&ShowManifest{Source: src})
	case r.accept("show", "export"):
		return r.end(&Export{Source: src, Show: true})
	case r.accept("show", "receipt"):
		return r.showReceipt()
	case r.accept("show", "backup"):
		return r.showBackup(src, false)
	case r.accept("show", "backups"):
		return r.showBackup(src, true)
	case r.accept("show", "tables"):
		return r.showTables(&ShowTables{Source: src})
	case r.accept("show", "stats"):
		if err := r.expect("for", "table"); err != nil {
			return nil, err
		}
		table, err := r.name("the name of a table")
		if err != nil {
			return nil, err
		}
		return r.end(&ShowStats{Source: src, Table: table})
	case r.accept("show", "columns", "from"), r.accept("show", "columns", "in"):
		table, err := r.name("the name of a table")
		if err != nil {
			return nil, err
		}
		return r.end(&Describe{Source: src, Table: table})
	}
	return r.other()
}

func (r *reader) showTables(s *ShowTables) (Statement, error) {
	if r.accept("in") || r.accept("from") {
		var err error
		if s.In, err = r.inNamespace(); err != nil {
			return nil, err
		}
	}
	return r.end(s)
}

// describe reads DESCRIBE|DESC [TABLE] name [HISTORY].
func (r *reader) describe() (Statement, error) {
	s := &Describe{Source: r.source()}
	r.pos++
	if r.word(0) == "table" {
		r.pos++
	}
	var err error
	if s.Table, err = r.name("the name of a table"); err != nil {
		return nil, err
	}
	s.History = r.accept("history")
	return r.end(s)
}
