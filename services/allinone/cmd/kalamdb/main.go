// Command kalamdb is the KalamDB server: every role in one process.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/telemetry"
	"github.com/kalamdb/kalamdb-go/services/allinone"
)

// version is set by the Makefile.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "kalamdb:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg := allinone.Defaults()
	if err := config.Load(&cfg, config.Source{Args: os.Args[1:], File: "server.toml"}); err != nil {
		return err
	}
	tel, err := telemetry.New(telemetry.Config{Level: cfg.Logging.Level, Format: cfg.Logging.Format, Output: os.Stderr})
	if err != nil {
		return err
	}
	node, err := allinone.Start(ctx, cfg, version, tel, os.Stdout)
	if err != nil {
		return err
	}
	g := node.Gateway()
	fmt.Printf("KalamDB %s is ready: HTTP and WebSocket on %s, gRPC and Flight SQL on %s. Ctrl-C stops it.\n",
		version, g.HTTPAddr(), g.GRPCAddr())
	err = node.Wait(ctx)
	return errors.Join(err, node.Stop(context.WithoutCancel(ctx)))
}
