package edge

import (
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// FromMessage turns an error inside a message back into an error; nil stays nil.
func FromMessage(m *storagev1.Error) error {
	if m == nil {
		return nil
	}
	err := dberr.New(dberr.Code(m.GetCode()), "%s", m.GetMessage())
	for k, v := range m.GetFields() {
		err = err.With(k, v)
	}
	return err
}
