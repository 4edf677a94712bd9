package shard

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/command"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/keycodec"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/raftgroup"
)

func numbered(n uint64, req *storagev1.WriteRequest) *storagev1.WriteRequest {
	req.RequestId = binary.BigEndian.AppendUint64(make([]byte, 8), n)
	return req
}

func setting(name, value string) *storagev1.TableWrite {
	row := tables().encode(settingsID, datum.Text(name), datum.Text(value))
	return &storagev1.TableWrite{TableId: settingsID, SchemaVersion: 1, Operation: storagev1.Operation_OPERATION_INSERT,
		OnConflict: storagev1.OnConflict_ON_CONFLICT_DO_NOTHING, Rows: [][]byte{row}}
}

// requestsOfEveryKind are writes that would all do something else the second time. They are done in this order.
func requestsOfEveryKind(t *testing.T, n *node) (reqs []*storagev1.WriteRequest, answers []*storagev1.WriteResponse) {
	t.Helper()
	do := func(req *storagev1.WriteRequest) *storagev1.WriteResponse {
		t.Helper()
		numbered(uint64(len(reqs)), req)
		resp, err := n.shard.Write(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		reqs, answers = append(reqs, req), append(answers, resp)
		return resp
	}
	seqs := do(request("ann", insert(message(nil, "one", nil), message(2, "two", "x"), message(nil, "three", nil)))).GetResults()[0].GetSeqs()
	seq := do(request("ann", update(seqs[1], message(2, "changed", nil)))).GetPosition()
	do(request("ann", insert(message(4, "four", "x")), remove(seq, message(2, nil, nil)), setting("k", "v")))
	do(request("ann", setting("k", "not written"), insert(message(2, "again", nil)), setting("l", "w")))
	without := request("bob", insert(message(1, "of bob", nil)))
	without.ReturnRows = false
	do(without)
	return reqs, answers
}

func checkReplayed(t *testing.T, n *node, reqs []*storagev1.WriteRequest, answers []*storagev1.WriteResponse) {
	t.Helper()
	before := n.dump()
	for i, req := range reqs {
		again, err := n.shard.Write(t.Context(), req)
		if err != nil || !proto.Equal(again, answers[i]) {
			t.Errorf("request %d: %v, %v; it was answered %v", i, again, err, answers[i])
		}
	}
	if n.dump() != before {
		t.Error("a repetition changed the state")
	}
}

func TestARequestIsAnsweredAsItWas(t *testing.T) {
	fs := vfs.NewMem()
	n := openNode(t, nodeOptions{fs: fs})
	reqs, answers := requestsOfEveryKind(t, n)
	checkReplayed(t, n, reqs, answers)
	n.stop()
	n = openNode(t, nodeOptions{fs: fs})
	defer n.stop()
	checkReplayed(t, n, reqs, answers)

	var snap bytes.Buffer
	if err := n.shard.WriteSnapshot(&snap); err != nil {
		t.Fatal(err)
	}
	other := openNode(t, nodeOptions{})
	defer other.stop()
	if err := other.shard.Restore(&snap); err != nil {
		t.Fatal(err)
	}
	checkReplayed(t, other, reqs, answers)
}

func TestWithReplicasThatReadNoIDsTheLeaderRemembers(t *testing.T) {
	n := openNode(t, nodeOptions{format: func() uint32 { return 1 }})
	defer n.stop()
	reqs, answers := requestsOfEveryKind(t, n)
	checkReplayed(t, n, reqs, answers)
	if ids, err := loadRequests(n.hot, 0); err != nil || len(ids) != 0 {
		t.Errorf("ids are in the store: %v, %v", ids, err)
	}
	if _, err := n.shard.Verify(t.Context()); !dberr.Is(err, dberr.Unsupported) {
		t.Errorf("verify: %v", err)
	}
}

func TestTheMemoIsBounded(t *testing.T) {
	var m memo
	id := func(n int) (id requestID) { binary.BigEndian.PutUint64(id[:], uint64(n)); return id }
	const more = 10
	for i := range memoMax + more {
		m.put(id(i), &keycodec.Request{FirstSeq: uint64(i)})
	}
	if len(m.done) != memoMax || m.get(id(more-1)) != nil || m.get(id(more)) == nil || m.get(id(memoMax+more-1)) == nil {
		t.Errorf("%d remembered", len(m.done))
	}
}

func TestRequestIDsThatAreRefused(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	req := numbered(1, request("ann", insert(message(1, "a", nil))))
	if _, err := n.shard.Write(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	other := numbered(1, request("ann", insert(message(1, "a", nil)), setting("a", "b")))
	if _, err := n.shard.Write(t.Context(), other); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("an id of another write: %v", err)
	}
	theirs := numbered(1, request("bob", insert(message(1, "a", nil))))
	if _, err := n.shard.Write(t.Context(), theirs); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("an id of another user's write: %v", err)
	}
	theirs.Identity.UserId = "eve"
	if _, err := n.shard.Write(t.Context(), theirs); !dberr.Is(err, dberr.PermissionDenied) {
		t.Errorf("another user's partition: %v", err)
	}
	req.RequestId = []byte("too short")
	if _, err := n.shard.Write(t.Context(), req); !dberr.Is(err, dberr.InvalidArgument) {
		t.Errorf("a short id: %v", err)
	}
}

