package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/telemetry"
)

// door is a role whose start and stop a test looks into.
type door struct {
	starting, stopping func()
	ready              atomic.Pointer[error]
}

func (*door) Name() string { return "door" }
func (d *door) Start(context.Context) error {
	d.starting()
	return nil
}
func (d *door) Stop(context.Context) error {
	d.stopping()
	return nil
}
func (d *door) Ready(context.Context) error {
	if err := d.ready.Load(); err != nil {
		return *err
	}
	return nil
}
func (*door) Greeting() string { return "the door is open" }

type testSettings struct {
	Server  Server  `toml:"server"`
	Logging Logging `toml:"logging"`
}

// newProgram makes a program with an operations port of its own.
func newProgram(t *testing.T, roles ...Role) (*Program, *testSettings) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &testSettings{Server: DefaultServer(), Logging: DefaultLogging()}
	s.Server.OpsPort = uint16(l.Addr().(*net.TCPAddr).Port)
	s.Logging.Path, s.Logging.Console = t.TempDir(), false
	return &Program{Name: "kalamdb-test", Version: "v7", Settings: s, Own: []string{"logging"}, Server: &s.Server, Logging: &s.Logging,
		Roles: func(context.Context, *telemetry.Telemetry) ([]Role, error) { return roles, nil }}, s
}

// status is what an operations address answers.
func status(t *testing.T, p *Program, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, "http://"+p.Server.OpsAddr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// Alive from before the roles start until they have stopped; ready in between, as long as the roles are.
func TestLifeOfAProgram(t *testing.T) {
	d := &door{}
	p, _ := newProgram(t, d)
	started, stopped := make(chan struct{}), false
	unready := func(when string) {
		if code, body := status(t, p, "/readyz"); code != 503 || !strings.Contains(body, "starting or stopping") {
			t.Errorf("%s: %d %s", when, code, body)
		}
		if code, _ := status(t, p, "/healthz"); code != 200 {
			t.Errorf("%s it does not live: %d", when, code)
		}
		if err := p.execute(t.Context(), []string{"health"}, io.Discard); err != nil {
			t.Errorf("%s: health says %v", when, err)
		}
	}
	d.starting = func() { unready("while a role starts"); close(started) }
	d.stopping = func() { unready("while a role stops"); stopped = true }
	ctx, end := context.WithCancel(t.Context())
	var out bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- p.execute(ctx, nil, &out) }()
	<-started
	for { // the moment between the role's start and the program's
		if code, _ := status(t, p, "/readyz"); code == 200 {
			break
		}
	}
	var why error = dberr.New(dberr.Unavailable, "nobody is home")
	d.ready.Store(&why)
	if code, body := status(t, p, "/readyz"); code != 503 || !strings.Contains(body, "door: nobody is home") {
		t.Errorf("a role that is not ready: %d %s", code, body)
	}
	end()
	if err := <-done; err != nil || !stopped {
		t.Fatalf("%v, stopped %v", err, stopped)
	}
	if out.String() != "the door is open\n" {
		t.Errorf("says %q", &out)
	}
	if err := p.execute(t.Context(), []string{"health"}, io.Discard); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("health of a program that ended: %v", err)
	}
	if log, err := os.ReadFile(filepath.Join(p.Logging.Path, "server.log")); err != nil || !strings.Contains(string(log), "role stopped") {
		t.Errorf("the log file: %q, %v", log, err)
	}
}

