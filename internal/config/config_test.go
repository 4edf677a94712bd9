package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

type settings struct {
	Server struct {
		Host string `toml:"host"`
		Port uint32 `toml:"port"`
	} `toml:"server"`
	Storage struct {
		DataPath string `toml:"data_path" env:"KALAMDB_DATA_DIR"`
	} `toml:"storage"`
	Auth struct {
		Secret string   `toml:"jwt_secret" env:"KALAMDB_JWT_SECRET" secret:"true"`
		File   string   `toml:"jwt_secret_file" env:"KALAMDB_JWT_SECRET_FILE" fileof:"jwt_secret"`
		Expiry Duration `toml:"expiry" env:"KALAMDB_EXPIRY_HOURS=h"`
		Issuer []string `toml:"issuers"`
	} `toml:"auth"`
}

func load(t *testing.T, s *settings, file string, env map[string]string, args ...string) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.toml")
	if file != "" {
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Load(s, Source{Args: args, File: path, LookupEnv: func(k string) (string, bool) { v, ok := env[k]; return v, ok }})
}

func TestLaterSourcesWin(t *testing.T) {
	var s settings
	s.Server.Host, s.Server.Port = "127.0.0.1", 8080
	err := load(t, &s, "[server]\nport = 1\nhost = 'file'\n[auth]\nexpiry = '2h'\nissuers = ['a']\n",
		map[string]string{"KALAMDB_SERVER_PORT": "2", "KALAMDB_DATA_DIR": "/d", "KALAMDB_AUTH_ISSUERS": "x, y"},
		"--server.port=3")
	if err != nil {
		t.Fatal(err)
	}
	if s.Server.Host != "file" || s.Server.Port != 3 || s.Storage.DataPath != "/d" ||
		s.Auth.Expiry != Duration(2*time.Hour) || strings.Join(s.Auth.Issuer, "|") != "x|y" {
		t.Fatalf("%+v", s)
	}
}

func TestVariablesWithAUnit(t *testing.T) {
	var s settings
	if err := load(t, &s, "", map[string]string{"KALAMDB_EXPIRY_HOURS": "36"}); err != nil || s.Auth.Expiry != Duration(36*time.Hour) {
		t.Fatalf("%v, %v", s.Auth.Expiry, err)
	}
	if err := load(t, &s, "", map[string]string{"KALAMDB_EXPIRY_HOURS": "soon"}); !dberr.Is(err, dberr.InvalidArgument) ||
		!strings.Contains(err.Error(), "KALAMDB_EXPIRY_HOURS:") {
		t.Fatal(err)
	}
}

func TestMistakesAreNamedAndSecretsAreNot(t *testing.T) {
	for _, c := range []struct {
		file string
		env  map[string]string
		args []string
		want string
	}{
		{file: "[server]\nprot = 1\n", want: "prot"},
		{file: "[server\n", want: "server.toml"},
		{env: map[string]string{"KALAMDB_SERVER_PORT": "hunter2"}, want: "KALAMDB_SERVER_PORT"},
		{args: []string{"--server.port", "-1"}, want: "--server.port"},
		{args: []string{"--auth.expiry=soon"}, want: "--auth.expiry"},
		{args: []string{"--nope"}, want: "nope"},
		{args: []string{"serve"}, want: "serve"},
	} {
		var s settings
		err := load(t, &s, c.file, c.env, c.args...)
		if !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want it to name %q", err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the value is in the error: %v", err)
		}
	}
}

func TestSecretsFromFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	if err := os.WriteFile(path, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var s settings
	if err := load(t, &s, "", map[string]string{"KALAMDB_JWT_SECRET_FILE": path}); err != nil || s.Auth.Secret != "hunter2" {
		t.Errorf("a variable names the file: %q, %v", s.Auth.Secret, err)
	}
	s = settings{}
	if err := load(t, &s, "[auth]\njwt_secret_file = '"+path+"'\n", nil); err != nil || s.Auth.Secret != "hunter2" {
		t.Errorf("the configuration names it: %q, %v", s.Auth.Secret, err)
	}
	s = settings{}
	err := load(t, &s, "[auth]\njwt_secret = 'hunter3'\n", map[string]string{"KALAMDB_JWT_SECRET_FILE": path})
	if !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), "auth.jwt_secret and auth.jwt_secret_file") || strings.Contains(err.Error(), "hunter") {
		t.Errorf("both: %v", err)
	}
	s = settings{}
	err = load(t, &s, "", nil, "--auth.jwt_secret_file="+filepath.Join(dir, "absent"))
	if !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), "auth.jwt_secret_file") {
		t.Errorf("no such file: %v", err)
	}
}

func TestAFileThatEverybodyReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	for mode, want := range map[os.FileMode]int{0o600: 0, 0o644: 1} {
		if err := os.WriteFile(path, []byte("hunter2"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		var s settings
		var warnings []string
		err := Load(&s, Source{Args: []string{"--auth.jwt_secret_file=" + path}, LookupEnv: func(string) (string, bool) { return "", false },
			Warn: func(text string) { warnings = append(warnings, text) }})
		if err != nil || len(warnings) != want {
			t.Errorf("mode %o: %q, %v", mode, warnings, err)
		}
		for _, w := range warnings {
			if !strings.Contains(w, path) || strings.Contains(w, "hunter2") {
				t.Errorf("mode %o: %q", mode, w)
			}
		}
	}
}

func TestSecretsAreMasked(t *testing.T) {
	var s settings
	s.Auth.Secret = "hunter2"
	for _, k := range Keys(&s) {
		if strings.Contains(k.Value(), "hunter2") {
			t.Errorf("%s shows its value", k.Name)
		}
		if k.Name == "auth.jwt_secret" && k.Value() != "***" {
			t.Errorf("%s shows %q", k.Name, k.Value())
		}
	}
}

func TestOtherProgramsSections(t *testing.T) {
	file := filepath.Join(t.TempDir(), "server.toml")
	from := func(text string, env map[string]string, src Source) error {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		src.File = file
		src.LookupEnv = func(k string) (string, bool) { v, ok := env[k]; return v, ok }
		return Load(&settings{}, src)
	}
	shared := Source{Others: []string{"query", "server", "cluster"}}
	const others = "[query]\nthreads = 4\n[query.deep]\nx = 1\n[server]\nshown_by = 'another'\nport = 3\n"
	if err := from(others, nil, shared); err != nil {
		t.Fatal(err)
	}
	if err := from(others, nil, Source{Others: []string{"query"}}); !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), "shown_by") {
		t.Errorf("an unknown key in its own section: %v", err)
	}
	if err := from(others+"[storage]\nnope = 1\n", nil, shared); !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), "nope") {
		t.Errorf("an unknown key beside those of others: %v", err)
	}
	if err := from("[server]\nport = 'x'\n[query]\nthreads = 4\n", nil, shared); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("a bad value beside a section of others: %v", err)
	}

	refusing := shared
	refusing.Refused = []Refused{{Section: "cluster", Variables: []string{"KALAMDB_CLUSTER_JOIN"}, Reason: "start another program"}}
	for _, text := range []string{"[cluster]\n", "[query]\nthreads = 4\n[cluster]\nname = 'x'\n"} {
		if err := from(text, nil, refusing); !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), "[cluster]: start another program") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := from("", map[string]string{"KALAMDB_CLUSTER_JOIN": "h:1"}, refusing); !dberr.Is(err, dberr.InvalidArgument) ||
		!strings.Contains(err.Error(), "KALAMDB_CLUSTER_JOIN is set: start another program") {
		t.Errorf("a variable: %v", err)
	}
	if err := from(others, map[string]string{"KALAMDB_CLUSTER_JOIN": ""}, refusing); err != nil {
		t.Errorf("an empty variable: %v", err)
	}
}

func TestHelpAndVersion(t *testing.T) {
	if err := load(t, &settings{}, "", nil, "--version"); !errors.Is(err, ErrVersion) {
		t.Error(err)
	}
	if err := load(t, &settings{}, "", nil, "--version=false"); err != nil {
		t.Error(err)
	}
}

func FuzzSet(f *testing.F) {
	f.Add("24h", "a, b", "8080")
	f.Fuzz(func(t *testing.T, duration, list, port string) {
		var s settings
		_ = load(t, &s, "", map[string]string{"KALAMDB_AUTH_EXPIRY": duration})
		_ = load(t, &s, "", map[string]string{"KALAMDB_AUTH_ISSUERS": list})
		for _, issuer := range s.Auth.Issuer {
			if issuer == "" || issuer != strings.TrimSpace(issuer) {
				t.Fatalf("%q gave %q", list, s.Auth.Issuer)
			}
		}
		_ = load(t, &s, "", map[string]string{"KALAMDB_SERVER_PORT": port})
	})
}
