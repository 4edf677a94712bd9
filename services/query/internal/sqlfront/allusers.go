package sqlfront

import (
	pg "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/proto"
)

// AllUsers is the name of the table function that reads a table of every user.
const AllUsers = "all_users"

// AllUsersCall returns the call when an entry of FROM is all_users(…), else nil.
func AllUsersCall(f *pg.RangeFunction) *pg.FuncCall {
	if len(f.GetFunctions()) != 1 || len(f.GetFunctions()[0].GetList().GetItems()) == 0 {
		return nil
	}
	fn := f.GetFunctions()[0].GetList().GetItems()[0].GetFuncCall()
	if name := fn.GetFuncname(); len(name) != 1 || name[0].GetString_().GetSval() != AllUsers {
		return nil
	}
	return fn
}

// SpansUsers reports whether a statement reads a table of every user.
func (t *Tree) SpansUsers() bool {
	spans := false
	Walk(t.Stmt, func(m proto.Message) bool {
		f, ok := m.(*pg.RangeFunction)
		spans = spans || ok && AllUsersCall(f) != nil
		return !spans
	})
	return spans
}
