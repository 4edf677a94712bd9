package sqlfront

// EraseUser is ERASE USER name [IF EXISTS], the latter before the name as well.
type EraseUser struct {
	Source
	User     string
	IfExists bool
}

// ShowReceipt is SHOW RECEIPT 'id'.
type ShowReceipt struct {
	Source
	ID string
}

// Command names the statement.
func (*EraseUser) Command() string { return "ERASE USER" }

// Command names the statement.
func (*ShowReceipt) Command() string { return "SHOW RECEIPT" }

// eraseUser reads what follows ERASE USER.
func (r *reader) eraseUser() (Statement, error) {
	s := &EraseUser{Source: r.source(), IfExists: r.ifExists()}
	var err error
	if s.User, err = r.userID(); err != nil {
		return nil, err
	}
	s.IfExists = r.ifExists() || s.IfExists
	return r.end(s)
}

// showReceipt reads what follows SHOW RECEIPT.
func (r *reader) showReceipt() (Statement, error) {
	id, err := r.text("the id of a job that erases a user")
	if err != nil {
		return nil, err
	}
	return r.end(&ShowReceipt{Source: r.source(), ID: id})
}
