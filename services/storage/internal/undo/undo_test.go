package undo

import (
	"math"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowcodec"
	"github.com/kalamdb/kalamdb-go/internal/snowflake"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/changelog"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

const shard = 3

var notes = (&catalog.Table{ID: 9, Namespace: "app", Name: "notes", Kind: catalog.UserTable, SchemaVersion: 1, Columns: []catalog.Column{
	{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true, PrimaryKey: true},
	{ID: 2, Name: "body", Type: catalog.Type{Kind: catalog.Text}}}}).Index()

func note(id int, body string) []byte {
	if body == "" {
		return nil
	}
	row := rowcodec.NewRow(notes)
	row.Put(0, datum.Int(int64(id)))
	row.Put(1, datum.Text(body))
	return rowcodec.Append(nil, notes, &row)
}

func keyOf(id int) string {
	return string(keycodec.AppendKeyValues(nil, []datum.Datum{datum.Int(int64(id))}))
}

// change is one change of a row: from a body to another, "" is none.
type change struct {
	seq      uint64
	id       int
	old, new string
}

func logOf(t *testing.T, user string, changes ...change) *pebble.DB {
	t.Helper()
	db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem(), DisableWAL: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	b := db.NewBatch()
	for _, c := range changes {
		kind := storagev1.ChangeKind_CHANGE_KIND_UPDATE
		switch {
		case c.old == "":
			kind = storagev1.ChangeKind_CHANGE_KIND_INSERT
		case c.new == "":
			kind = storagev1.ChangeKind_CHANGE_KIND_DELETE
		}
		if err := changelog.Append(b, shard, notes.ID, user, &storagev1.Change{Kind: kind, Seq: c.seq, Row: note(c.id, c.new), OldRow: note(c.id, c.old)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		t.Fatal(err)
	}
	return db
}

func of(user string) Partition { return Partition{Shard: shard, Table: notes, User: user} }

// shown is what a plan says of rows 1 to 4.
func shown(t *testing.T, p *Plan) string {
	t.Helper()
	text := ""
	for id := 1; id <= 4; id++ {
		row, known, err := p.Row(keyOf(id))
		if err != nil || known != p.Has(keyOf(id)) {
			t.Fatal(known, err)
		}
		switch {
		case !known:
			text += "as it is; "
		case row == nil:
			text += "none; "
		default:
			r := rowcodec.NewRow(notes)
			if err := rowcodec.Decode(row, notes, &r); err != nil {
				t.Fatal(err)
			}
			text += r.Values[1].AsText() + "; "
		}
	}
	return text
}

func TestTheOldestChangeSaysWhatARowWas(t *testing.T) {
	db := logOf(t, "ann", change{10, 1, "", "a"}, change{11, 1, "a", "b"}, change{12, 2, "", "x"}, change{13, 1, "b", ""}, change{14, 1, "", "c"},
		change{15, 3, "old", ""}, change{16, 2, "x", "y"}, change{17, 3, "", "new"})
	for _, c := range []struct {
		after, until uint64
		want         string
	}{
		{0, math.MaxUint64, "none; none; old; as it is; "},
		{10, math.MaxUint64, "a; none; old; as it is; "},
		{12, math.MaxUint64, "b; x; old; as it is; "},
		{13, math.MaxUint64, "none; x; old; as it is; "},
		{15, math.MaxUint64, "as it is; x; none; as it is; "},
		{10, 12, "a; none; as it is; as it is; "},
		{12, 12, "as it is; as it is; as it is; as it is; "},
		{17, math.MaxUint64, "as it is; as it is; as it is; as it is; "},
	} {
		p, err := Read(t.Context(), db, of("ann"), c.after, c.until, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got := shown(t, p); got != c.want {
			t.Errorf("after %d until %d: %s, want %s", c.after, c.until, got, c.want)
		}
	}
	p, err := Read(t.Context(), db, of("bob"), 0, math.MaxUint64, Limits{})
	if err != nil || len(p.Keys()) != 0 {
		t.Errorf("another user has %d changes, %v", len(p.Keys()), err)
	}
}

// What undoes changes is in the log, too: from it and the rest the same follows.
func TestAPlanIsTheSameBehindItsOwnWrites(t *testing.T) {
	changes := []change{{10, 1, "a", "b"}, {11, 2, "", "x"}, {12, 3, "old", ""}}
	undone := append(changes, change{20, 1, "b", "a"}, change{21, 2, "x", ""}, change{22, 3, "", "old"})
	for n := len(changes); n <= len(undone); n++ {
		p, err := Read(t.Context(), logOf(t, "ann", undone[:n]...), of("ann"), 9, math.MaxUint64, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got := shown(t, p); got != "a; none; old; as it is; " {
			t.Errorf("behind %d writes: %s", n-len(changes), got)
		}
	}
}

func TestAPlanReadsOnBehindAPage(t *testing.T) {
	var changes []change
	const many = 2000
	for i := range many {
		changes = append(changes, change{uint64(i + 1), i % 700, "old", "new"})
	}
	p, err := Read(t.Context(), logOf(t, "ann", changes...), of("ann"), 100, math.MaxUint64, Limits{})
	if err != nil || len(p.Keys()) != 700 || p.Keys()[0] != keyOf(100) {
		t.Errorf("%d keys, %v", len(p.Keys()), err)
	}
}

func TestLimits(t *testing.T) {
	db := logOf(t, "ann", change{10, 1, "", "a"}, change{11, 2, "", "b"}, change{12, 1, "a", "c"})
	for want, lim := range map[dberr.Code]Limits{"": {Keys: 2}, dberr.LimitExceeded: {Keys: 1}} {
		if _, err := Read(t.Context(), db, of("ann"), 0, math.MaxUint64, lim); (err == nil) != (want == "") || err != nil && !dberr.Is(err, want) {
			t.Errorf("%v: %v", lim, err)
		}
	}
	if _, err := Read(t.Context(), db, of("ann"), 0, math.MaxUint64, Limits{KeyBytes: len(keyOf(1))}); !dberr.Is(err, dberr.LimitExceeded) {
		t.Error(err)
	}
}

func TestAChangeThatDoesNotTellIsRefused(t *testing.T) {
	for _, ch := range []*storagev1.Change{{Kind: storagev1.ChangeKind_CHANGE_KIND_UPDATE, Seq: 5, Row: note(1, "new")},
		{Kind: storagev1.ChangeKind_CHANGE_KIND_DELETE, Seq: 5}, {Kind: storagev1.ChangeKind_CHANGE_KIND_UPDATE, Seq: 5, Row: note(1, "new"), OldRow: []byte("nonsense")}} {
		db := logOf(t, "ann")
		b := db.NewBatch()
		if err := changelog.Append(b, shard, notes.ID, "ann", ch); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(t.Context(), db, of("ann"), 0, math.MaxUint64, Limits{}); !dberr.Is(err, dberr.Corrupt) {
			t.Errorf("%v: %v", ch, err)
		}
	}
}

func TestTheMillisecondOfAMomentStays(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 89_999_999, time.UTC)
	g, err := snowflake.New(snowflake.SeqEpoch, 1023, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	if seq := g.NextN(4096) + 4095; seq > After(at) || seq > After(at.Truncate(time.Millisecond)) || seq <= After(at.Add(-time.Millisecond)) {
		t.Errorf("the last _seq of the millisecond is %d, the moment is behind %d", seq, After(at))
	}
	for _, before := range []time.Time{time.Unix(0, 0), snowflake.SeqEpoch.Add(-time.Hour)} {
		if After(before) != 0 {
			t.Errorf("%v: %d", before, After(before))
		}
	}
}