// What was refused has not been done: another attempt is decided anew.
func TestARefusalIsNotRemembered(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	seq := n.mustWrite("ann", insert(message(1, "in the way", nil))).GetPosition()
	req := numbered(1, request("ann", insert(message(1, "wanted", nil))))
	for range 2 {
		if _, err := n.shard.Write(t.Context(), req); !dberr.Is(err, dberr.PrimaryKeyViolation) {
			t.Fatal(err)
		}
	}
	n.mustWrite("ann", remove(seq, message(1, nil, nil)))
	if _, err := n.shard.Write(t.Context(), req); err != nil {
		t.Error(err)
	}
	if len(n.shard.requests.flight) != 0 {
		t.Errorf("%d requests are under way for ever", len(n.shard.requests.flight))
	}
}

func rowKey(user string, id int) string {
	return string(keycodec.AppendRowKey(nil, 0, messagesID, user, []datum.Datum{datum.Int(int64(id))}))
}

// A key that is held keeps several attempts of one request from being decided.
func TestAttemptsAtOnceAreOneWrite(t *testing.T) {
	n := openNode(t, nodeOptions{})
	defer n.stop()
	held := []string{rowKey("ann", 1)}
	if err := n.shard.keys.acquire(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	req := func() *storagev1.WriteRequest { return numbered(1, request("ann", insert(message(1, "a", nil)))) }
	first, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { _, err := n.shard.Write(first, req()); gone <- err }()
	under := func() *attempt {
		n.shard.requests.mu.Lock()
		defer n.shard.requests.mu.Unlock()
		return n.shard.requests.flight[requestID(req().GetRequestId())]
	}
	until(t, "the first attempt", func() bool { return under() != nil })
	const others = 8
	answers := make(chan *storagev1.WriteResponse, others)
	for range others {
		go func() {
			resp, err := n.shard.Write(context.WithoutCancel(first), req())
			if err != nil {
				t.Error(err)
			}
			answers <- resp
		}()
	}
	until(t, "the others", func() bool {
		at := under()
		n.shard.requests.mu.Lock()
		defer n.shard.requests.mu.Unlock()
		return at.decided != nil
	})
	cancel() // the first gives up: one of the others takes its place
	if err := <-gone; !dberr.Is(err, dberr.Canceled) {
		t.Errorf("the first attempt: %v", err)
	}
	n.shard.keys.release(held)
	want := <-answers
	for range others - 1 {
		if got := <-answers; !proto.Equal(got, want) {
			t.Errorf("answers %v and %v", got, want)
		}
	}
	if len(n.rows()) != 1 {
		t.Errorf("%d rows", len(n.rows()))
	}
}

// requestEntry is an entry with an id, at a time after 2025.
func requestEntry(index uint64, at time.Duration, id uint64) *raft.Log {
	l := entryOf(index, 3, int(index), fmt.Sprint("body ", index))
	c, err := command.Decode(l.Data)
	if err != nil {
		panic(err)
	}
	c.FirstSeq = uint64(at.Milliseconds())<<22 | index
	c.RequestID, c.Counts = numbered(id, &storagev1.WriteRequest{}).GetRequestId(), []uint32{1}
	l.Data = command.Append(nil, c)
	return l
}

func (n *node) remembers(id uint64) bool {
	n.t.Helper()
	n.shard.requests.mu.Lock()
	rid := requestID(numbered(id, &storagev1.WriteRequest{}).GetRequestId())
	look := n.shard.requests.lookFor(rid)
	n.shard.requests.mu.Unlock()
	r, err := n.shard.find(rid, look)
	if err != nil {
		n.t.Fatal(err)
	}
	return r != nil
}

func TestRequestsAreForgottenByTheLogAlone(t *testing.T) {
	const bucket = 5 * time.Minute
	var logs []*raft.Log
	add := func(at time.Duration, id uint64) { logs = append(logs, requestEntry(uint64(len(logs))+1, at, id)) }
	add(time.Hour, 1)
	add(time.Hour+bucket, 2)
	add(time.Hour+2*bucket-time.Millisecond, 3)
	add(50*time.Hour, 4) // a clock that is ahead
	add(50*time.Hour, 5)
	cuts := [][]int{{0, 5}, {0, 1, 2, 3, 4, 5}, {0, 2, 5}, {0, 4, 5}}
	var want string
	for _, cut := range cuts {
		n := bare(t, vfs.NewMem())
		for i := range cut[1:] {
			n.shard.Apply(logs[cut[i]:cut[i+1]])
			if i == 0 { // as after a restart, in the middle
				if err := n.shard.load(); err != nil {
					t.Fatal(err)
				}
			}
		}
		for id := uint64(1); id <= 5; id++ { // three buckets
			if !n.remembers(id) {
				t.Errorf("cut %v: request %d is forgotten", cut, id)
			}
		}
		n.shard.Apply([]*raft.Log{requestEntry(6, 50*time.Hour+bucket, 6)})
		if n.remembers(1) || !n.remembers(2) || !n.remembers(6) || n.remembers(7) {
			t.Errorf("cut %v: after a new bucket: 1 %v, 2 %v, 6 %v, 7 %v", cut, n.remembers(1), n.remembers(2), n.remembers(6), n.remembers(7))
		}
		if want == "" {
			want = n.dump()
		}
		if n.dump() != want {
			t.Errorf("cut %v: another state", cut)
		}
	}
}

// A new id costs no look into the store, unless ids were there before the shard was opened.
func TestANewIDIsKnownToBeNew(t *testing.T) {
	n := bare(t, vfs.NewMem())
	for i := range uint64(500) {
		n.shard.Apply([]*raft.Log{requestEntry(i+1, time.Hour, i)})
	}
	look := func() int {
		n.shard.requests.mu.Lock()
		defer n.shard.requests.mu.Unlock()
		asked := 0
		for i := range uint64(1000) {
			asked += n.shard.requests.lookFor(requestID(numbered(1_000_000+i, &storagev1.WriteRequest{}).GetRequestId())).n
		}
		return asked
	}
	if n := look(); n > 50 {
		t.Errorf("%d of 1000 new ids are looked up", n)
	}
	if err := n.shard.load(); err != nil {
		t.Fatal(err)
	}
	if n := look(); n != 1000 {
		t.Errorf("%d of 1000 ids are looked up after a restart", n)
	}
	if !n.remembers(499) {
		t.Error("an id is forgotten after a restart")
	}
}

// cluster is three replicas behind faults.
func cluster(t *testing.T, faults *rpcnet.Faults) []*node {
	t.Helper()
	settings := raftgroup.Settings{HeartbeatTimeout: 100 * time.Millisecond, SnapshotInterval: 50 * time.Millisecond,
		SnapshotThreshold: 50, TrailingLogs: 10}
	nodes := make([]*node, 3)
	for i := range nodes {
		id := fmt.Sprint("n", i+1)
		nodes[i] = openNode(t, nodeOptions{net: faults.As(id), id: id, joining: i > 0, settings: settings, number: uint16(i + 1)})
		if i > 0 { // leadership may change meanwhile: the timeouts are short
			until(t, id+" to vote", func() bool {
				l := leads(nodes[:i])
				return l >= 0 && nodes[l].addVoter(t.Context(), id) == nil
			})
		}
	}
	// A replica refuses its vote to one that it does not know as a voter yet: with the leader gone, nobody could be elected.
	until(t, "all replicas to know all voters", func() bool {
		for _, n := range nodes {
			if m, err := n.group.Members(); err != nil || len(m.Voters) != len(nodes) {
				return false
			}
		}
		return true
	})
	return nodes
}

// TestNoRequestIsDoneTwice writes rows with generated keys, which nothing but the request's id keeps from being
// written twice, while leaders lose their followers and win them back. Writers try again, anywhere, until they are told.
func TestNoRequestIsDoneTwice(t *testing.T) {
	faults := rpcnet.NewFaults(rpcnet.NewLocal())
	nodes := cluster(t, faults)
	defer func() {
		faults.Heal()
		for _, n := range nodes {
			n.stop()
		}
	}()
	var mu sync.Mutex
	acked := map[string]*storagev1.WriteResponse{}
	var next atomic.Uint64
	stop := make(chan struct{})
	var work sync.WaitGroup
	for w := range uint64(6) {
		rng := rand.New(rand.NewPCG(9, w))
		work.Go(func() {
			for !over(stop) {
				id := next.Add(1)
				name := fmt.Sprintf("s%d/%d", id, 1+rng.IntN(3))
				resp := tryUntilDone(t, nodes, rng, name, id)
				mu.Lock()
				acked[name] = resp
				mu.Unlock()
			}
		})
	}
	for range 8 {
		cutLeader(t, faults, nodes)
		until(t, "another leader", func() bool { return leads(nodes) >= 0 })
		faults.Heal()
		before := next.Load()
		until(t, "writes", func() bool { return next.Load() > before+20 })
	}
	close(stop)
	work.Wait()
	until(t, "all follow", func() bool {
		return nodes[0].shard.Applied() == nodes[1].shard.Applied() && nodes[1].shard.Applied() == nodes[2].shard.Applied()
	})
	for i, n := range nodes {
		checkOnce(t, n, acked)
		if n.dump() != nodes[0].dump() {
			t.Errorf("n%d differs from n1", i+1)
		}
	}
}

func over(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// leads is the number of a node that serves, -1 when none does.
func leads(nodes []*node) int {
	return slices.IndexFunc(nodes, func(n *node) bool { return n.shard.Leads() })
}

// cutLeader cuts whoever leads off the others, and returns when it has noticed.
func cutLeader(t *testing.T, faults *rpcnet.Faults, nodes []*node) {
	t.Helper()
	until(t, "a leader", func() bool { return leads(nodes) >= 0 })
	leader := leads(nodes)
	if leader < 0 {
		return
	}
	for i := range nodes {
		if i != leader {
			faults.Cut(fmt.Sprint("n", leader+1), fmt.Sprint("n", i+1))
			faults.Cut(fmt.Sprint("n", i+1), fmt.Sprint("n", leader+1))
		}
	}
	until(t, "the leader gives up", func() bool { return !nodes[leader].shard.Leads() })
}

func tryUntilDone(t *testing.T, nodes []*node, rng *rand.Rand, name string, id uint64) *storagev1.WriteResponse {
	var number, rows int
	if _, err := fmt.Sscanf(name, "s%d/%d", &number, &rows); err != nil {
		t.Error(err)
		return nil
	}
	w := insert()
	for range rows {
		w.Rows = append(w.Rows, message(nil, name, nil))
	}
	req := numbered(id, request("ann", w))
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rng.IntN(60))*time.Millisecond)
		resp, err := nodes[rng.IntN(len(nodes))].shard.Write(ctx, req)
		cancel()
		switch {
		case err == nil:
			return resp
		case t.Context().Err() != nil:
			return nil
		case dberr.Is(err, dberr.NotLeader), dberr.Is(err, dberr.Unavailable), dberr.Is(err, dberr.Timeout), dberr.Is(err, dberr.Canceled), errors.Is(err, context.DeadlineExceeded):
		default:
			t.Errorf("%s: %v", name, err)
			return nil
		}
	}
}

// checkOnce checks that every request wrote its rows once, with the _seqs it was told.
func checkOnce(t *testing.T, n *node, acked map[string]*storagev1.WriteResponse) {
	t.Helper()
	found := map[string]map[uint64]bool{}
	for _, v := range n.rows() {
		body := decodeMessage(t, v.Row).Values[1].AsText()
		if found[body] == nil {
			found[body] = map[uint64]bool{}
		}
		found[body][v.Seq] = true
	}
	if len(found) != len(acked) {
		t.Errorf("%d requests wrote something, %d were made", len(found), len(acked))
	}
	for name, resp := range acked {
		seqs := resp.GetResults()[0].GetSeqs()
		if len(found[name]) != len(seqs) {
			t.Errorf("%s wrote %d rows and was answered with %d", name, len(found[name]), len(seqs))
		}
		for _, seq := range seqs {
			if !found[name][seq] {
				t.Errorf("%s was answered with _seq %d, which is not there", name, seq)
			}
		}
		if resp.GetPosition() != seqs[len(seqs)-1] {
			t.Errorf("%s has position %d", name, resp.GetPosition())
		}
	}
}
