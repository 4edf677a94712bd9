package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	"github.com/kalamdb/kalamdb-go/tests/client"
	"github.com/kalamdb/kalamdb-go/tests/process"
)

// sharedConns is how many connections the clients of a work share.
const sharedConns = 4

// contenders are the servers of one run.
type contenders struct {
	dir    string
	kalam  *process.Server
	root   *client.Client
	conns  []kalamv1.KalamServiceClient
	floor  []kalamv1.KalamServiceClient
	pg     *postgres
	closes []func()
}

func startContenders(ctx context.Context, s settings, dir string) (c *contenders, err error) {
	c = &contenders{dir: dir}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	c.kalam, err = process.Start(ctx, process.Options{Binary: s.server, DataDir: filepath.Join(dir, "kalam", "data"), Env: serverEnv})
	if err != nil {
		return nil, err
	}
	c.closes = append(c.closes, c.kalam.Kill)
	addr, stop, err := startFloor(ctx, filepath.Join(dir, "floor"))
	if err != nil {
		return nil, err
	}
	c.closes = append(c.closes, stop)
	if c.pg, err = startPostgres(ctx, filepath.Join(dir, "postgres"), s.workers+1); err != nil {
		return nil, err
	}
	c.closes = append(c.closes, func() { _ = c.pg.stop() })
	if c.root, err = client.Dial(c.kalam.GRPCAddr, "root", c.kalam.RootPassword); err != nil {
		return nil, err
	}
	if _, err := c.root.Exec(ctx, "CREATE NAMESPACE bench"); err != nil {
		return nil, err
	}
	for range sharedConns {
		k, err := c.dial(c.kalam.GRPCAddr)
		if err != nil {
			return nil, err
		}
		f, err := c.dial(addr)
		if err != nil {
			return nil, err
		}
		c.conns, c.floor = append(c.conns, k), append(c.floor, f)
	}
	return c, nil
}

// serverEnv turns off what would measure the limits and not the server.
var serverEnv = []string{"KALAMDB_RATE_LIMIT_MAX_QUERIES_PER_SEC=0", "KALAMDB_AUTH_BCRYPT_COST=4",
	"KALAMDB_RATE_LIMIT_MAX_SUBSCRIPTIONS_PER_USER=100000"}

func (c *contenders) dial(addr string) (kalamv1.KalamServiceClient, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	c.closes = append(c.closes, func() { _ = conn.Close() })
	return kalamv1.NewKalamServiceClient(conn), nil
}

func (c *contenders) stop() {
	for i := len(c.closes) - 1; i >= 0; i-- {
		c.closes[i]()
	}
}

const benchPassword = "bench-Password-1"

// asUser makes the calls of ctx act for a user made by account.
func asUser(ctx context.Context, user string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization",
		"Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+benchPassword)))
}

// accounts makes n accounts and checks each credential once, so that only cached checks are measured.
func (c *contenders) accounts(ctx context.Context, users []string) error {
	for _, u := range users {
		if _, err := c.root.Exec(ctx, fmt.Sprintf("CREATE USER IF NOT EXISTS '%s' WITH PASSWORD '%s'", u, benchPassword)); err != nil {
			return err
		}
		if _, err := c.conns[0].Execute(asUser(ctx, u), &kalamv1.ExecuteRequest{Sql: "SELECT 1"}); err != nil {
			return err
		}
	}
	return nil
}

// syncFile is a file for plain fdatasync.
func (c *contenders) syncFile() (*os.File, error) {
	return os.OpenFile(filepath.Join(c.dir, "fdatasync"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}
