package host

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// roleOfChild makes this test's process the program that another run of it signals.
const roleOfChild = "KALAMDB_TEST_SIGNALLED"

// The first signal stops the roles; another ends a stop that takes too long for whoever waits.
func TestASecondSignalEndsTheProcess(t *testing.T) {
	if os.Getenv(roleOfChild) != "" {
		p, s := newProgram(t, &door{starting: func() {}, stopping: func() {
			_, _ = os.Stdout.WriteString("stopping\n")
			select {} // forever
		}})
		s.Server.ShutdownTimeout = 1 << 60
		os.Args = os.Args[:1]
		Main(*p)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestASecondSignalEndsTheProcess$")
	cmd.Env = append(os.Environ(), roleOfChild+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	await := func(text string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), text) {
				return
			}
		}
		t.Fatalf("ended before %q: %v", text, lines.Err())
	}
	await("the door is open")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await("stopping")
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	again := time.NewTicker(10 * time.Millisecond) // the first may still be waiting for the handler to go
	defer again.Stop()
	for {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
				t.Fatalf("ended with %v", err)
			}
			return
		case <-again.C:
		}
	}
}
