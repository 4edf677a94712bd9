// Command kalamdb is the KalamDB server: every role in one process.
package main

import (
	"context"
	"os"

	"github.com/kalamdb/kalamdb-go/internal/host"
	"github.com/kalamdb/kalamdb-go/internal/telemetry"
	"github.com/kalamdb/kalamdb-go/services/allinone"
)

// version is set by the Makefile.
var version = "dev"

func main() {
	cfg := allinone.Defaults()
	host.Main(host.Program{Name: "kalamdb", Version: version, Settings: &cfg, Server: &cfg.Server.Server, Logging: &cfg.Logging,
		Own: allinone.Sections, Refused: allinone.Refused, OwnOperations: true,
		Roles: func(_ context.Context, tel *telemetry.Telemetry) ([]host.Role, error) {
			return allinone.Roles(cfg, version, tel, os.Stdout)
		}})
}
