package command

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// requested is a write with a request id, in version 2.
func requested() *Command {
	c := sample()
	c.RequestID, c.Counts = []byte("0123456789abcdef"), []uint32{2, 0, 1}
	return c
}

// segmented adds two segments in place of one, in version 4.
func segmented() *Command {
	return &Command{Kind: Segments, Term: 5, FirstSeq: 6, User: "ann", Table: 300, CoveredSeq: 1 << 50, Removed: []uint64{7, 1 << 40},
		Added: [][]byte{[]byte("first"), []byte("second")}}
}

func forgotten() *Command {
	return &Command{Kind: Forget, Term: 6, FirstSeq: 7, Table: 9, BeforeSeq: 1 << 40, Keys: [][]byte{[]byte("k1"), []byte("k2")}}
}

func erased() *Command {
	return &Command{Kind: Erase, Term: 7, FirstSeq: 8, User: "ann", Job: "ER-0123456789ab"}
}

func imported() *Command {
	return &Command{Kind: Import, Term: 7, FirstSeq: 1 << 41, User: "ann", Table: 12, Imported: []ImportedRow{
		{Key: []byte("k1"), Version: []byte("v1"), UniqueSet: [][]byte{[]byte("u1"), []byte("u2")}}, {Key: []byte("k2"), Version: []byte("gone")}}}
}

// The fixtures are what earlier versions of this program wrote: a log on disk has them.
func TestFixtures(t *testing.T) {
	for name, want := range map[string]*Command{
		"write-v1.bin":    sample(),
		"purge-v1.bin":    {Kind: Purge, Term: 1, FirstSeq: 2, Table: 1 << 31},
		"write-v2.bin":    requested(),
		"verify-v2.bin":   {Kind: Verify, Term: 3, FirstSeq: 4, Bucket: 1 << 20},
		"segments-v4.bin": segmented(),
		"forget-v4.bin":   forgotten(),
		"erase-v5.bin":    erased(),
		"import-v5.bin":   imported(),
	} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\n%+v\nwant %+v", name, err, got, want)
		}
		if !bytes.Equal(Append(nil, want), b) {
			t.Errorf("%s would be written otherwise today", name)
		}
	}
}

func TestOnlyWhatNeedsVersion2IsWrittenInIt(t *testing.T) {
	for _, c := range []*Command{sample(), {Kind: Purge}} {
		if b := Append(nil, c); b[0] != 1 {
			t.Errorf("kind %d is written in version %d", c.Kind, b[0])
		}
	}
	for _, c := range []*Command{requested(), {Kind: Verify}} {
		b := Append(nil, c)
		if b[0] != VersionRequests {
			t.Errorf("kind %d is written in version %d", c.Kind, b[0])
		}
		b[0] = 3
		if _, err := Decode(b); !dberr.Is(err, dberr.Corrupt) {
			t.Errorf("version 3: %v", err)
		}
	}
}

func TestEveryTruncationOfLaterVersionsIsRefused(t *testing.T) {
	for _, c := range []*Command{requested(), segmented(), forgotten(), erased(), imported(), {Kind: Verify, Bucket: 300}} {
		b := Append(nil, c)
		for n := range b {
			if _, err := Decode(b[:n]); !dberr.Is(err, dberr.Corrupt) {
				t.Fatalf("%d of %d bytes: %v", n, len(b), err)
			}
		}
	}
}

// Counts are an answer: they must be those of the rows.
func TestCountsThatAreNotTheRows(t *testing.T) {
	for _, counts := range [][]uint32{nil, {2}, {4}, {1 << 31, 1 << 31, 3}} {
		c := requested()
		c.Counts = counts
		if _, err := Decode(Append(nil, c)); !dberr.Is(err, dberr.Corrupt) {
			t.Errorf("counts %v of %d rows: %v", counts, len(c.Rows), err)
		}
	}
}
