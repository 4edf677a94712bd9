package telemetry

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

const (
	// logFileName is the file that is written now; server.log.1 is the one before it, and so on.
	logFileName = "server.log"
	// logFileBytesMax and logFilesKept bound the folder at 600 MiB: some days of a busy node at level info.
	logFileBytesMax = 100 << 20
	logFilesKept    = 5
)

// LogFile is a log in a folder, which starts a new file when the current one is full and deletes the
// oldest. It is safe for concurrent use.
type LogFile struct {
	path     string
	bytesMax int64

	mu   sync.Mutex
	file *os.File // nil after Close, or when a new file could not be made
	size int64
}

// OpenLogFile continues the log in a folder, which it makes when it is absent.
func OpenLogFile(dir string) (*LogFile, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "logging.logs_path: %w", err)
	}
	l := &LogFile{path: filepath.Join(dir, logFileName), bytesMax: logFileBytesMax}
	if err := l.open(); err != nil {
		return nil, dberr.New(dberr.InvalidArgument, "logging.logs_path: %w", err)
	}
	return l, nil
}

// Write appends one line, whole, to one file.
func (l *LogFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(line)) > l.bytesMax {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	if l.file == nil {
		return 0, os.ErrClosed
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	return n, err
}

// Close ends the log; what comes later is refused.
func (l *LogFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file, l.size = nil, 0
	return err
}

// open continues the current file. mu is held, or nobody else knows l yet.
func (l *LogFile) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return err
	}
	l.file, l.size = f, info.Size()
	return nil
}

// rotate makes every file one older and starts a new one. When that fails the open file grows by as much again
// before the next attempt: a log that is too long is better than none.
func (l *LogFile) rotate() error {
	if l.file == nil {
		return os.ErrClosed
	}
	full := l.file
	l.size = 0
	for i := logFilesKept - 1; i > 0; i-- {
		_ = os.Rename(l.old(i), l.old(i+1)) // the first times there are fewer
	}
	if err := os.Rename(l.path, l.old(1)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := l.open(); err != nil {
		return nil // under its new name
	}
	return full.Close()
}

func (l *LogFile) old(i int) string { return fmt.Sprintf("%s.%d", l.path, i) }

// Tee writes to all, also when one fails: a full disk must not silence the console.
type Tee []io.Writer

// Write returns the first error after all had their turn.
func (t Tee) Write(p []byte) (int, error) {
	var first error
	for _, w := range t {
		if _, err := w.Write(p); err != nil && first == nil {
			first = err
		}
	}
	if first != nil {
		return 0, first
	}
	return len(p), nil
}
