package cold

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/partition"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/manifest"
)

func notes() *catalog.Table {
	return (&catalog.Table{ID: 3, Namespace: "app", Name: "notes", Kind: catalog.UserTable, SchemaVersion: 1, Columns: []catalog.Column{
		{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, PrimaryKey: true, NotNull: true},
		{ID: 2, Name: "body", Type: catalog.Type{Kind: catalog.Text}}}}).Index()
}

// shelf writes segments and remembers them.
type shelf struct {
	t       testing.TB
	files   *Files
	entries []manifest.Entry
}

func newShelf(t testing.TB) *shelf { return &shelf{t: t, files: NewFiles(vfs.NewMem(), "segments")} }

// add writes a segment with rows of the ids from first to last in steps, at a _seq.
func (s *shelf) add(seq uint64, first, last, step int) manifest.Entry {
	s.t.Helper()
	table := notes()
	out := Output{Files: s.files, Now: time.Now, Name: func() string { return fmt.Sprint(seq) },
		Commit: func(_ context.Context, seg *storagev1.Segment) error {
			s.entries = append(s.entries, manifest.Entry{Table: table.ID, User: "ann", ID: seq, Segment: seg})
			return nil
		}}
	id := first
	_, err := out.Write(context.Background(), Partition{Table: table, Owner: "ann"}, 0, func(context.Context) ([]byte, keycodec.Version, bool, error) {
		if id > last {
			return nil, keycodec.Version{}, false, nil
		}
		row := rowcodec.NewRow(table)
		row.Put(0, datum.Int(int64(id)))
		row.Put(1, datum.Text(fmt.Sprint(seq)))
		key := keycodec.AppendKeyValues(nil, []datum.Datum{datum.Int(int64(id))})
		id += step
		return key, keycodec.Version{Seq: seq, SchemaVersion: 1, Row: rowcodec.Append(nil, table, &row)}, true, nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.entries[len(s.entries)-1]
}

func (s *shelf) readers(fetch Fetch) *Readers {
	s.t.Helper()
	r, err := NewReaders(s.files, 0, fetch)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(r.Close)
	return r
}

func keyOf(id int) []byte { return keycodec.AppendKeyValues(nil, []datum.Datum{datum.Int(int64(id))}) }

// read returns ids with their _seq.
func read(t testing.TB, r *Readers, entries []manifest.Entry, rng Range) (out []string) {
	t.Helper()
	rng.Table = notes()
	m := r.NewMerge(0, entries, rng)
	defer m.Close()
	for {
		key, v, ok, err := m.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return out
		}
		d, _, err := keycodec.DecodeDatum(key)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%d@%d", d.AsInt(), v.Seq))
	}
}

func TestMergeTakesTheNewestOfEachKey(t *testing.T) {
	s := newShelf(t)
	s.add(10, 0, 6, 2) // 0 2 4 6
	s.add(30, 4, 5, 1) // 4 5
	s.add(20, 1, 4, 1) // 1 2 3 4
	r := s.readers(nil)
	for _, c := range []struct {
		rng  Range
		want string
	}{
		{Range{}, "0@10 1@20 2@20 3@20 4@30 5@30 6@10"},
		{Range{Reverse: true}, "6@10 5@30 4@30 3@20 2@20 1@20 0@10"},
		{Range{Low: keyOf(2), High: keyOf(5)}, "2@20 3@20 4@30"},
		{Range{Low: keyOf(2), High: keyOf(5), Reverse: true}, "4@30 3@20 2@20"},
		{Range{Low: keyOf(7)}, ""},
		{Range{High: keyOf(0)}, ""},
		{Range{High: keyOf(0), Reverse: true}, ""},
	} {
		if got := strings.Join(read(t, r, s.entries, c.rng), " "); got != c.want {
			t.Errorf("%+v: %s, want %s", c.rng, got, c.want)
		}
	}
	for id, want := range []uint64{10, 20, 20, 20, 30, 30, 10, 0} {
		v, ok, err := r.Find(context.Background(), 0, notes(), s.entries, []datum.Datum{datum.Int(int64(id))}, keyOf(id))
		if err != nil || ok != (want > 0) || v.Seq != want {
			t.Errorf("%d: %v %v %v", id, v.Seq, ok, err)
		}
	}
}

// The newest rows of a partition are in its last segment: no other is opened for them.
func TestOnlySegmentsThatAreReachedAreOpened(t *testing.T) {
	s := newShelf(t)
	for n := range 10 {
		s.add(uint64(n+1), n*100, n*100+99, 1)
	}
	r := s.readers(nil)
	m := r.NewMerge(0, s.entries, Range{Table: notes(), Reverse: true})
	defer m.Close()
	for range 50 {
		if _, _, ok, err := m.Next(context.Background()); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if n := r.open.Len(); n != 1 {
		t.Errorf("%d segments are open", n)
	}
}

func TestLargeSegmentsAreReadFromBothEnds(t *testing.T) {
	s := newShelf(t)
	const rows = 20_000 // several row groups
	s.add(5, 0, rows-1, 1)
	r := s.readers(nil)
	if up := read(t, r, s.entries, Range{}); len(up) != rows || up[rows-1] != "19999@5" {
		t.Errorf("%d rows, the last is %s", len(up), up[len(up)-1])
	}
	if down := read(t, r, s.entries, Range{Reverse: true, High: keyOf(8193), Low: keyOf(8190)}); strings.Join(down, " ") != "8192@5 8191@5 8190@5" {
		t.Errorf("%v", down)
	}
	if r.blocks.bytes <= 0 || r.blocks.bytes > r.blocks.max {
		t.Errorf("%d bytes are kept", r.blocks.bytes)
	}
}

func TestBlocksAreBoundedByBytes(t *testing.T) {
	s := newShelf(t)
	s.add(5, 0, 30_000, 1)
	r, err := NewReaders(s.files, 100_000, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n := len(read(t, r, s.entries, Range{})); n != 30_001 {
		t.Errorf("%d rows", n)
	}
	if r.blocks.bytes > 100_000 {
		t.Errorf("%d bytes are kept", r.blocks.bytes)
	}
}

// A file that is missing is fetched once for all who wait, and a failure is not remembered.
func TestMissingFilesAreFetched(t *testing.T) {
	from, s := newShelf(t), newShelf(t)
	e := from.add(5, 0, 9, 1)
	var mu sync.Mutex
	calls, fail := 0, true
	r := s.readers(func(context.Context, uint32, *storagev1.Segment) error {
		mu.Lock()
		defer mu.Unlock()
		if calls++; fail {
			return dberr.New(dberr.Unavailable, "nobody is there")
		}
		s.add(5, 0, 9, 1)
		return nil
	})
	m := r.NewMerge(0, []manifest.Entry{e}, Range{Table: notes()})
	if _, _, _, err := m.Next(context.Background()); !dberr.Is(err, dberr.Unavailable) {
		t.Fatalf("%v", err)
	}
	m.Close()
	fail = false
	var reading sync.WaitGroup
	for range 8 {
		reading.Go(func() {
			if n := len(read(t, r, []manifest.Entry{e}, Range{})); n != 10 {
				t.Errorf("%d rows", n)
			}
		})
	}
	reading.Wait()
	if calls != 2 {
		t.Errorf("fetched %d times", calls)
	}
}

func TestAFileThatIsNotTheSegmentIsNotCommitted(t *testing.T) {
	s := newShelf(t)
	e := s.add(5, 0, 9, 1)
	f, err := s.files.Create("user/ann/other.parquet")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("something")); err != nil {
		t.Fatal(err)
	}
	other := &storagev1.Segment{Path: "user/ann/other.parquet", Bytes: e.GetBytes(), Sha256: e.GetSha256()}
	if err := f.Commit(other); !dberr.Is(err, dberr.Corrupt) {
		t.Errorf("%v", err)
	}
	if s.files.Has(other) {
		t.Error("it is there")
	}
	if list, err := s.files.fs.List("segments/user/ann"); err != nil || len(list) != 1 {
		t.Errorf("%v %v", list, err)
	}
}

// A file goes when nobody has needed it for long enough, even if it is old: somebody may still read what it was part of.
func TestSweep(t *testing.T) {
	s := newShelf(t)
	e := s.add(5, 0, 9, 1)
	needed := func(is bool) func(string) bool { return func(string) bool { return is } }
	for _, step := range []struct {
		needed  bool
		age     time.Duration
		removed int
	}{{true, 0, 0}, {false, time.Hour, 0}, {true, 0, 0}, {false, time.Hour, 0}, {false, 0, 1}, {false, 0, 0}} {
		if n, err := s.files.Sweep(needed(step.needed), step.age); n != step.removed || err != nil {
			t.Errorf("%+v: %d, %v", step, n, err)
		}
	}
	if s.files.Has(e.Segment) {
		t.Error("it is there")
	}
	if list, err := s.files.fs.List("segments"); err != nil || len(list) != 0 {
		t.Errorf("folders are left: %v %v", list, err)
	}
}

func TestNamesInPaths(t *testing.T) {
	user, shared := notes(), notes()
	shared.Kind = catalog.SharedTable
	for want, got := range map[string]string{
		"user/ann/app/notes":          Dir(user, "ann"),
		"user/%41nn/app/notes":        Dir(user, "Ann"),
		"user/%2e./app/notes":         Dir(user, ".."),
		"user/%2fetc%2fx/app/notes":   Dir(user, "/etc/x"),
		"user/%c3%bc%00%25/app/notes": Dir(user, "ü\x00%"),
		"shared/app/notes":            Dir(shared, ""),
		"shared/app/notes/p7":         Dir(shared, partition.Name(7)),
		"user/" + strings.Repeat("a", 200) + "%/" + strings.Repeat("a", 55) + "/app/notes": Dir(user, strings.Repeat("a", 255)),
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// unescape is what another program does to find out whose a folder is.
func unescape(t testing.TB, parts string) string {
	whole := strings.ReplaceAll(parts, "%/", "")
	var b strings.Builder
	for i := 0; i < len(whole); i++ {
		if whole[i] != '%' {
			b.WriteByte(whole[i])
			continue
		}
		var c byte
		if _, err := fmt.Sscanf(whole[i+1:i+3], "%02x", &c); err != nil {
			t.Fatal(err)
		}
		b.WriteByte(c)
		i += 2
	}
	return b.String()
}

func FuzzEscape(f *testing.F) {
	for _, s := range []string{"ann", "..", ".", "A/b\\c", "\x00", strings.Repeat("ü", 120), strings.Repeat("a", partBytesMax) + ".."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if len(name) == 0 || len(name) > 255 {
			return
		}
		e := escape(name)
		if got := unescape(t, e); got != name {
			t.Fatalf("%q became %q", name, got)
		}
		if got, ok := OwnerOf("user/" + e + "/app/notes/batch-1.parquet"); !ok || got != name {
			t.Fatalf("%q is taken for %q", name, got)
		}
		for part := range strings.SplitSeq(e, "/") {
			if part == "" || part == "." || part == ".." || len(part) > 255 {
				t.Fatalf("%q has the part %q", e, part)
			}
		}
		if _, err := NewFiles(vfs.NewMem(), "x").name(e + "/f"); err != nil {
			t.Fatal(err)
		}
	})
}
