package dberr

import storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"

// ToMessage turns err into the error inside a message, for calls that answer for several things of which one
// may fail. It returns nil for nil.
func ToMessage(err error) *storagev1.Error {
	if err == nil {
		return nil
	}
	return &storagev1.Error{Code: string(CodeOf(err)), Message: err.Error(), Fields: FieldsOf(err)}
}

// FromMessage turns an error inside a message back into an error; nil stays nil.
func FromMessage(m *storagev1.Error) error {
	if m == nil {
		return nil
	}
	err := New(Code(m.GetCode()), "%s", m.GetMessage())
	for k, v := range m.GetFields() {
		err = err.With(k, v)
	}
	return err
}
