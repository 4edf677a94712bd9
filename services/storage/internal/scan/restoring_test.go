package scan

import (
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// While a snapshot takes a shard's place, some rows are there and the position is not: nobody reads that.
func TestAShardThatIsBeingReplacedIsNotRead(t *testing.T) {
	db, err := pebble.Open("db", &pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	open := func(shard uint32) error {
		rows, _, err := new(Server).openStored(t.Context(), db, &plan{req: &storagev1.ScanRequest{Shard: shard}, table: &catalog.Table{}}, nil)
		if err == nil {
			err = rows.close()
		}
		return err
	}
	if err := open(3); err != nil {
		t.Errorf("a new shard: %v", err)
	}
	if err := db.Set(keycodec.RestoringKey(3), nil, pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	if err := open(3); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("in the middle: %v", err)
	}
	if err := open(4); err != nil {
		t.Errorf("another shard: %v", err)
	}
}
