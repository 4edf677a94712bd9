package shard

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/shardmap"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
)

// bare is a shard without a group, for feeding entries by hand.
func bare(t testing.TB, fs vfs.FS) *node {
	t.Helper()
	n := &node{t: t, fs: fs, failed: make(chan struct{})}
	var err error
	n.hot, err = pebble.Open("hot", &pebble.Options{FS: fs, DisableWAL: true, Logger: quiet{}, MemTableSize: 1 << 20,
		FormatMajorVersion: pebble.FormatValueSeparation})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.hot.Close() })
	n.shard, err = New(Config{DB: n.hot, Shards: shardmap.Even(1), Tables: tables(), Node: 1, Fail: n.fail, Failed: n.failed,
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// entryOf is a log entry that inserts one message of ann.
func entryOf(index, term uint64, id int, body string) *raft.Log {
	key := keycodec.AppendRowKey(nil, 0, messagesID, "ann", []datum.Datum{datum.Int(int64(id))})
	c := &command.Command{Kind: command.Write, Term: 3, FirstSeq: index << 22, User: "ann", Rows: []command.Row{
		{Kind: storagev1.ChangeKind_CHANGE_KIND_INSERT, Table: messagesID, SchemaVersion: 1, Key: key, Row: message(id, body, nil)}}}
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: command.Append(nil, c)}
}

func TestAnEntryDecidedInAnotherTermIsRefused(t *testing.T) {
	n := bare(t, vfs.NewMem())
	got := n.shard.Apply([]*raft.Log{entryOf(1, 3, 1, "x"), entryOf(2, 4, 2, "x"), entryOf(3, 3, 3, "x")})
	if got[0] != nil || got[2] != nil {
		t.Errorf("results %v", got)
	}
	if err, _ := got[1].(error); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("entry of another term: %v", got[1])
	}
	if rows := n.rows(); len(rows) != 2 || n.shard.Applied() != 3 {
		t.Errorf("%d rows, applied %d", len(rows), n.shard.Applied())
	}
}

func TestAWriteToADroppedTableIsRefusedInApply(t *testing.T) {
	fs := vfs.NewMem()
	n := bare(t, fs)
	purge := &raft.Log{Index: 2, Term: 3, Type: raft.LogCommand,
		Data: command.Append(nil, &command.Command{Kind: command.Purge, Term: 3, FirstSeq: 2 << 22, Table: messagesID})}
	got := n.shard.Apply([]*raft.Log{entryOf(1, 3, 1, "x"), purge, entryOf(3, 3, 2, "x")})
	if err, _ := got[2].(error); !dberr.Is(err, dberr.TableNotFound) {
		t.Errorf("in the same batch: %v", got[2])
	}
	if err := n.shard.load(); err != nil { // as after a restart
		t.Fatal(err)
	}
	got = n.shard.Apply([]*raft.Log{entryOf(4, 3, 3, "x")})
	if err, _ := got[0].(error); !dberr.Is(err, dberr.TableNotFound) {
		t.Errorf("after a restart: %v", got[0])
	}
	if len(n.rows()) != 0 {
		t.Errorf("%d rows", len(n.rows()))
	}
}

func TestReplayedEntriesAreSkipped(t *testing.T) {
	n := bare(t, vfs.NewMem())
	n.shard.Apply([]*raft.Log{entryOf(1, 3, 1, "x"), entryOf(2, 3, 2, "x")})
	before := n.dump()
	n.shard.Apply([]*raft.Log{entryOf(1, 3, 1, "replayed"), entryOf(2, 3, 9, "replayed")})
	if n.dump() != before {
		t.Error("a replay changed the state")
	}
	n.shard.Apply([]*raft.Log{entryOf(2, 3, 9, "replayed"), entryOf(3, 3, 3, "x")})
	if rows := n.rows(); len(rows) != 3 || rows["ann/9"].Seq != 0 {
		t.Errorf("rows %v", rows)
	}
}

func TestAnEntryThatCannotBeAppliedStopsTheNode(t *testing.T) {
	n := bare(t, vfs.NewMem())
	got := n.shard.Apply([]*raft.Log{{Index: 1, Term: 1, Type: raft.LogCommand, Data: []byte{99}}})
	if err, _ := got[0].(error); !dberr.Is(err, dberr.Unavailable) || !dberr.Is(n.err, dberr.Corrupt) {
		t.Errorf("result %v, failure %v", got[0], n.err)
	}
	got = n.shard.Apply([]*raft.Log{entryOf(2, 3, 1, "x")})
	if err, _ := got[0].(error); !dberr.Is(err, dberr.Unavailable) || len(n.rows()) != 0 {
		t.Errorf("afterwards: %v", got[0])
	}
}

// crashingReader takes crash clones of a file system while it is read.
type crashingReader struct {
	src    io.Reader
	reads  int
	fs     *vfs.MemFS
	rng    *rand.Rand
	clones []*vfs.MemFS
}

func (r *crashingReader) Read(p []byte) (int, error) {
	if r.reads++; r.reads%20 == 1 {
		r.clones = append(r.clones, r.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.rng.IntN(101), RNG: r.rng}))
	}
	return r.src.Read(p[:min(len(p), 4<<10)])
}

