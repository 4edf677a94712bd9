package allinone

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/config"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// from loads settings as the program does.
func from(t *testing.T, file string, env map[string]string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server.toml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Defaults()
	err := config.Load(&cfg, config.Source{File: path, Others: []string{"cluster"}, Refused: Refused,
		LookupEnv: func(k string) (string, bool) { v, ok := env[k]; return v, ok }})
	return cfg, err
}

func TestSettingsOfAClusterAreRefused(t *testing.T) {
	for _, c := range []struct {
		file string
		env  map[string]string
	}{
		{file: "[cluster]\nname = 'x'\n"},
		{env: map[string]string{"KALAMDB_CLUSTER_JOIN": "h:9090"}},
		{env: map[string]string{"KALAMDB_CLUSTER_PEERS": "2@h:9090"}},
	} {
		_, err := from(t, c.file, c.env)
		if !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), "kalamdb-storage") {
			t.Errorf("%q, %v: %v", c.file, c.env, err)
		}
	}
}

func TestVariablesOfTheOriginal(t *testing.T) {
	cfg, err := from(t, "", map[string]string{"KALAMDB_SERVER_HOST": "0.0.0.0", "KALAMDB_SERVER_PORT": "1", "KALAMDB_SERVER_WORKERS": "3",
		"KALAMDB_SERVER_PUBLIC_ORIGIN": "https://db", "KALAMDB_LOG_LEVEL": "warn", "KALAMDB_LOGS_DIR": "/l", "KALAMDB_LOG_TO_CONSOLE": "false",
		"KALAMDB_DATA_DIR": "/d", "KALAMDB_ROOT_PASSWORD": "p", "KALAMDB_NODE_ID": "7"})
	if err != nil {
		t.Fatal(err)
	}
	s := cfg.Server
	if s.Host != "0.0.0.0" || s.Port != 1 || s.Workers != 3 || s.PublicOrigin != "https://db" || s.NodeID != 7 || cfg.Logging.Level != "warn" ||
		cfg.Logging.Path != "/l" || cfg.Logging.Console || cfg.Storage.DataPath != "/d" || cfg.Auth.RootPassword != "p" {
		t.Fatalf("%+v", cfg)
	}
}

func TestSecretsFromFiles(t *testing.T) {
	dir := t.TempDir()
	env := map[string]string{}
	for variable, secret := range map[string]string{"KALAMDB_ROOT_PASSWORD_FILE": "of root", "KALAMDB_JWT_SECRET_FILE": "of tokens"} {
		env[variable] = filepath.Join(dir, variable)
		if err := os.WriteFile(env[variable], []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := from(t, "", env)
	if err != nil || cfg.Auth.RootPassword != "of root" || cfg.Auth.JWTSecret != "of tokens" {
		t.Errorf("%q, %q, %v", cfg.Auth.RootPassword, cfg.Auth.JWTSecret, err)
	}
	env["KALAMDB_ROOT_PASSWORD"] = "another"
	if _, err := from(t, "", env); !dberr.Is(err, dberr.InvalidArgument) || !strings.Contains(err.Error(), "auth.root_password_file") {
		t.Errorf("both: %v", err)
	}
}

// Two settings must not read one variable: one would be set unnoticed.
func TestVariablesAreUnique(t *testing.T) {
	cfg, owner := Defaults(), map[string]string{}
	for _, k := range config.Keys(&cfg) {
		for _, name := range k.Env {
			name, _, _ = strings.Cut(name, "=")
			if other, taken := owner[name]; taken {
				t.Errorf("%s is of %s and of %s", name, other, k.Name)
			}
			owner[name] = k.Name
		}
		if k.Doc == "" {
			t.Errorf("%s has no help", k.Name)
		}
	}
}
