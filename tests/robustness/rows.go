package robustness

import (
	"fmt"
	"strings"

	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/client"
)

// Rows says which rows of a table belong to a partition, and how SQL names them.
type Rows struct {
	Table string
	// Lane, when it is set, is the value of the column lane by whose hash the table is spread: the partition's rows are
	// those that have it. Other tables have no such column.
	Lane *int64
}

// where is a WHERE clause for those of the rows that meet a condition, or for all of them.
func (r Rows) where(condition string) string {
	switch {
	case r.Lane == nil && condition == "":
		return ""
	case r.Lane == nil:
		return " WHERE " + condition
	case condition == "":
		return fmt.Sprintf(" WHERE lane = %d", *r.Lane)
	}
	return fmt.Sprintf(" WHERE lane = %d AND (%s)", *r.Lane, condition)
}

func (r Rows) read() string { return "SELECT id, v FROM " + r.Table + r.where("") }

func (r Rows) insert(keys []int, values []int64) string {
	columns, lane := "id, v", ""
	if r.Lane != nil {
		columns, lane = "lane, id, v", fmt.Sprintf("%d, ", *r.Lane)
	}
	tuples := make([]string, len(keys))
	for i, k := range keys {
		tuples[i] = fmt.Sprintf("(%s%d, %d)", lane, k, values[i])
	}
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES %s", r.Table, columns, strings.Join(tuples, ", "))
}

func (r Rows) swap(key int, old, value int64) string {
	return fmt.Sprintf("UPDATE %s SET v = %d%s", r.Table, value, r.where(fmt.Sprintf("id = %d AND v = %d", key, old)))
}

func (r Rows) delete(key int, old int64) string {
	return "DELETE FROM " + r.Table + r.where(fmt.Sprintf("id = %d AND v = %d", key, old))
}

// stateIn is what a read of a partition found.
func stateIn(r *kalamv1.StatementResult) (s State, err error) {
	_, rows, err := client.DecodeIPC(r.GetArrowIpc())
	if err != nil {
		return s, err
	}
	for _, row := range rows {
		if err := s.take(row[0].(int64), row[1].(int64)); err != nil {
			return s, err
		}
	}
	return s, nil
}

// statesIn is what a read of a table with lanes found in each.
func statesIn(r *kalamv1.StatementResult) (map[int64]State, error) {
	_, rows, err := client.DecodeIPC(r.GetArrowIpc())
	if err != nil {
		return nil, err
	}
	out := map[int64]State{}
	for _, row := range rows {
		lane := row[0].(int64)
		s := out[lane]
		if err := s.take(row[1].(int64), row[2].(int64)); err != nil {
			return nil, fmt.Errorf("lane %d: %w", lane, err)
		}
		out[lane] = s
	}
	return out, nil
}

// take adds a row that was read.
func (s *State) take(id, v int64) error {
	if id < 0 || id >= keysMax || v == 0 {
		return fmt.Errorf("a row nobody wrote: id %d, v %d", id, v)
	}
	if s[id] != 0 {
		return fmt.Errorf("id %d is twice in one answer", id)
	}
	s[id] = v
	return nil
}
