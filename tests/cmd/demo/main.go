// Command demo loads real chat data into a running server (or one of its own) and shows what the
// database does with it: a table per person, a shared log, search, joins, and live messages.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/kalamdb/kalamdb-go/tests/client"
	"github.com/kalamdb/kalamdb-go/tests/process"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	data := flag.String("data", "../shared/data/ubuntu-irc", "folder with messages.ndjson.gz; a small sample is made when it is absent")
	url := flag.String("url", "", "gRPC address of a running server; empty starts one of its own")
	user := flag.String("user", "root", "account used at a running server")
	password := flag.String("password", os.Getenv("KALAMDB_ROOT_PASSWORD"), "its password")
	server := flag.String("server", "bin/kalamdb", "server binary, for one of its own")
	counts := flag.String("counts", "", "write every person's row count, as the database tells it, to this file")
	flag.Parse()

	addr := *url
	if addr == "" {
		dir, err := os.MkdirTemp("", "kalamdb-demo-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		own, err := process.Start(ctx, process.Options{Binary: *server, DataDir: filepath.Join(dir, "data"),
			Env: []string{"KALAMDB_RATE_LIMIT_MAX_QUERIES_PER_SEC=0"}})
		if err != nil {
			return err
		}
		defer own.Kill()
		addr, *user, *password = own.GRPCAddr, "root", own.RootPassword
		fmt.Printf("started a server of its own on %s\n", addr)
	}
	c, err := client.Dial(addr, *user, *password)
	if err != nil {
		return err
	}
	defer c.Close()

	chat, err := readChat(*data)
	if err != nil {
		return err
	}
	d := &demo{addr: addr, root: c, chat: chat}
	for _, step := range []func(context.Context) error{d.createTables, d.loadPeople, d.loadChannelLog, d.checkCounts, d.checkIsolation, d.show} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if *counts != "" {
		return d.writeCounts(*counts)
	}
	return nil
}
