package sqlfront

import (
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// CreateStorage is CREATE STORAGE id TYPE type and its clauses (spec 1.14).
type CreateStorage struct {
	Source
	ID          string
	Type        string
	IfNotExists bool
	StorageClauses
}

// StorageClauses are what CREATE and ALTER STORAGE say of a storage; nil is what they do not say.
type StorageClauses struct {
	Name, Description *string
	// Path is PATH, BASE_DIRECTORY or BUCKET; Region belongs to BUCKET.
	Path, Region                             *string
	SharedTablesTemplate, UserTablesTemplate *string
	// Credentials and Config are JSON. Both may have secrets.
	Credentials, Config *string
}

// AlterStorage is ALTER STORAGE id SET clause ….
type AlterStorage struct {
	Source
	ID string
	StorageClauses
}

// DropStorage is DROP STORAGE [IF EXISTS] id.
type DropStorage struct {
	Source
	ID       string
	IfExists bool
}

// CheckStorage is STORAGE CHECK id [EXTENDED].
type CheckStorage struct {
	Source
	ID       string
	Extended bool
}

// Command names the statement.
func (*CreateStorage) Command() string { return "CREATE STORAGE" }

// Command names the statement.
func (*AlterStorage) Command() string { return "ALTER STORAGE" }

// Command names the statement.
func (*DropStorage) Command() string { return "DROP STORAGE" }

// Command names the statement.
func (*CheckStorage) Command() string { return "STORAGE CHECK" }

// String hides what may be secret: statements are printed in tests and logs.
func (c StorageClauses) String() string {
	var b strings.Builder
	for _, f := range []struct {
		name string
		text *string
	}{{"NAME", c.Name}, {"DESCRIPTION", c.Description}, {"PATH", c.Path}, {"REGION", c.Region}, {"SHARED_TABLES_TEMPLATE", c.SharedTablesTemplate},
		{"USER_TABLES_TEMPLATE", c.UserTablesTemplate}, {"CREDENTIALS", hidden(c.Credentials)}, {"CONFIG", hidden(c.Config)}} {
		if f.text != nil {
			b.WriteString(" " + f.name + " " + *f.text)
		}
	}
	return strings.TrimPrefix(b.String(), " ")
}

func hidden(text *string) *string {
	if text != nil {
		text = new(string)
		*text = "***"
	}
	return text
}

func (r *reader) createStorage() (Statement, error) {
	s := &CreateStorage{Source: r.source()}
	r.pos += 2
	s.IfNotExists = r.ifNotExists()
	var err error
	if s.ID, err = r.nameOrText("the id of a storage"); err != nil {
		return nil, err
	}
	if err := r.expect("type"); err != nil {
		return nil, err
	}
	if s.Type, err = r.nameOrText("filesystem, s3, gcs or azure"); err != nil {
		return nil, err
	}
	for !r.done() {
		if err := r.storageClause(&s.StorageClauses, true); err != nil {
			return nil, err
		}
	}
	if s.Path == nil {
		return nil, r.unexpected("PATH, BASE_DIRECTORY or BUCKET")
	}
	return s, nil
}

// alterStorage reads what follows ALTER STORAGE: clauses, each of which may begin with SET.
func (r *reader) alterStorage() (Statement, error) {
	s := &AlterStorage{Source: r.source()}
	var err error
	if s.ID, err = r.nameOrText("the id of a storage"); err != nil {
		return nil, err
	}
	if err := r.expect("set"); err != nil {
		return nil, err
	}
	for {
		if err := r.storageClause(&s.StorageClauses, false); err != nil {
			return nil, err
		}
		r.acceptPunct(",")
		r.accept("set")
		if r.done() {
			return s, nil
		}
	}
}

func (r *reader) storageClause(c *StorageClauses, create bool) error {
	word := r.word(0)
	target := map[string]**string{"name": &c.Name, "description": &c.Description, "path": &c.Path, "base_directory": &c.Path, "bucket": &c.Path,
		"shared_tables_template": &c.SharedTablesTemplate, "user_tables_template": &c.UserTablesTemplate,
		"credentials": &c.Credentials, "config": &c.Config}[word]
	if target == nil {
		if word == "type" {
			return r.fail(dberr.InvalidOperation, 0, "the type of a storage cannot be changed: create another one and move the tables there")
		}
		return r.unexpected("NAME, DESCRIPTION, PATH, BASE_DIRECTORY, BUCKET, SHARED_TABLES_TEMPLATE, USER_TABLES_TEMPLATE, CREDENTIALS or CONFIG")
	}
	if *target != nil {
		return r.fail(dberr.InvalidSQL, 0, "%s of a storage is given twice", strings.ToUpper(word))
	}
	text, err := r.optionText(word)
	if err != nil {
		return err
	}
	*target = &text
	if word != "bucket" || r.word(0) != "region" || !create {
		return nil
	}
	region, err := r.optionText("region")
	c.Region = &region
	return err
}

func (r *reader) dropStorage() (Statement, error) {
	s := &DropStorage{Source: r.source()}
	r.pos += 2
	s.IfExists = r.ifExists()
	var err error
	if s.ID, err = r.nameOrText("the id of a storage"); err != nil {
		return nil, err
	}
	return r.end(s)
}

// checkStorage reads what follows STORAGE CHECK.
func (r *reader) checkStorage() (Statement, error) {
	s := &CheckStorage{Source: r.source()}
	var err error
	if s.ID, err = r.nameOrText("the id of a storage"); err != nil {
		return nil, err
	}
	s.Extended = r.accept("extended")
	return r.end(s)
}