// A program stops being ready, and answers its operators, before its first role stops. It does not wait for balancers:
// the role that has them does.
func TestStopBeginsAtOnce(t *testing.T) {
	started := make(chan struct{})
	var p *Program
	stopping := func() {
		if code, _ := status(t, p, "/readyz"); code != 503 {
			t.Errorf("ready while it stops: %d", code)
		}
		if code, _ := status(t, p, "/healthz"); code != 200 {
			t.Errorf("does not live while it stops: %d", code)
		}
	}
	var s *testSettings
	p, s = newProgram(t, &door{starting: func() { close(started) }, stopping: stopping})
	s.Server.DrainDelay = config.Duration(24 * time.Hour)
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.execute(ctx, nil, io.Discard) }()
	<-started
	for {
		if code, _ := status(t, p, "/readyz"); code == 200 {
			break
		}
	}
	end()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestARoleThatDiesEndsTheProgram(t *testing.T) {
	var events []string
	r := &fakeRole{name: "disk", events: &events, failed: make(chan struct{}), err: errors.New("input/output error")}
	p, _ := newProgram(t, r)
	close(r.failed)
	if err := p.execute(t.Context(), nil, io.Discard); err == nil || !strings.Contains(err.Error(), "disk: input/output error") {
		t.Fatal(err)
	}
	if got := strings.Join(events, ", "); got != "start disk, stop disk" {
		t.Error(got)
	}
}

func TestOneFileForAllPrograms(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	const text = "[server]\nops_port = 7\nnode_id = 3\n[storage]\ndata_path = '/d'\n[cluster]\nname = 'x'\n[logging]\nlevel = 'debug'\n"
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, settingsFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	p, s := newProgram(t)
	if err := p.load(nil); err != nil {
		t.Fatal(err)
	}
	if s.Server.OpsPort != 7 || s.Logging.Level != "debug" {
		t.Errorf("beside others' sections its own are not read: %+v", s)
	}
	for _, c := range []struct{ text, want string }{
		{"[loging]\nlevel = 'debug'\n", "loging"},
		{"[logging]\nlevle = 'debug'\n", "levle"},
	} {
		write(text + c.text)
		if c.text[:9] == "[logging]" {
			write(c.text)
		}
		if err := p.load(nil); !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.text, err)
		}
	}
	write(text)
	p.Refused = []config.Refused{{Section: "cluster", Reason: "start another"}}
	if err := p.load(nil); !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), "start another") {
		t.Error(err)
	}
}

func TestVersionStartsNothing(t *testing.T) {
	p, _ := newProgram(t)
	p.Roles = func(context.Context, *telemetry.Telemetry) ([]Role, error) {
		t.Error("roles are made")
		return nil, nil
	}
	var out bytes.Buffer
	if err := p.execute(t.Context(), []string{"--version"}, &out); err != nil || !strings.HasPrefix(out.String(), "kalamdb-test v7 (go1.") {
		t.Fatalf("%v, %q", err, &out)
	}
}

func TestWhatEndsTheStart(t *testing.T) {
	boom := dberr.New(dberr.InvalidArgument, "boom")
	for _, c := range []struct {
		name, want string
		change     func(*Program, *testSettings)
	}{
		{"a log that goes nowhere", "the log would go nowhere", func(_ *Program, s *testSettings) { s.Logging.Path = "" }},
		{"a log's folder", "logging.logs_path", func(_ *Program, s *testSettings) { s.Logging.Path = "/dev/null/x" }},
		{"a level", "log level", func(_ *Program, s *testSettings) { s.Logging.Level = "loud" }},
		{"roles", "boom", func(p *Program, _ *testSettings) {
			p.Roles = func(context.Context, *telemetry.Telemetry) ([]Role, error) { return nil, boom }
		}},
		{"operations", "server.ops_host", func(_ *Program, s *testSettings) { s.Server.OpsHost = "256.0.0.1" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, s := newProgram(t)
			c.change(p, s)
			if err := p.execute(t.Context(), nil, io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want it to say %q", err, c.want)
			}
		})
	}
}

func TestLogTo(t *testing.T) {
	for _, console := range []bool{true, false} {
		dir := t.TempDir()
		var out bytes.Buffer
		l := Logging{Path: dir, Console: console}
		w, file, err := l.open(&out)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, "line")
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "server.log")); err != nil || string(b) != "line" || (out.String() == "line") != console {
			t.Errorf("console %v: file %q (%v), console %q", console, b, err, &out)
		}
	}
}
