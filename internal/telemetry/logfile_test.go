package telemetry

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func content(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return "absent"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAFullLogFileIsKeptAndAnOldOneDeleted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	l, err := OpenLogFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	l.bytesMax = 10
	for i := range 2 * (logFilesKept + 3) { // two lines fit
		if _, err := fmt.Fprintf(l, "%4d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	last := 2*(logFilesKept+3) - 2
	if got, want := content(t, dir, logFileName), fmt.Sprintf("%4d\n%4d\n", last, last+1); got != want {
		t.Errorf("the current file holds %q, want %q", got, want)
	}
	for i := 1; i <= logFilesKept; i++ {
		if got, want := content(t, dir, fmt.Sprintf("%s.%d", logFileName, i)), fmt.Sprintf("%4d\n%4d\n", last-2*i, last-2*i+1); got != want {
			t.Errorf("file %d holds %q, want %q", i, got, want)
		}
	}
	if got := content(t, dir, fmt.Sprintf("%s.%d", logFileName, logFilesKept+1)); got != "absent" {
		t.Errorf("one file too many: %q", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Write([]byte("late")); err == nil {
		t.Error("a closed log takes lines")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestALogIsContinued(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		l, err := OpenLogFile(dir)
		if err != nil {
			t.Fatal(err)
		}
		l.bytesMax = 10
		if _, err := fmt.Fprintf(l, "%4d\n", i); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := content(t, dir, logFileName); got != "   2\n" {
		t.Errorf("the size of what was there is not counted: %q", got)
	}
	if got := content(t, dir, logFileName+".1"); got != "   0\n   1\n" {
		t.Errorf("got %q", got)
	}
}

func TestALineLongerThanAFile(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenLogFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.bytesMax = 4
	for range 2 {
		if _, err := l.Write([]byte("a long line\n")); err != nil {
			t.Fatal(err)
		}
	}
	if content(t, dir, logFileName) != "a long line\n" || content(t, dir, logFileName+".1") != "a long line\n" {
		t.Error("lines are cut or lost")
	}
}

func TestAFolderThatCannotTurnKeepsTheLog(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenLogFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.bytesMax = 1
	if err := os.MkdirAll(filepath.Join(dir, logFileName+".1", "in-the-way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, logFileName+".2", "in-the-way"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := 3; i <= logFilesKept; i++ {
		if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("%s.%d", logFileName, i), "in-the-way"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := l.Write([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
	}
	if got := content(t, dir, logFileName); got != "line\nline\n" {
		t.Errorf("got %q", got)
	}
}

func TestLinesOfManyWritersStayWhole(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenLogFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	l.bytesMax = 1000
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 50 {
				if _, err := l.Write([]byte("0123456789\n")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	all := content(t, dir, logFileName) + content(t, dir, logFileName+".1") + content(t, dir, logFileName+".2")
	if all != strings.Repeat("0123456789\n", 200) {
		t.Errorf("%d bytes of %d, or torn", len(all), 200*11)
	}
}

func TestAFolderThatIsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLogFile(path); !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), "logging.logs_path") {
		t.Fatal(err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestTeeGoesOnWithoutOne(t *testing.T) {
	var out bytes.Buffer
	if _, err := (Tee{broken{}, &out}).Write([]byte("x")); err == nil || out.String() != "x" {
		t.Fatalf("%v, %q", err, &out)
	}
	if n, err := (Tee{&out}).Write([]byte("yz")); n != 2 || err != nil {
		t.Fatal(n, err)
	}
}
