package live

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/predicate"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	exprv1 "github.com/kalamdb/kalamdb-go/proto/expr/v1"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/storagefake"
)

func inRoom(room string) *exprv1.Expr {
	return predicate.Call("=", predicate.Column(2), predicate.Literal(datum.Text(room)))
}

func anyRoom(string) bool { return true }

// text numbers _seq from the first one, so that expected frames can be read.
func text(b []byte) string {
	s := string(b)
	for i := range 64 {
		s = strings.ReplaceAll(s, fmt.Sprint(storagefake.FirstSeq+uint64(i)), fmt.Sprintf("#%d", i))
	}
	return s
}

func TestSnapshotThenChanges(t *testing.T) {
	w := newWorld(t, Config{})
	w.put("alice", 1, "a", "one")
	w.put("bob", 1, "a", "not alice's")
	w.put("alice", 2, "a", "two")
	w.put("alice", 1, "a", "uno")
	c := w.gateway().subscribe("alice", withSnapshot)
	if s := c.waitSubscribed(); s.GetPosition() != storagefake.FirstSeq+4 || !s.GetSnapshotFollows() || s.GetReset_() || len(s.GetSchemaIpc()) == 0 {
		t.Fatalf("subscribed %v", s)
	}
	r := c.waitRows()
	want := `[{"id":"2","room":"a","body":"two","_seq":"#3"},{"id":"1","room":"a","body":"uno","_seq":"#4"}]`
	if text(r.GetRows()) != want || r.GetHasMore() || r.GetRowCount() != 2 || r.GetBatchNum() != 0 || r.GetLastSeq() != storagefake.FirstSeq+4 {
		t.Fatalf("rows %s\n%v", text(r.GetRows()), r)
	}
	w.put("alice", 3, "b", "three")
	w.put("alice", 3, "b", "drei")
	w.storage.Delete(messages, "alice", 3)
	for _, want := range []string{
		`KIND_INSERT [{"id":"3","room":"b","body":"three","_seq":"#5"}] `,
		`KIND_UPDATE [{"id":"3","room":"b","body":"drei","_seq":"#6"}] [{"id":"3","body":"three","_seq":"#5"}]`,
		`KIND_DELETE  [{"id":"3","room":"b","body":"drei","_seq":"#7"}]`,
	} {
		ch := c.waitChanged()
		if got := fmt.Sprintf("%s %s %s", ch.GetKind(), text(ch.GetRows()), text(ch.GetOldRows())); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestEmptySnapshot(t *testing.T) {
	w := newWorld(t, Config{})
	c := w.gateway().subscribe("alice", withSnapshot)
	c.waitSubscribed()
	if r := c.waitRows(); string(r.GetRows()) != "[]" || r.GetHasMore() || r.GetRowCount() != 0 || r.GetLastSeq() != 0 {
		t.Fatalf("%v", r)
	}
}

func TestFilterTransitions(t *testing.T) {
	w := newWorld(t, Config{})
	w.put("alice", 1, "main", "x")
	g := w.gateway()
	// A projection without the column of the filter and without the key: the key comes all the same.
	c := g.subscribe("alice", withFilter(inRoom("main")), withColumns(3))
	c.waitSubscribed()
	w.put("alice", 1, "other", "x")        // leaves
	w.put("alice", 1, "other", "y")        // stays out
	w.put("alice", 1, "main", "y")         // comes back
	w.put("alice", 1, "main", "y")         // nothing visible but _seq
	w.storage.Delete(messages, "alice", 1) // gone
	w.put("alice", 2, "other", "z")        // never in
	w.storage.Delete(messages, "alice", 2) // never in
	w.put("alice", 3, "main", "last")      // in
	for _, want := range []string{
		`KIND_DELETE  [{"body":"x","id":"1","_seq":"#2"}]`,
		`KIND_INSERT [{"body":"y","id":"1","_seq":"#4"}] `,
		`KIND_UPDATE [{"body":"y","id":"1","_seq":"#5"}] [{"id":"1","_seq":"#4"}]`,
		`KIND_DELETE  [{"body":"y","id":"1","_seq":"#6"}]`,
		`KIND_INSERT [{"body":"last","id":"3","_seq":"#9"}] `,
	} {
		ch := c.waitChanged()
		if got := fmt.Sprintf("%s %s %s", ch.GetKind(), text(ch.GetRows()), text(ch.GetOldRows())); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestSubscribeAndWriteAtOnce(t *testing.T) {
	w := newWorld(t, Config{})
	g := w.gateway()
	rounds := 10_000
	if testing.Short() {
		rounds = 500
	}
	for i := range rounds {
		user := fmt.Sprintf("u%d", i%7)
		c := g.subscribe(user)
		position := c.waitSubscribed().GetPosition()
		first := w.put(user, int64(i), "a", "1")
		second := w.put(user, int64(i), "a", "2")
		for _, want := range []uint64{first, second} {
			if ch := c.waitChanged(); ch.GetSeq() != want || want <= position {
				t.Fatalf("round %d: got %d instead of %d, position %d", i, ch.GetSeq(), want, position)
			}
		}
		c.unsubscribe()
	}
}

func TestManyGroupsShareEvaluation(t *testing.T) {
	w := newWorld(t, Config{})
	g, other := w.gateway(), w.gateway()
	var all []*client
	for i := range 60 {
		c := g.subscribe("alice", withFilter(inRoom(fmt.Sprint("r", i%6))))
		c.waitSubscribed()
		all = append(all, c)
	}
	lone := other.subscribe("alice", withFilter(inRoom("r3")))
	lone.waitSubscribed()
	if st := w.live.hub.Stats(); st.Groups != 6 || st.Shapes != 6 || st.Partitions != 1 || st.Subscriptions != 61 {
		t.Fatalf("%+v", st)
	}
	seq := w.put("alice", 1, "r3", "x")
	for i, c := range all {
		if i%6 == 3 {
			if ch := c.waitChanged(); ch.GetSeq() != seq || len(ch.GetSubscriptions()) != 10 {
				t.Fatalf("%v", ch)
			}
		}
	}
	if ch := lone.waitChanged(); ch.GetSeq() != seq || len(ch.GetSubscriptions()) != 1 {
		t.Fatalf("%v", ch)
	}
	if c := w.live.hub.Counts(); c.Matched.Load() != 1 || c.Delivered.Load() != 2 {
		t.Fatalf("matched %d, delivered %d", c.Matched.Load(), c.Delivered.Load())
	}
	all[3].unsubscribe()
	all[9].unsubscribe()
	fence := g.subscribe("alice", withFilter(inRoom("r0"))) // requests are handled in order
	fence.waitSubscribed()
	seq = w.put("alice", 2, "r3", "y")
	if ch := all[15].waitChanged(); ch.GetSeq() != seq || len(ch.GetSubscriptions()) != 8 {
		t.Fatalf("%v", ch)
	}
}

func TestResumeWithDeletes(t *testing.T) {
	w := newWorld(t, Config{})
	w.put("alice", 1, "a", "one")
	w.put("alice", 2, "a", "two")
	g := w.gateway()
	c := g.subscribe("alice", withSnapshot)
	c.waitSubscribed()
	c.waitRows()
	from := w.put("alice", 3, "a", "three")
	c.waitChanged()
	c.unsubscribe()
	want := []uint64{w.storage.Delete(messages, "alice", 1), w.put("alice", 4, "a", "four"), w.put("alice", 2, "a", "zwei")}
	again := w.gateway().subscribe("alice", withFrom(from))
	if s := again.waitSubscribed(); s.GetPosition() != from || s.GetReset_() || s.GetSnapshotFollows() {
		t.Fatalf("%v", s)
	}
	want = append(want, w.put("alice", 5, "a", "five"))
	for _, seq := range want {
		if ch := again.waitChanged(); ch.GetSeq() != seq {
			t.Fatalf("got %v, want seq %d", ch, seq)
		}
	}
}

func TestResumeWhereHistoryIsGone(t *testing.T) {
	w := newWorld(t, Config{})
	from := w.put("alice", 1, "a", "one")
	w.put("alice", 2, "a", "two")
	w.storage.Prune(messages, "alice")
	c := w.gateway().subscribe("alice", withFrom(from))
	if s := c.waitSubscribed(); !s.GetReset_() || !s.GetSnapshotFollows() || s.GetPosition() != storagefake.FirstSeq+2 {
		t.Fatalf("%v", s)
	}
	if r := c.waitRows(); r.GetRowCount() != 2 || r.GetHasMore() {
		t.Fatalf("%v", r)
	}
	seq := w.put("alice", 3, "a", "three")
	if ch := c.waitChanged(); ch.GetSeq() != seq {
		t.Fatalf("%v", ch)
	}
}

func TestLastRows(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 1000 {
		w.put("alice", int64(i), "a", "x")
	}
	g := w.gateway()
	c := g.subscribe("alice", withSnapshot, withLast(700), withBatch(500), withPush)
	c.waitSubscribed()
	var ids []string
	for more := true; more; {
		r := c.waitRows()
		more = r.GetHasMore()
		for _, part := range strings.Split(string(r.GetRows()), `"id":"`)[1:] {
			ids = append(ids, part[:strings.IndexByte(part, '"')])
		}
	}
	if len(ids) != 700 || ids[0] != "300" || ids[699] != "999" || ids[500] != "800" {
		t.Fatalf("%d rows: %v …", len(ids), ids[:3])
	}
	none := g.subscribe("alice", withSnapshot, withLast(0))
	if s := none.waitSubscribed(); s.GetSnapshotFollows() {
		t.Fatalf("%v", s)
	}
	if e := g.subscribe("alice", withSnapshot, withLast(20_000)).waitEnded(); e.GetCode() != string(dberr.LimitExceeded) {
		t.Fatalf("%v", e)
	}
}

func TestEvaluationErrorEndsTheSubscription(t *testing.T) {
	w := newWorld(t, Config{})
	g := w.gateway()
	div := predicate.Call(">", predicate.Call("/", predicate.Literal(datum.Int(1)), predicate.Column(1)), predicate.Literal(datum.Int(0)))
	c, fine := g.subscribe("alice", withFilter(div)), g.subscribe("alice")
	c.waitSubscribed()
	fine.waitSubscribed()
	ok := w.put("alice", 1, "a", "x")
	w.put("alice", 0, "a", "x")
	if ch := c.waitChanged(); ch.GetSeq() != ok {
		t.Fatalf("%v", ch)
	}
	if e := c.waitEnded(); e.GetCode() != string(dberr.ValueOutOfRange) || e.GetPosition() < ok {
		t.Fatalf("%v", e)
	}
	fine.waitChanged()
	fine.waitChanged()
}

func TestCatalogChangesEndSubscriptions(t *testing.T) {
	w := newWorld(t, Config{})
	shared := storagefake.Table(2, "news", catalog.SharedTable, catalog.Column{Name: "id", Type: catalog.Type{Kind: catalog.BigInt}})
	shared.Access = catalog.AccessPrivate
	doomed := storagefake.Table(3, "doomed", catalog.UserTable, catalog.Column{Name: "id", Type: catalog.Type{Kind: catalog.BigInt}})
	w.storage.SetTable(shared)
	w.storage.SetTable(doomed)
	w.storage.SetUser(&catalogv1.User{UserId: "svc", Role: catalogv1.Role_ROLE_SERVICE})
	w.storage.SetUser(&catalogv1.User{UserId: "eve", Role: catalogv1.Role_ROLE_USER})
	g := w.gateway()
	asService := func(s *livev1.Subscribe) { s.Plan.Identity.Role = catalogv1.Role_ROLE_SERVICE }
	news := g.subscribe("svc", withTable(2, 1), withShared, withColumns(1), asService)
	drop := g.subscribe("alice", withTable(3, 1), withColumns(1))
	altered := g.subscribe("bob")
	eve := g.subscribe("eve", withTable(3, 1), withColumns(1))
	for _, c := range []*client{news, drop, altered, eve} {
		c.waitSubscribed()
	}
	w.storage.SetUser(&catalogv1.User{UserId: "eve", Role: catalogv1.Role_ROLE_USER, DeletedAtUs: 1})
	if e := eve.waitEnded(); e.GetCode() != string(dberr.PermissionDenied) {
		t.Fatalf("dropped user: %v", e)
	}
	w.storage.SetUser(&catalogv1.User{UserId: "svc", Role: catalogv1.Role_ROLE_USER})
	if e := news.waitEnded(); e.GetCode() != string(dberr.PermissionDenied) {
		t.Fatalf("role changed: %v", e)
	}
	w.storage.DropTable(3)
	if e := drop.waitEnded(); e.GetCode() != string(dberr.NotFound) {
		t.Fatalf("dropped table: %v", e)
	}
	w.storage.SetTable(messagesTable(2))
	if e := altered.waitEnded(); e.GetCode() != string(dberr.SchemaChanged) || e.GetPosition() == 0 {
		t.Fatalf("altered table: %v", e)
	}
	// A plan that is newer than this node's copy of the catalog waits for it.
	early := g.subscribe("bob", withTable(messages, 3))
	w.storage.SetTable(messagesTable(3))
	early.waitSubscribed()
	if e := g.subscribe("bob", withTable(messages, 2)).waitEnded(); e.GetCode() != string(dberr.SchemaChanged) {
		t.Fatalf("old plan: %v", e)
	}
}

// A change of a later schema version comes before this node has heard of the version: it is not read as what it is not, and
// the position to resume at is before it.
func TestAChangeOfALaterSchemaVersion(t *testing.T) {
	w := newWorld(t, Config{})
	g := w.gateway()
	c := g.subscribe("alice")
	c.waitSubscribed()
	had := w.put("alice", 1, "a", "x")
	c.waitChanged()
	w.storage.PutRaw(messages, "alice", &storagev1.Change{Kind: storagev1.ChangeKind_CHANGE_KIND_INSERT, SchemaVersion: 2, Row: []byte{1}})
	if e := c.waitEnded(); e.GetCode() != string(dberr.SchemaChanged) || e.GetPosition() != had {
		t.Fatalf("ended as %s at %d, the last change was %d", e.GetCode(), e.GetPosition(), had)
	}
	resumed := g.subscribe("alice", withTable(messages, 2), withFrom(had))
	w.storage.SetTable(messagesTable(2))
	resumed.waitSubscribed()
	if ch := resumed.waitChanged(); ch.GetSeq() != had+1 {
		t.Errorf("resumed with %d", ch.GetSeq())
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, Config{SubscriptionsMax: 2})
	g := w.gateway()
	other := func(s *livev1.Subscribe) { s.Plan.UserId = "bob" }
	for name, c := range map[dberr.Code]*client{
		dberr.PermissionDenied: g.subscribe("alice", other),
		dberr.InvalidArgument:  g.subscribe("alice", withEncoding(99)),
		dberr.ColumnNotFound:   g.subscribe("alice", withColumns(77)),
		dberr.Unsupported:      g.subscribe("alice", withFilter(predicate.Call("no_such_function"))),
	} {
		if e := c.waitEnded(); e.GetCode() != string(name) {
			t.Errorf("got %v, want %s", e, name)
		}
	}
	g.subscribe("alice").waitSubscribed()
	g.subscribe("bob").waitSubscribed()
	if e := g.subscribe("carol").waitEnded(); e.GetCode() != string(dberr.LimitExceeded) {
		t.Fatalf("%v", e)
	}
	if st := w.live.hub.Stats(); st.Subscriptions != 2 || st.Shapes != 1 || st.Partitions != 2 {
		t.Fatalf("refused subscriptions left something: %+v", st)
	}
}

func TestListAndKill(t *testing.T) {
	w := newWorld(t, Config{})
	c := w.gateway().subscribe("alice")
	c.waitSubscribed()
	seq := w.put("alice", 1, "a", "x")
	c.waitChanged()
	list, err := w.client.List(t.Context(), &livev1.ListRequest{})
	if err != nil || len(list.GetQueries()) != 1 {
		t.Fatalf("%v %v", list, err)
	}
	q := list.GetQueries()[0]
	if q.GetLiveId() != "alice-c1-s1" || q.GetNamespace() != "app" || q.GetTable() != "messages" || q.GetUserId() != "alice" ||
		q.GetStatus() != "active" || q.GetChanges() != 1 || q.GetPosition() < seq || q.GetCreatedAtUs() == 0 || q.GetLastUpdateUs() == 0 {
		t.Fatalf("%v", q)
	}
	if _, err := w.client.Kill(t.Context(), &livev1.KillRequest{LiveId: "alice-c1-s2"}); !dberr.Is(err, dberr.NotFound) {
		t.Fatalf("%v", err)
	}
	if _, err := w.client.Kill(t.Context(), &livev1.KillRequest{LiveId: q.GetLiveId()}); err != nil {
		t.Fatal(err)
	}
	if e := c.waitEnded(); e.GetCode() != string(dberr.Canceled) || e.GetPosition() < seq {
		t.Fatalf("%v", e)
	}
	stats, err := w.client.NodeStats(t.Context(), &livev1.NodeStatsRequest{})
	if err != nil || stats.GetMetrics()["active_subscriptions"] != "0" || stats.GetMetrics()["live_changes_matched"] != "1" {
		t.Fatalf("%v %v", stats, err)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	w := newWorld(t, Config{})
	for range 3 {
		g := w.gateway()
		for i := range 50 {
			g.subscribe(fmt.Sprint("u", i), withSnapshot).waitSubscribed()
		}
		g.close()
	}
	g := w.gateway()
	g.subscribe("alice").waitSubscribed()
	// The streams before were closed; their handlers notice in their own time.
	for {
		st := w.live.hub.Stats()
		if st.Subscriptions == 1 && st.Partitions == 1 && st.Shapes == 1 && st.Streams == 1 && w.storage.Watches() == 1 {
			break
		}
		g.subscribe("alice").unsubscribe() // makes the loop wait for the role
		w.put("alice", 1, "a", "x")
	}
	if b := w.live.hub.Stats().BufferBytes; b != 0 {
		t.Fatalf("%d bytes of buffers were not given back", b)
	}
}
