// Command kalamdb-certs makes a cluster's certificate authority and its nodes' certificates. Run again, it
// keeps the authority and makes new node certificates, which running nodes take over by themselves.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/kalamdb/kalamdb-go/internal/host"
	"github.com/kalamdb/kalamdb-go/internal/nodecert"
)

// version is set by the Makefile.
var version = "dev"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "kalamdb-certs:", err)
		os.Exit(1)
	}
}

// settings are the flags.
type settings struct {
	dir, cluster     string
	split, keep      bool
	roles            []string
	authority, valid time.Duration
}

// authorityDir is the authority's folder.
func (s *settings) authorityDir() string {
	if s.split {
		return filepath.Join(s.dir, "authority")
	}
	return s.dir
}

// dirOf is a role's folder.
func (s *settings) dirOf(role string) string {
	if s.split {
		return filepath.Join(s.dir, role)
	}
	return s.dir
}

func run(args []string, out io.Writer) error {
	s := settings{}
	flags := pflag.NewFlagSet("kalamdb-certs", pflag.ContinueOnError)
	flags.StringVar(&s.dir, "dir", env("KALAMDB_CLUSTER_CERTS_DIR", "certs"), "folder of the certificates")
	flags.StringVar(&s.cluster, "cluster", env("KALAMDB_CLUSTER_NAME", "kalamdb"), "name of the cluster (cluster.name)")
	flags.DurationVar(&s.authority, "authority-valid", 10*365*24*time.Hour, "how long a new authority is good")
	flags.DurationVar(&s.valid, "valid", 365*24*time.Hour, "how long the nodes' certificates are good")
	flags.BoolVar(&s.keep, "keep", false, "keep node certificates that exist")
	flags.StringSliceVar(&s.roles, "roles", nodecert.Roles, "roles to make certificates for")
	flags.BoolVar(&s.split, "split", false, "a folder below dir for each role, which holds only what its nodes need, and one for the authority")
	tell := flags.Bool("version", false, "tell the version and end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *tell {
		fmt.Fprintln(out, host.VersionLine("kalamdb-certs", version))
		return nil
	}
	if len(s.roles) == 0 {
		return fmt.Errorf("--roles: no role; the roles are %s", strings.Join(nodecert.Roles, ", "))
	}
	for _, role := range s.roles {
		if !slices.Contains(nodecert.Roles, role) {
			return fmt.Errorf("--roles: there is no role %q; the roles are %s", role, strings.Join(nodecert.Roles, ", "))
		}
	}
	if err := s.make(); err != nil {
		return err
	}
	fmt.Fprintf(out, "certificates of cluster %s are in %s; keep %s to yourself\n", s.cluster, s.dir, filepath.Join(s.authorityDir(), nodecert.CAKeyFile))
	return nil
}

func (s *settings) make() error {
	a, err := nodecert.LoadAuthority(s.authorityDir())
	if _, missing := os.Stat(filepath.Join(s.authorityDir(), nodecert.CAKeyFile)); errors.Is(missing, os.ErrNotExist) {
		if a, err = nodecert.NewAuthority(s.cluster, s.authority); err == nil {
			err = a.Save(s.authorityDir())
		}
	}
	if err != nil {
		return err
	}
	for _, role := range s.roles {
		dir := s.dirOf(role)
		if _, err := os.Stat(filepath.Join(dir, role+".crt")); s.keep && err == nil {
			continue
		}
		if s.split {
			if err := a.SaveCertificate(dir); err != nil {
				return err
			}
		}
		if err := a.Issue(dir, s.cluster, role, s.valid); err != nil {
			return err
		}
	}
	return nil
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
