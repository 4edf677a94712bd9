package sqltest

import (
	"encoding/base64"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/kalamdb/kalamdb-go/services/storage"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

// TestBackup is apart from the others: it needs a master key, and its jobs come one after the other.
func TestBackup(t *testing.T) {
	c := cluster.Start(t, cluster.Storage(func(cfg *storage.Config) {
		cfg.MasterKey = base64.StdEncoding.EncodeToString([]byte("a master key has exactly 32 byte"))
	}))
	datadriven.RunTest(t, "backupdata/backup.txt", func(t *testing.T, d *datadriven.TestData) string {
		if d.Cmd == "jobs" {
			return jobs(t, c, d)
		}
		return jobID.ReplaceAllString(exec(t, c, d), "$1-…")
	})
}
