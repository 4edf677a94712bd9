package dml

import (
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
)

// A repeated request asks every partition whether an earlier attempt wrote there. Those that it did not write say
// nothing about the position, nor about what is done.
func TestPartitionsThatWereOnlyAsked(t *testing.T) {
	answer := func(rows, position uint64) *storagev1.WriteResponse {
		return &storagev1.WriteResponse{Position: position, Results: []*storagev1.TableWriteResult{{RowsAffected: rows}}}
	}
	for _, c := range []struct {
		name           string
		done           map[uint32]*storagev1.WriteResponse
		rows, position uint64
		partly         string
	}{
		{"one of three", map[uint32]*storagev1.WriteResponse{1: answer(0, 0), 2: answer(3, 70), 5: answer(0, 90)}, 3, 70, "(1 partition(s)"},
		{"two", map[uint32]*storagev1.WriteResponse{1: answer(1, 60), 2: answer(3, 70)}, 4, 0, "(2 partition(s)"},
		{"nothing to write", map[uint32]*storagev1.WriteResponse{1: answer(0, 60)}, 0, 60, ""},
		{"only asked", map[uint32]*storagev1.WriteResponse{1: answer(0, 60), 2: answer(0, 70)}, 0, 0, ""},
	} {
		s := &sending{done: c.done}
		got, err := s.result(nil, &batch{target: target{table: &catalog.Table{Kind: catalog.SharedTable}}}, "INSERT", nil)
		if err != nil {
			t.Fatal(err)
		}
		if got.Rows != c.rows || got.Position != c.position {
			t.Errorf("%s: %d rows at %d, want %d at %d", c.name, got.Rows, got.Position, c.rows, c.position)
		}
		told := s.explain(dberr.New(dberr.Unavailable, "gone")).Error()
		if c.partly == "" && told != "gone" || !strings.Contains(told, c.partly) {
			t.Errorf("%s: %q, want %q", c.name, told, c.partly)
		}
	}
}
