package backup

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// list reads the lines of a shard's list one after the other.
type list struct {
	file  Source
	lines *bufio.Scanner
	path  string
	next  *Line // read and not yet taken
}

func openList(t Target, path string) (*list, error) {
	f, err := t.Open(path)
	if err != nil {
		return nil, err
	}
	l := &list{file: f, lines: bufio.NewScanner(f), path: path}
	l.lines.Buffer(make([]byte, 64<<10), lineMax)
	return l, nil
}

// peek is the next line, nil at the end.
func (l *list) peek() (*Line, error) {
	if l.next != nil {
		return l.next, nil
	}
	if !l.lines.Scan() {
		if err := l.lines.Err(); err != nil {
			return nil, dberr.New(dberr.Unavailable, "read %s of a backup: %w", l.path, err)
		}
		return nil, nil
	}
	line := new(Line)
	d := json.NewDecoder(bytes.NewReader(l.lines.Bytes()))
	if err := d.Decode(line); err != nil {
		return nil, damaged(l.path, "%v", err)
	}
	l.next = line
	return line, nil
}

// partition takes the lines of the next partition, none at the end.
func (l *list) partition() (lines []*Line, err error) {
	for {
		line, err := l.peek()
		if err != nil || line == nil || len(lines) > 0 && (line.Table != lines[0].Table || line.Owner != lines[0].Owner) {
			return lines, err
		}
		lines = append(lines, line)
		l.next = nil
	}
}

// seek passes over partitions before one, and takes its lines if it is there.
func (l *list) seek(table uint32, owner string) ([]*Line, error) {
	for {
		line, err := l.peek()
		if err != nil || line == nil {
			return nil, err
		}
		switch c := cmp.Or(cmp.Compare(line.Table, table), cmp.Compare(line.Owner, owner)); {
		case c == 0:
			return l.partition()
		case c > 0:
			return nil, nil
		}
		l.next = nil
	}
}

func (l *list) Close() error { return l.file.Close() }

// copyErr names what an error of copying is about; those with a code keep it.
func copyErr(what string, err error) error {
	var e *dberr.Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return dberr.New(dberr.Unavailable, "%s: %w", what, err)
}

// copyBuffer is how files are copied.
func copyBuffer(to io.Writer, from io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 128<<10))
}
