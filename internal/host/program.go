package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/telemetry"
)

const (
	// settingsFile is read when no other is named and it exists.
	settingsFile = "server.toml"
	// healthTimeout bounds the question of the health command.
	healthTimeout = 3 * time.Second
	// opsHeaderTimeout bounds how long an operator's request may take to arrive.
	opsHeaderTimeout = 5 * time.Second
)

// sections are those of all programs: they share one file.
var sections = []string{"server", "cluster", "storage", "query", "live", "rate_limit", "security", "auth", "websocket", "logging"}

// Program is what main runs.
type Program struct {
	Name, Version string
	// Settings is filled from file, variables and flags; Server and Logging are parts of it.
	Settings any
	Own      []string // sections of Settings; unknown keys in them are errors
	Refused  []config.Refused
	Server   *Server
	Logging  *Logging
	// Roles makes the roles in the order of their start. They may also say when they are ready (Readier) and
	// what to tell the person who started them (Greeter).
	Roles func(ctx context.Context, tel *telemetry.Telemetry) ([]Role, error)
	// OwnOperations: a role serves the operations' port itself.
	OwnOperations bool

	warnings []string // of the settings, for the log, which is opened later
}

// Readier is a Role that can say why it cannot do its work now.
type Readier interface {
	Ready(ctx context.Context) error
}

// Greeter is a Role with something to say to the person who started it.
type Greeter interface {
	Greeting() string
}

// Main runs the program until a signal ends it, and exits. "health" as first argument asks the one that
// runs on this machine instead, --version tells which it is.
func Main(p Program) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := p.execute(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
		os.Exit(1)
	}
}

func (p *Program) execute(ctx context.Context, args []string, out io.Writer) error {
	ask := len(args) > 0 && args[0] == "health"
	if ask {
		args = args[1:]
	}
	err := p.load(args)
	switch {
	case errors.Is(err, config.ErrVersion):
		_, err = fmt.Fprintln(out, VersionLine(p.Name, p.Version))
		return err
	case err != nil:
		return err
	case ask:
		return p.askHealth(ctx)
	}
	return p.run(ctx, out)
}

// VersionLine is what programs answer to --version.
func VersionLine(name, version string) string {
	return fmt.Sprintf("%s %s (%s, %s/%s)", name, version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func (p *Program) load(args []string) error {
	var others []string
	for _, s := range sections {
		if !slices.Contains(p.Own, s) {
			others = append(others, s)
		}
	}
	return config.Load(p.Settings, config.Source{Args: args, File: settingsFile, Others: others, Refused: p.Refused,
		Warn: func(text string) { p.warnings = append(p.warnings, text) }})
}

func (p *Program) run(ctx context.Context, out io.Writer) error {
	if p.Server.Workers > 0 {
		runtime.GOMAXPROCS(p.Server.Workers)
	}
	output, file, err := p.Logging.open(os.Stderr)
	if err != nil {
		return err
	}
	defer file.Close()
	tel, err := telemetry.New(telemetry.Config{Level: p.Logging.Level, Format: p.Logging.Format, Output: output})
	if err != nil {
		return err
	}
	for _, w := range p.warnings {
		tel.Logger.Warn(w)
	}
	roles, err := p.Roles(ctx, tel)
	if err != nil {
		return err
	}
	ready := &readiness{roles: roles}
	if !p.OwnOperations {
		ops, err := serveOperations(p.Server.OpsAddr(), tel, ready)
		if err != nil {
			return err
		}
		defer ops.Close()
	}
	h, err := Start(ctx, tel.Logger, roles...)
	if err != nil {
		return err
	}
	ready.started.Store(true)
	for _, r := range roles {
		if g, ok := r.(Greeter); ok && g.Greeting() != "" {
			fmt.Fprintln(out, g.Greeting())
		}
	}
	err = h.Wait(ctx)
	ready.started.Store(false)
	// No balancer stands before the roles that other nodes call: those hear of the stop from the first role to stop, and
	// call elsewhere. What waits for balancers is the gateway's Stop.
	return errors.Join(err, h.Stop(context.WithoutCancel(ctx), time.Duration(p.Server.ShutdownTimeout)))
}

// serveOperations serves from before the roles start: what takes long can be looked at.
func serveOperations(addr string, tel *telemetry.Telemetry, ready *readiness) (io.Closer, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, dberr.New(dberr.Unavailable, "listen for operations (server.ops_host, server.ops_port): %w", err)
	}
	s := &http.Server{Handler: telemetry.Operations(tel.Registry, ready.check), ReadHeaderTimeout: opsHeaderTimeout}
	go func() { _ = s.Serve(l) }() // ends with Close
	return s, nil
}

// askHealth asks the program that runs with these settings whether it lives.
func (p *Program) askHealth(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Server.OpsAddr()+"/healthz", nil)
	if err != nil {
		return dberr.New(dberr.InvalidArgument, "ask %s: %w", p.Server.OpsAddr(), err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return dberr.New(dberr.Unavailable, "ask %s: %w", p.Server.OpsAddr(), err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return dberr.New(dberr.Unavailable, "%s answered %s", p.Server.OpsAddr(), resp.Status)
	}
	return nil
}
