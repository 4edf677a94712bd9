// Command kalamdb-certs makes a cluster's certificate authority and its nodes' certificates. Run again, it
// keeps the authority and makes new node certificates, which running nodes take over by themselves.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/kalamdb/kalamdb-go/internal/host"
	"github.com/kalamdb/kalamdb-go/internal/nodecert"
)

// version is set by the Makefile.
var version = "dev"

func main() {
	if err := run(); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "kalamdb-certs:", err)
		os.Exit(1)
	}
}

func run() error {
	flags := pflag.NewFlagSet("kalamdb-certs", pflag.ContinueOnError)
	dir := flags.String("dir", env("KALAMDB_CLUSTER_CERTS_DIR", "certs"), "folder of the certificates")
	cluster := flags.String("cluster", env("KALAMDB_CLUSTER_NAME", "kalamdb"), "name of the cluster (cluster.name)")
	authority := flags.Duration("authority-valid", 10*365*24*time.Hour, "how long a new authority is good")
	valid := flags.Duration("valid", 365*24*time.Hour, "how long the nodes' certificates are good")
	keep := flags.Bool("keep", false, "keep node certificates that exist")
	tell := flags.Bool("version", false, "tell the version and end")
	if err := flags.Parse(os.Args[1:]); err != nil {
		return err
	}
	if *tell {
		fmt.Println(host.VersionLine("kalamdb-certs", version))
		return nil
	}
	a, err := nodecert.LoadAuthority(*dir)
	if _, missing := os.Stat(filepath.Join(*dir, nodecert.CAKeyFile)); errors.Is(missing, os.ErrNotExist) {
		if a, err = nodecert.NewAuthority(*cluster, *authority); err == nil {
			err = a.Save(*dir)
		}
	}
	if err != nil {
		return err
	}
	for _, role := range nodecert.Roles {
		if _, err := os.Stat(filepath.Join(*dir, role+".crt")); *keep && err == nil {
			continue
		}
		if err := a.Issue(*dir, *cluster, role, *valid); err != nil {
			return err
		}
	}
	fmt.Printf("certificates of cluster %s are in %s; keep %s to yourself\n", *cluster, *dir, filepath.Join(*dir, nodecert.CAKeyFile))
	return nil
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
