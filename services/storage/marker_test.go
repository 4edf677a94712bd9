package storage

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// hits are the files below a directory that have a text: in their bytes, or, where these are compressed, in what they hold.
func hits(t *testing.T, dir, marker string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if os.IsNotExist(err) { // a node runs and removes files
			return nil
		}
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if bytes.Contains(raw, []byte(marker)) {
			found = append(found, name)
			return nil
		}
		inside := false
		switch filepath.Ext(path) {
		case ".sst":
			inside = tableHas(t, path, marker)
		case ".parquet":
			inside = parquetHas(t, raw, marker)
		}
		if inside {
			found = append(found, name+" (compressed)")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// tableHas looks at every version of every key in a table of Pebble's, deleted or not.
func tableHas(t *testing.T, path, marker string) (found bool) {
	t.Helper()
	f, err := vfs.Default.Open(path)
	if os.IsNotExist(err) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		t.Fatal(err)
	}
	r, err := sstable.NewReader(t.Context(), readable, sstable.ReaderOptions{Comparer: pebble.DefaultComparer, Merger: pebble.DefaultMerger})
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	defer func() { _ = r.Close() }()
	it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		t.Fatal(err)
	}
	for kv := it.First(); kv != nil; kv = it.Next() {
		value, _, err := kv.V.Value(nil)
		if err != nil {
			t.Fatal(err)
		}
		found = found || bytes.Contains(kv.K.UserKey, []byte(marker)) || bytes.Contains(value, []byte(marker))
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	dels, err := r.NewRawRangeDelIter(t.Context(), sstable.NoFragmentTransforms, sstable.NoReadEnv)
	if err != nil {
		t.Fatal(err)
	}
	if dels == nil {
		return found
	}
	defer dels.Close()
	for span, err := dels.First(); span != nil || err != nil; span, err = dels.Next() {
		if err != nil {
			t.Fatal(err)
		}
		found = found || bytes.Contains(span.Start, []byte(marker)) || bytes.Contains(span.End, []byte(marker))
	}
	return found
}

// parquetHas looks at every value of a file.
func parquetHas(t *testing.T, raw []byte, marker string) bool {
	t.Helper()
	f, err := file.NewParquetReader(bytes.NewReader(raw), file.WithReadProps(parquet.NewReaderProperties(memory.DefaultAllocator)))
	if err != nil {
		return false // it is being written: its bytes were looked at
	}
	defer func() { _ = f.Close() }()
	r, err := pqarrow.NewFileReader(f, pqarrow.ArrowReadProperties{BatchSize: 1024}, memory.DefaultAllocator)
	if err != nil {
		t.Fatal(err)
	}
	records, err := r.GetRecordReader(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer records.Release()
	for {
		rec, err := records.Read()
		if err == io.EOF || rec == nil {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := rec.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), marker) {
			return true
		}
	}
}
