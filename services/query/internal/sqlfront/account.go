package sqlfront

import (
	"encoding/json"
	"strings"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// userID reads the name of a user: a quoted text is taken as it is, a bare name is folded.
func (r *reader) userID() (string, error) {
	id, err := r.nameOrText("the name of a user")
	if err != nil {
		return "", err
	}
	if err := catalog.CheckUserID(id); err != nil {
		return "", r.fail(dberr.InvalidSQL, -1, "%w", err)
	}
	return id, nil
}

func (r *reader) createUser() (Statement, error) {
	s := &CreateUser{Source: r.source(), Role: catalog.RoleUser}
	r.pos += 2
	s.IfNotExists = r.ifNotExists()
	var err error
	if s.User, err = r.userID(); err != nil {
		return nil, err
	}
	r.accept("with")
	seen := map[string]bool{}
	for !r.done() {
		option := r.word(0)
		if seen[option] {
			return nil, r.fail(dberr.InvalidSQL, 0, "an option of CREATE USER is given twice")
		}
		seen[option] = true
		if err := r.createUserOption(s, option); err != nil {
			return nil, err
		}
	}
	if s.Auth == 0 {
		return nil, r.unexpected("PASSWORD, OAUTH or INTERNAL")
	}
	return s, nil
}

func (r *reader) createUserOption(s *CreateUser, option string) (err error) {
	switch option {
	case "password", "oauth", "internal":
		if s.Auth != 0 {
			return r.fail(dberr.InvalidSQL, 0, "a user has one of PASSWORD, OAUTH and INTERNAL")
		}
		return r.authentication(s, option)
	case "role":
		s.Role, err = r.role()
	case "email":
		s.Email, err = r.optionText("email")
	case "metadata":
		s.Metadata, err = r.metadata()
	case "allow_remote":
		r.pos++
		s.AllowRemote, err = r.boolean("ALLOW_REMOTE")
	case "storage_mode":
		s.StorageMode, err = r.storageMode()
	case "storage_id":
		s.StorageID, err = r.storageOfUser()
	case "oidc":
		return r.fail(dberr.Unsupported, 0, "this option of CREATE USER is not supported")
	default:
		return r.unexpected("PASSWORD, OAUTH, INTERNAL, ROLE, EMAIL, METADATA, ALLOW_REMOTE, STORAGE_MODE or STORAGE_ID")
	}
	return err
}

// storageMode reads STORAGE_MODE and its value.
func (r *reader) storageMode() (string, error) {
	r.pos++
	r.acceptPunct("=")
	mode, err := r.nameOrText("table or region")
	if mode = strings.ToLower(mode); err == nil && mode != catalog.StorageModeTable && mode != catalog.StorageModeRegion {
		return "", r.fail(dberr.InvalidSQL, -1, "unknown storage mode %.32q: use table or region", mode)
	}
	return mode, err
}

// storageOfUser reads STORAGE_ID and its value; NULL takes it away.
func (r *reader) storageOfUser() (string, error) {
	r.pos++
	r.acceptPunct("=")
	if r.accept("null") {
		return "", nil
	}
	return r.nameOrText("the id of a storage")
}

func (r *reader) authentication(s *CreateUser, option string) (err error) {
	switch option {
	case "password":
		s.Auth = AuthPassword
		s.Password, err = r.optionText("password")
		return err
	case "internal":
		r.pos++
		s.Auth = AuthInternal
		return nil
	}
	r.pos++
	s.Auth = AuthOAuth
	if r.at(0).kind == tokString {
		return r.oauthJSON(s)
	}
	if r.word(0) != "provider" {
		return nil
	}
	provider, err := r.optionText("provider")
	if err != nil {
		return err
	}
	if r.word(0) != "subject" {
		return r.unexpected("SUBJECT")
	}
	subject, err := r.optionText("subject")
	if err != nil {
		return err
	}
	return s.setOAuth(provider, subject)
}

// oauthJSON reads '{"provider":"google","subject":"…"}'.
func (r *reader) oauthJSON(s *CreateUser) error {
	text, err := r.text("the OAUTH data")
	if err != nil {
		return err
	}
	var data struct {
		Provider string `json:"provider"`
		Subject  string `json:"subject"`
	}
	if err := json.Unmarshal([]byte(text), &data); err != nil || data.Provider == "" || data.Subject == "" {
		return r.fail(dberr.InvalidSQL, -1, "OAUTH needs JSON with provider and subject")
	}
	return s.setOAuth(data.Provider, data.Subject)
}

func (s *CreateUser) setOAuth(provider, subject string) error {
	b, err := json.Marshal(map[string]string{"provider": provider, "subject": subject})
	s.AuthData = string(b)
	return err
}

// optionText reads an option's name and its string.
func (r *reader) optionText(what string) (string, error) {
	r.pos++
	r.acceptPunct("=")
	return r.text("the " + what)
}

func (r *reader) role() (catalog.Role, error) {
	r.pos++
	name, err := r.nameOrText("a role")
	if err != nil {
		return 0, err
	}
	role, ok := catalog.ParseRole(name)
	if !ok {
		return 0, r.fail(dberr.InvalidSQL, -1, "unknown role %.32q: use user, service, dba or system", name)
	}
	return role, nil
}

func (r *reader) metadata() (string, error) {
	text, err := r.optionText("metadata")
	if err == nil && !json.Valid([]byte(text)) {
		return "", r.fail(dberr.InvalidSQL, -1, "METADATA must be JSON")
	}
	return text, err
}

func (r *reader) alterUser() (Statement, error) {
	s := &AlterUser{Source: r.source()}
	var err error
	if s.User, err = r.userID(); err != nil {
		return nil, err
	}
	if err := r.expect("set"); err != nil {
		return nil, err
	}
	for {
		if err := r.alterUserOption(s); err != nil {
			return nil, err
		}
		r.acceptPunct(",")
		r.accept("set")
		if r.done() {
			return s, nil
		}
	}
}

func (r *reader) alterUserOption(s *AlterUser) error {
	var target **string
	var text string
	var err error
	switch option := r.word(0); option {
	case "password":
		target = &s.Password
		text, err = r.optionText(option)
	case "email":
		target = &s.Email
		text, err = r.optionText(option)
	case "metadata":
		target = &s.Metadata
		text, err = r.metadata()
	case "role":
		role, err := r.role()
		if err == nil && s.Role != nil {
			err = r.fail(dberr.InvalidSQL, -1, "ROLE is given twice")
		}
		s.Role = &role
		return err
	case "storage_mode":
		target = &s.StorageMode
		text, err = r.storageMode()
	case "storage_id":
		target = &s.StorageID
		text, err = r.storageOfUser()
	default:
		return r.unexpected("PASSWORD, ROLE, EMAIL, METADATA, STORAGE_MODE or STORAGE_ID")
	}
	if err == nil && *target != nil {
		err = r.fail(dberr.InvalidSQL, -1, "an option of ALTER USER is given twice")
	}
	*target = &text
	return err
}

func (r *reader) dropUser() (Statement, error) {
	s := &DropUser{Source: r.source()}
	r.pos += 2
	s.IfExists = r.ifExists()
	var err error
	if s.User, err = r.userID(); err != nil {
		return nil, err
	}
	return r.end(s)
}