// TestARestoreThatACrashCutIsNoticed crashes at many moments of a restore: what comes up afterwards is
// the old state, the new one, or marked as torn.
func TestARestoreThatACrashCutIsNoticed(t *testing.T) {
	from := bare(t, vfs.NewMem())
	body := strings.Repeat("y", 4000)
	for i := range 600 {
		from.shard.Apply([]*raft.Log{entryOf(uint64(i)+1, 3, i, body)})
	}
	var snap bytes.Buffer
	if err := from.shard.WriteSnapshot(&snap); err != nil {
		t.Fatal(err)
	}
	fs := vfs.NewCrashableMem()
	to := bare(t, fs)
	for i := range 100 {
		to.shard.Apply([]*raft.Log{entryOf(uint64(i)+1, 3, 10_000+i, body)})
	}
	if err := to.hot.Flush(); err != nil {
		t.Fatal(err)
	}
	old, whole := to.dump(), from.dump()
	r := &crashingReader{src: &snap, fs: fs, rng: rand.New(rand.NewPCG(5, 5))}
	if err := to.shard.Restore(r); err != nil {
		t.Fatal(err)
	}
	if to.dump() != whole || to.shard.Applied() != 600 {
		t.Fatal("the restored state differs")
	}
	states := map[string]int{}
	for i, clone := range r.clones {
		n := bare(t, clone)
		torn, err := n.shard.Torn()
		if err != nil {
			t.Fatal(err)
		}
		switch state := n.dump(); {
		case torn:
			states["torn"]++
		case state == old:
			states["old"]++
		case state == whole:
			states["new"]++
		default:
			t.Errorf("crash %d of %d: half a state, not marked", i, len(r.clones))
		}
	}
	if states["torn"] == 0 {
		t.Errorf("no crash hit the restore: %v", states)
	}
}

func TestABadSnapshotIsRefused(t *testing.T) {
	from := bare(t, vfs.NewMem())
	from.shard.Apply([]*raft.Log{entryOf(1, 3, 1, "x")})
	var snap bytes.Buffer
	if err := from.shard.WriteSnapshot(&snap); err != nil {
		t.Fatal(err)
	}
	whole := snap.Bytes()
	for n := range whole {
		to := bare(t, vfs.NewMem())
		if err := to.shard.Restore(bytes.NewReader(whole[:n])); err == nil {
			// Cut between records it is a shorter snapshot: the stream's frame notices that, not the shard.
			if torn, err := to.shard.Torn(); torn || err != nil {
				t.Errorf("%d bytes: accepted and torn (%v)", n, err)
			}
		} else if torn, _ := to.shard.Torn(); !torn {
			t.Errorf("%d bytes: refused (%v) and not torn", n, err)
		}
	}
}

// TestMangledSnapshots does what FuzzRestore does, without the fuzzer, whom Pebble's background work
// keeps busy telling coverage apart (run it with -fuzzminimizetime=0).
func TestMangledSnapshots(t *testing.T) {
	n := bare(t, vfs.NewMem())
	n.shard.Apply([]*raft.Log{entryOf(1, 3, 1, "x"), entryOf(2, 3, 2, "y")})
	var snap bytes.Buffer
	if err := n.shard.WriteSnapshot(&snap); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	refused := 0
	for range 2000 {
		b := bytes.Clone(snap.Bytes())
		for range 1 + rng.IntN(3) {
			b[rng.IntN(len(b))] = byte(rng.Uint32())
		}
		n.shard.broken.Store(false) // as the next start finds it
		err := n.shard.Restore(bytes.NewReader(b))
		if err != nil && !dberr.Is(err, dberr.Corrupt) {
			t.Fatal(err)
		}
		if torn, _ := n.shard.Torn(); torn != (err != nil) {
			t.Fatalf("torn=%v after %v", torn, err)
		}
		if err != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
}

func FuzzRestore(f *testing.F) {
	n := bare(f, vfs.NewMem())
	n.shard.Apply([]*raft.Log{entryOf(1, 3, 1, "x"), entryOf(2, 3, 2, "y")})
	var snap bytes.Buffer
	if err := n.shard.WriteSnapshot(&snap); err != nil {
		f.Fatal(err)
	}
	f.Add(snap.Bytes())
	f.Fuzz(func(t *testing.T, src []byte) {
		n.shard.broken.Store(false) // as the next start finds it
		if err := n.shard.Restore(bytes.NewReader(src)); err != nil && !dberr.Is(err, dberr.Corrupt) {
			t.Fatal(err)
		}
	})
}

// BenchmarkApply applies entries as a leader of format 1 writes them, and with request ids.
func BenchmarkApply(b *testing.B) {
	for _, ids := range []bool{false, true} {
		b.Run(fmt.Sprint("ids=", ids), func(b *testing.B) {
			n := bare(b, vfs.NewMem())
			logs := make([]*raft.Log, 64)
			index := uint64(0)
			for b.Loop() {
				for i := range logs {
					index++
					if ids {
						logs[i] = requestEntry(index, time.Hour, index)
					} else {
						logs[i] = entryOf(index, 3, int(index), fmt.Sprint("body ", index))
					}
				}
				n.shard.Apply(logs)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(index), "ns/entry")
		})
	}
}

// BenchmarkWrite is the shard alone, on a file system in memory: deciding, logging, applying.
func BenchmarkWrite(b *testing.B) {
	for _, ids := range []bool{false, true} {
		b.Run(fmt.Sprint("ids=", ids), func(b *testing.B) {
			n := openNode(b, nodeOptions{})
			defer n.stop()
			var next atomic.Uint64
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					req := request("ann", insert(message(nil, "a body of some length", nil)))
					if ids {
						numbered(next.Add(1), req)
					}
					if _, err := n.shard.Write(b.Context(), req); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
