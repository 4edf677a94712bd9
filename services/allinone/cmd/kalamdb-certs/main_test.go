package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func filesBelow(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, _ := filepath.Rel(dir, path)
			out = append(out, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Who takes over a node must not find other roles' keys there, and least of all the authority's.
func TestEachRoleGetsItsOwnFolder(t *testing.T) {
	dir := t.TempDir()
	args := []string{"--dir=" + dir, "--cluster=c", "--split", "--keep", "--roles=storage,gateway"}
	if err := run(args, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	want := []string{"authority/ca.crt", "authority/ca.key", "gateway/ca.crt", "gateway/gateway.crt", "gateway/gateway.key",
		"storage/ca.crt", "storage/storage.crt", "storage/storage.key"}
	if got := filesBelow(t, dir); !slices.Equal(got, want) {
		t.Fatalf("files %v, want %v", got, want)
	}
	roots := x509.NewCertPool()
	read := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if !roots.AppendCertsFromPEM(read("storage/ca.crt")) {
		t.Fatal("no authority in the role's folder")
	}
	first := read("gateway/gateway.crt")
	block, _ := pem.Decode(first)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots}); err != nil {
		t.Errorf("the gateway's certificate by storage's authority: %v", err)
	}
	if err := run(args, &bytes.Buffer{}); err != nil || !bytes.Equal(read("gateway/gateway.crt"), first) {
		t.Errorf("made again though it was to be kept: %v", err)
	}
}

func TestARoleThatDoesNotExist(t *testing.T) {
	if err := run([]string{"--dir=" + t.TempDir(), "--roles=storge"}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), `no role "storge"`) {
		t.Errorf("%v", err)
	}
}

func TestNoRoleMakesNothing(t *testing.T) {
	if err := run([]string{"--dir=" + t.TempDir(), "--roles="}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "no role;") {
		t.Errorf("%v", err)
	}
}

// While an authority is being replaced the nodes trust two, and new certificates by one must not end the trust in the other.
func TestOtherAuthoritiesStay(t *testing.T) {
	dir := t.TempDir()
	args := []string{"--dir=" + dir, "--cluster=c", "--split", "--roles=storage"}
	if err := run(args, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{"--dir=" + filepath.Join(dir, "next"), "--cluster=c", "--roles=storage"}, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	trusted := filepath.Join(dir, "storage", "ca.crt")
	one, err := os.ReadFile(trusted)
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(filepath.Join(dir, "next", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	both := append(two, one...)
	if err := os.WriteFile(trusted, both, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(args, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(trusted); err != nil || !bytes.Equal(got, both) {
		t.Errorf("the other authority is trusted no more: %v", err)
	}
	if err := os.WriteFile(trusted, two, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(args, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(trusted); err != nil || !bytes.Equal(got, one) {
		t.Errorf("an authority that did not issue the certificates stayed: %v", err)
	}
}
