package identity

import (
	"bytes"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func TestWhatWasSavedSurvivesACrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	if err := fs.MkdirAll("d", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, found, err := Load(fs, "d"); found || err != nil {
		t.Fatalf("in an empty directory: %v, %v", found, err)
	}
	id, err := New(7, bytes.NewReader([]byte{1, 2, 0xAB, 4}))
	if err != nil || id.ServerID != "n7-0102ab04" {
		t.Fatalf("made %+v, %v", id, err)
	}
	for _, cluster := range []string{"", "c1"} {
		id.ClusterID, id.Founder = cluster, cluster != ""
		if err := Save(fs, "d", id); err != nil {
			t.Fatal(err)
		}
		// The directory itself is made durable by its owner.
		root, err := fs.OpenDir("/")
		if err != nil {
			t.Fatal(err)
		}
		if err := root.Sync(); err != nil {
			t.Fatal(err)
		}
		got, found, err := Load(fs.CrashClone(vfs.CrashCloneCfg{}), "d")
		if got != id || !found || err != nil {
			t.Errorf("after a crash: %+v, %v, %v", got, found, err)
		}
	}
}

func TestAnotherFormatOrContentIsRefused(t *testing.T) {
	for text, code := range map[string]dberr.Code{
		`{"format":2,"server_id":"n1"}`: dberr.Unsupported, `{"format":1}`: dberr.Corrupt, `{}`: dberr.Corrupt, ``: dberr.Corrupt,
		strings.Repeat(" ", bytesMax) + `{"format":1,"server_id":"n1"}`: dberr.Corrupt} {
		if _, err := decode([]byte(text)); !dberr.Is(err, code) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"format":1,"node_id":3,"server_id":"n3-00000001","cluster_id":"c","founder":true}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		id, err := decode(raw)
		if err != nil {
			if !dberr.Is(err, dberr.Corrupt) && !dberr.Is(err, dberr.Unsupported) {
				t.Fatal(err)
			}
			return
		}
		fs := vfs.NewMem()
		if err := Save(fs, "", id); err != nil {
			t.Fatal(err)
		}
		if again, _, err := Load(fs, ""); again != id || err != nil {
			t.Fatalf("%+v became %+v, %v", id, again, err)
		}
	})
}
