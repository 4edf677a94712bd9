package config

import (
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
