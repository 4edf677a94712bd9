package raftgroup

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftlog"
)

var discard = slog.New(slog.DiscardHandler)

type quiet struct{}

func (quiet) Infof(string, ...any)         {}
func (quiet) Errorf(string, ...any)        {}
func (quiet) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

// bytesState is a state that is one byte string.
type bytesState struct {
	content  []byte
	applied  uint64
	torn     bool
	restored int
}

func (s *bytesState) Apply(logs []*raft.Log) []any {
	for _, l := range logs {
		s.content, s.applied = append(s.content, l.Data...), l.Index
	}
	return make([]any, len(logs))
}
func (s *bytesState) Applied() uint64        { return s.applied }
func (*bytesState) MakeDurable(uint64) error { return nil }
func (s *bytesState) Torn() (bool, error)    { return s.torn, nil }
func (s *bytesState) WriteSnapshot(w io.Writer) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint64(nil, s.applied), s.content...))
	return err
}

func (s *bytesState) Restore(r io.Reader) error {
	s.restored++
	s.torn = true
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.applied, s.content, s.torn = binary.BigEndian.Uint64(b), b[8:], false
	return nil
}

func testSnapshots(t *testing.T, fs vfs.FS, log *raftlog.DB, state State) *snapshots {
	t.Helper()
	store, err := log.Group(4)
	if err != nil {
		t.Fatal(err)
	}
	s, err := openSnapshots(4, store, fs, "spool", state)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openLog(t *testing.T, fs vfs.FS) *raftlog.DB {
	t.Helper()
	db, err := raftlog.Open("raft", raftlog.Options{FS: fs, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func files(t *testing.T, fs vfs.FS) []string {
	t.Helper()
	names, err := fs.List("spool")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// receive runs a snapshot from one store into another, up to the end of the transfer.
func receive(t *testing.T, from, to *snapshots) {
	t.Helper()
	metas, err := from.List()
	if err != nil || len(metas) != 1 {
		t.Fatalf("%d snapshots, %v", len(metas), err)
	}
	meta, r, err := from.Open(metas[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := to.Create(meta.Version, meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(sink, r); n != meta.Size || err != nil {
		t.Fatalf("%d of %d bytes, %v", n, meta.Size, err)
	}
	if err := errors.Join(r.Close(), sink.Close()); err != nil {
		t.Fatal(err)
	}
}

func localSnapshot(t *testing.T, s *snapshots, index uint64) {
	t.Helper()
	conf := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1/raft"}}}
	sink, err := s.Create(1, index, 2, conf, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestASnapshotThatWasReceivedIsRestoredAfterACrash(t *testing.T) {
	fs := vfs.NewMem()
	source := &bytesState{content: bytes.Repeat([]byte("state"), 200_000), applied: 9}
	from := testSnapshots(t, fs, openLog(t, fs), source)
	localSnapshot(t, from, 10)

	for name, torn := range map[string]bool{"before the restore": false, "during the restore": true} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			log := openLog(t, fs)
			receive(t, from, testSnapshots(t, fs, log, &bytesState{}))
			crashed := fs.CrashClone(vfs.CrashCloneCfg{})
			state := &bytesState{torn: torn}
			again := testSnapshots(t, crashed, openLog(t, crashed), state)
			if err := again.repair(); err != nil {
				t.Fatal(err)
			}
			if state.restored != 1 || !bytes.Equal(state.content, source.content) || state.applied != 9 {
				t.Errorf("restored %d times, %d bytes, applied %d", state.restored, len(state.content), state.applied)
			}
			if f := files(t, crashed); len(f) != 0 {
				t.Errorf("files left: %v", f)
			}
			if metas, _ := again.List(); len(metas) != 1 || metas[0].Index != 10 || len(metas[0].Configuration.Servers) != 1 {
				t.Errorf("snapshots %v", metas)
			}
		})
	}
	if f := files(t, fs); len(f) != 0 {
		t.Errorf("the sender left %v", f)
	}
}

// A local snapshot that took its time must not take the place of one the leader sent meanwhile.
func TestANewerSnapshotStays(t *testing.T) {
	fs, there := vfs.NewMem(), vfs.NewMem()
	from := testSnapshots(t, there, openLog(t, there), &bytesState{content: []byte("newer"), applied: 10})
	localSnapshot(t, from, 10)
	state := &bytesState{applied: 5}
	s := testSnapshots(t, fs, openLog(t, fs), state)
	local, err := s.Create(1, 5, 2, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	receive(t, from, s)
	if err := local.Close(); err != nil {
		t.Fatal(err)
	}
	localSnapshot(t, s, 10) // as old as the one that waits for its restore
	if err := s.repair(); err != nil {
		t.Fatal(err)
	}
	if metas, _ := s.List(); len(metas) != 1 || metas[0].Index != 10 || string(state.content) != "newer" {
		t.Errorf("snapshots %v, state %q", metas, state.content)
	}

	localSnapshot(t, s, 12)
	old, err := s.Create(1, 11, 2, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Write([]byte("state")); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("an older one was received: %v", err)
	}
	if metas, _ := s.List(); metas[0].Index != 12 || len(files(t, fs)) != 0 {
		t.Errorf("snapshots %v, files %v", metas, files(t, fs))
	}
}

func TestAReceivedSnapshotThatIsReplacedLeavesNothing(t *testing.T) {
	fs, there := vfs.NewMem(), vfs.NewMem()
	from := testSnapshots(t, there, openLog(t, there), &bytesState{content: []byte("newer"), applied: 10})
	s := testSnapshots(t, fs, openLog(t, fs), &bytesState{})
	for index := range uint64(2) {
		localSnapshot(t, from, 10+index)
		receive(t, from, s) // and its restore fails
	}
	if f := files(t, fs); len(f) != 1 {
		t.Errorf("files %v", f)
	}
}

func TestATornStateWithoutItsSnapshotIsAnError(t *testing.T) {
	fs := vfs.NewMem()
	s := testSnapshots(t, fs, openLog(t, fs), &bytesState{torn: true})
	if err := s.repair(); !dberr.Is(err, dberr.Corrupt) {
		t.Fatalf("got %v", err)
	}
}

func TestACancelledTransferLeavesNothing(t *testing.T) {
	fs := vfs.NewMem()
	s := testSnapshots(t, fs, openLog(t, fs), &bytesState{})
	sink, err := s.Create(1, 5, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sink.Cancel(), sink.Cancel()); err != nil {
		t.Fatal(err)
	}
	if metas, _ := s.List(); len(metas) != 0 || len(files(t, fs)) != 0 {
		t.Errorf("left %v, %v", metas, files(t, fs))
	}
}

func frame(content []byte) []byte {
	var b bytes.Buffer
	w := newChunkWriter(&b)
	_, _ = w.Write(content)
	_ = w.Close()
	return b.Bytes()
}

func TestChunksAreCheckedAndComplete(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	content := make([]byte, 2*chunkBytes+777)
	for i := range content {
		content[i] = byte(rng.Uint32())
	}
	framed := frame(content)
	got, err := io.ReadAll(newChunkReader(bytes.NewReader(framed)))
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	for range 300 {
		cut := framed[:rng.IntN(len(framed))]
		if _, err := io.ReadAll(newChunkReader(bytes.NewReader(cut))); !dberr.Is(err, dberr.Corrupt) {
			t.Fatalf("cut at %d: %v", len(cut), err)
		}
		flipped := bytes.Clone(framed)
		at := rng.IntN(len(flipped))
		flipped[at] ^= 1 << rng.IntN(8)
		if _, err := io.ReadAll(newChunkReader(bytes.NewReader(flipped))); !dberr.Is(err, dberr.Corrupt) {
			t.Fatalf("a bit of byte %d flipped: %v", at, err)
		}
	}
	// A whole chunk that is missing keeps every other chunk's sum right.
	first := len(streamMagic) + 1
	missing := append(bytes.Clone(framed[:first]), framed[first+chunkHeaderBytes+chunkBytes:]...)
	if _, err := io.ReadAll(newChunkReader(bytes.NewReader(missing))); !dberr.Is(err, dberr.Corrupt) {
		t.Fatalf("a chunk is missing: %v", err)
	}
}

func FuzzChunkReader(f *testing.F) {
	f.Add(frame(nil))
	f.Add(frame([]byte("content")))
	f.Fuzz(func(t *testing.T, src []byte) {
		got, err := io.ReadAll(newChunkReader(bytes.NewReader(src)))
		if err != nil {
			if !dberr.Is(err, dberr.Corrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := io.ReadAll(newChunkReader(bytes.NewReader(frame(got))))
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("%d bytes became %d (%v)", len(got), len(again), err)
		}
	})
}

// book knows that a server listens at its name and "/raft".
type book struct{}

func (book) RaftAddr(server string) (string, bool) { return server + "/raft", true }

func listen(t *testing.T, network rpcnet.Network, server string) *Mux {
	t.Helper()
	m, err := Listen(network, server+"/raft", server, book{}, discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestTheMuxHandsConnectionsToTheirGroup(t *testing.T) {
	network := rpcnet.NewLocal()
	m, other := listen(t, network, "n1"), listen(t, network, "n2")
	one, two := m.layer(1), m.layer(2)
	for _, l := range []*layer{two, one} {
		for _, from := range []*layer{other.layer(l.group), l} { // from elsewhere, and from itself
			converse(t, from, l)
		}
	}
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	for what, first := range map[string][]byte{
		"unknown group": {2, 0, 0, 0, 9, 2, 'n', '1'}, "closed group": {2, 0, 0, 0, 2, 2, 'n', '1'}, "another server": {2, 0, 0, 0, 1, 2, 'n', '9'},
		"unknown version": {99, 0, 0, 0, 1}, "first version": {1, 0, 0, 0, 1}, "nobody": {2, 0, 0, 0, 1, 0}, "too long": {2, 0, 0, 0, 1, 255}} {
		c, err := network.DialContext(t.Context(), "n1/raft")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(first)
		_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection stays open", what)
		}
	}
	converse(t, other.layer(2), m.layer(2)) // opened again
	silent, err := network.DialContext(t.Context(), "n1/raft")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	m.Close() // does not wait for connections that never say hello
	if _, err := one.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after Close: %v", err)
	}
}

// converse sends a byte through a new connection, and sees it end with the layer that accepted it.
func converse(t *testing.T, from, to *layer) {
	t.Helper()
	var got net.Conn
	accepted := make(chan error, 1)
	go func() {
		var err error
		got, err = to.Accept()
		accepted <- err
	}()
	c, err := from.Dial(raft.ServerAddress(to.mux.ServerID()), time.Second)
	if err := errors.Join(err, <-accepted); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = c.Write([]byte{byte(to.group)}) }()
	b := make([]byte, 1)
	if _, err := io.ReadFull(got, b); err != nil || b[0] != byte(to.group) {
		t.Fatalf("group %d got %v, %v", to.group, b, err)
	}
	_, _ = c.Close(), got.Close()
}

func TestAClosedGroupEndsItsConnections(t *testing.T) {
	network := rpcnet.NewLocal()
	to := listen(t, network, "n1").layer(1)
	c, err := listen(t, network, "n2").layer(1).Dial("n1", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := to.Accept(); err != nil {
		t.Fatal(err)
	}
	_ = to.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection stays open")
	}
}

func FuzzHello(f *testing.F) {
	for _, h := range []hello{{group: 0, server: "n1"}, {group: 1 << 31, server: "n511-0123abcd"}} {
		b, err := h.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, "Raft's own"...))
	}
	f.Add([]byte{1, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, src []byte) {
		r := bytes.NewReader(src)
		h, err := readHello(r)
		if err != nil {
			if !dberr.Is(err, dberr.Corrupt) && !dberr.Is(err, dberr.Unsupported) {
				t.Fatal(err)
			}
			return
		}
		again, err := h.encode()
		if err != nil || !bytes.Equal(again, src[:len(src)-r.Len()]) {
			t.Fatalf("%x became %x (%v)", src, again, err)
		}
	})
}

func TestReadsShareOneConfirmation(t *testing.T) {
	network := rpcnet.NewLocal()
	groups := make([]*Group, 2)
	leads := make(chan uint64, 8)
	for i, id := range []string{"n1", "n2"} {
		fs := vfs.NewMem()
		m := listen(t, network, id)
		var err error
		groups[i], err = Open(t.Context(), Config{Group: 7, State: &bytesState{}, Log: openLog(t, fs), Mux: m, FS: fs,
			SpoolDir: "spool", Bootstrap: i == 0, OnLead: func(term uint64) { leads <- term }, OnFollow: func() {}, Logger: discard})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
			defer cancel()
			if err := groups[i].Stop(ctx); err != nil {
				t.Error(err)
			}
		}()
	}
	if term := <-leads; term != groups[0].Term() || term == 0 {
		t.Errorf("leads in term %d, says %d", term, groups[0].Term())
	}
	if err := errors.Join(groups[0].AddLearner(t.Context(), "n2"), groups[0].Promote(t.Context(), "n2")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 100)
	for range cap(done) {
		go func() { done <- groups[0].ReadBarrier(t.Context()) }()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if err := groups[1].ReadBarrier(t.Context()); !dberr.Is(err, dberr.NotLeader) || dberr.FieldOf(err, dberr.FieldLeader) != "n1" {
		t.Errorf("on the follower: %v, leader %q", err, dberr.FieldOf(err, dberr.FieldLeader))
	}
}

// Raft may lead in a new term before this node serves in it: what was committed in between is not applied yet.
func TestAReadOfAnotherTermIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	leads := make(chan uint64, 8)
	g, err := Open(t.Context(), Config{Group: 7, State: &bytesState{}, Log: openLog(t, fs), Mux: listen(t, rpcnet.NewLocal(), "n1"), FS: fs,
		SpoolDir: "spool", Bootstrap: true, OnLead: func(term uint64) { leads <- term }, OnFollow: func() {}, Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
		defer cancel()
		if err := g.Stop(ctx); err != nil {
			t.Error(err)
		}
	}()
	term := <-leads
	if err := g.ReadBarrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.term.Store(term - 1) // as if Raft had lost that term and won this one, and OnLead were still to come
	if err := g.ReadBarrier(t.Context()); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("in term %d, serving %d: %v", term, term-1, err)
	}
}
