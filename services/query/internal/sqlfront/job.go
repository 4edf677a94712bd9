package sqlfront

// Flush is FLUSH TABLE name, FLUSH ALL TABLES [IN [NAMESPACE] name], and both as STORAGE FLUSH TABLE and STORAGE FLUSH ALL.
type Flush struct {
	Source
	// Table is empty when All is set.
	Table Name
	All   bool
	// In is empty when the statement names no namespace.
	In string
	// Storage is the newer form, which answers a flush that is under way with success.
	Storage bool
}

// Compact is STORAGE COMPACT TABLE name and STORAGE COMPACT ALL [IN [NAMESPACE] name].
type Compact struct {
	Source
	// Table is empty when All is set.
	Table Name
	All   bool
	// In is empty when the statement names no namespace.
	In string
}

// KillJob is KILL JOB 'id'.
type KillJob struct {
	Source
	ID string
}

// ShowJobs is SHOW JOBS.
type ShowJobs struct{ Source }

// ShowManifest is SHOW MANIFEST.
type ShowManifest struct{ Source }

// Command names the statement.
func (s *Flush) Command() string {
	switch {
	case s.Storage && s.All:
		return "STORAGE FLUSH ALL"
	case s.Storage:
		return "STORAGE FLUSH TABLE"
	case s.All:
		return "FLUSH ALL TABLES"
	}
	return "FLUSH TABLE"
}

// Command names the statement.
func (s *Compact) Command() string {
	if s.All {
		return "STORAGE COMPACT ALL"
	}
	return "STORAGE COMPACT TABLE"
}

// Command names the statement.
func (*KillJob) Command() string { return "KILL JOB" }

// Command names the statement.
func (*ShowJobs) Command() string { return "SHOW JOBS" }

// Command names the statement.
func (*ShowManifest) Command() string { return "SHOW MANIFEST" }

// flush reads what follows FLUSH.
func (r *reader) flush(storage bool) (Statement, error) {
	s := &Flush{Source: r.source(), Storage: storage}
	var err error
	switch {
	case storage:
		s.Table, s.In, s.All, err = r.tableOrAll()
	case r.accept("table"):
		s.Table, err = r.name("the name of a table")
	case r.accept("all", "tables"):
		s.All = true
		s.In, err = r.maybeIn()
	default:
		err = r.unexpected("TABLE or ALL TABLES")
	}
	if err != nil {
		return nil, err
	}
	return r.end(s)
}

// compact reads what follows STORAGE COMPACT.
func (r *reader) compact() (Statement, error) {
	s := &Compact{Source: r.source()}
	var err error
	if s.Table, s.In, s.All, err = r.tableOrAll(); err != nil {
		return nil, err
	}
	return r.end(s)
}

// tableOrAll reads TABLE name or ALL [IN [NAMESPACE] name].
func (r *reader) tableOrAll() (table Name, in string, all bool, err error) {
	switch {
	case r.accept("table"):
		table, err = r.name("the name of a table")
	case r.accept("all"):
		all = true
		in, err = r.maybeIn()
	default:
		err = r.unexpected("TABLE or ALL")
	}
	return table, in, all, err
}

// maybeIn reads [IN [NAMESPACE] name].
func (r *reader) maybeIn() (string, error) {
	if !r.accept("in") {
		return "", nil
	}
	return r.inNamespace()
}

// inNamespace reads [NAMESPACE] name. IN namespace is the namespace of that name.
func (r *reader) inNamespace() (string, error) {
	if r.word(0) == "namespace" && r.at(1).kind != tokEnd {
		r.pos++
	}
	return r.identifier("the name of a namespace")
}

// kill reads KILL LIVE QUERY 'id' and KILL JOB 'id'.
func (r *reader) kill() (Statement, error) {
	switch {
	case r.accept("kill", "live", "query"):
		id, err := r.text("the id of a live query")
		if err != nil {
			return nil, err
		}
		return r.end(&KillLiveQuery{Source: r.source(), ID: id})
	case r.accept("kill", "job"):
		id, err := r.text("the id of a job")
		if err != nil {
			return nil, err
		}
		return r.end(&KillJob{Source: r.source(), ID: id})
	}
	return r.other()
}
