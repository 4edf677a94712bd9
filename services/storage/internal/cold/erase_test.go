package cold

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

func TestFilesOfAnErasedUserGoAndNoneCome(t *testing.T) {
	fs := vfs.NewMem()
	f := NewFiles(fs, "segments")
	closed := ""
	f.Allow = func(user string) error {
		if user == closed {
			return dberr.New(dberr.UserNotFound, "closed")
		}
		return nil
	}
	for _, p := range []string{"user/eve/app/notes/a.parquet", "user/eve/app/notes/manifest.json", "user/eve/app/more/b.parquet",
		"user/eve2/app/notes/c.parquet", "shared/app/eve/d.parquet"} {
		if err := f.Replace(p, []byte("rows")); err != nil {
			t.Fatal(err)
		}
	}
	unfinished, err := f.Create("user/eve/app/notes/late.parquet")
	if err != nil {
		t.Fatal(err)
	}
	closed = "eve"
	if n, err := f.RemoveUser("eve"); n != 4 || err != nil { // three, and what is unfinished
		t.Errorf("%d files, %v", n, err)
	}
	if err := unfinished.publish("user/eve/app/notes/late.parquet"); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("a file that was begun before: %v", err)
	}
	if err := f.Replace("user/eve/app/notes/new.parquet", nil); !dberr.Is(err, dberr.UserNotFound) {
		t.Errorf("a new file: %v", err)
	}
	if _, err := fs.Stat("segments/user/eve"); err == nil {
		t.Error("the folder is still there")
	}
	for _, p := range []string{"user/eve2/app/notes/c.parquet", "shared/app/eve/d.parquet"} {
		if _, err := f.ReadAll(p); err != nil {
			t.Error(err)
		}
	}
	if n, err := f.RemoveUser("eve"); n != 0 || err != nil {
		t.Errorf("again: %d files, %v", n, err)
	}
}
