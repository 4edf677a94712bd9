package sqlfront

import "github.com/kalamdb/kalamdb-go/internal/dberr"

// Backup is BACKUP DATABASE [[IF EXISTS] namespace] TO 'path' [INCREMENTAL FROM 'parent'].
type Backup struct {
	Source
	// Namespace is empty for the whole database.
	Namespace string
	IfExists  bool
	Path      string
	// Parent is the path of the backup to build upon; empty: none.
	Parent string
}

// Restore is RESTORE DATABASE [[IF NOT EXISTS] namespace] FROM 'path' [AS name].
type Restore struct {
	Source
	// Namespace is empty for everything in the backup.
	Namespace   string
	IfNotExists bool
	Path        string
	// As is the name that the namespace gets; empty: its own.
	As string
}

// ShowBackup is SHOW BACKUP 'path'.
type ShowBackup struct {
	Source
	Path string
}

// ShowBackups is SHOW BACKUPS [FOR DATABASE namespace].
type ShowBackups struct {
	Source
	// Namespace is empty for all.
	Namespace string
}

// Command names the statement.
func (*Backup) Command() string { return "BACKUP DATABASE" }

// Command names the statement.
func (*Restore) Command() string { return "RESTORE DATABASE" }

// Command names the statement.
func (*ShowBackup) Command() string { return "SHOW BACKUP" }

// Command names the statement.
func (*ShowBackups) Command() string { return "SHOW BACKUPS" }

// backup reads what follows BACKUP DATABASE. TO is the path's word, unless it stands where only a name can.
func (r *reader) backup(src Source) (Statement, error) {
	s := &Backup{Source: src, IfExists: r.ifExists()}
	var err error
	if s.IfExists || !r.pathAfter("to") {
		if s.Namespace, err = r.identifier("the name of a namespace, or TO"); err != nil {
			return nil, err
		}
	}
	if err := r.expect("to"); err != nil {
		return nil, err
	}
	if s.Path, err = r.text("the path of a backup"); err != nil {
		return nil, err
	}
	if r.accept("incremental") {
		if err := r.expect("from"); err != nil {
			return nil, err
		}
		if s.Parent, err = r.text("the path of the backup to build upon"); err != nil {
			return nil, err
		}
	}
	return r.end(s)
}

// restore reads what follows RESTORE DATABASE.
func (r *reader) restore(src Source) (Statement, error) {
	s := &Restore{Source: src, IfNotExists: r.ifNotExists()}
	var err error
	if !r.pathAfter("from") { // IF NOT EXISTS of all is allowed, too
		if s.Namespace, err = r.identifier("the name of a namespace, or FROM"); err != nil {
			return nil, err
		}
	}
	if err := r.expect("from"); err != nil {
		return nil, err
	}
	if s.Path, err = r.text("the path of a backup"); err != nil {
		return nil, err
	}
	if r.accept("as") {
		if s.Namespace == "" {
			return nil, r.fail(dberr.InvalidSQL, 0, "AS gives one namespace another name: name it, RESTORE DATABASE namespace FROM 'path' AS name")
		}
		if s.As, err = r.identifier("the name of a namespace"); err != nil {
			return nil, err
		}
	}
	return r.end(s)
}

// pathAfter reports whether a word and a path are next.
func (r *reader) pathAfter(word string) bool { return r.word(0) == word && r.at(1).kind == tokString }

// showBackup reads what follows SHOW BACKUP and SHOW BACKUPS. Both take FOR DATABASE, as the original's documents have it.
func (r *reader) showBackup(src Source, many bool) (Statement, error) {
	if !many && r.at(0).kind == tokString {
		path, err := r.text("the path of a backup")
		if err != nil {
			return nil, err
		}
		return r.end(&ShowBackup{Source: src, Path: path})
	}
	s := &ShowBackups{Source: src}
	if !r.accept("for", "database") {
		if !many {
			return nil, r.unexpected("the path of a backup, or FOR DATABASE")
		}
		return r.end(s)
	}
	var err error
	if s.Namespace, err = r.identifier("the name of a namespace"); err != nil {
		return nil, err
	}
	return r.end(s)
}
