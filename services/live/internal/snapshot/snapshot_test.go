package snapshot

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
	"github.com/kalamdb/kalamdb-go/services/live/internal/match"
	"github.com/kalamdb/kalamdb-go/services/live/internal/storagefake"
)

const table = 1

// world is a storage node and a reader of it.
type world struct {
	storage *storagefake.Storage
	reader  *Reader
	shape   *match.Shape
}

// one is the way to the only shard.
type one struct{ conn *rpcnet.Conn }

func (o one) Shard(uint32) grpc.ClientConnInterface { return o.conn }

func newWorld(t *testing.T) *world {
	network := rpcnet.NewLocal()
	storage, err := storagefake.Start(network)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(storage.Stop)
	tab := storagefake.Table(table, "messages", catalog.UserTable,
		catalog.Column{Name: "id", Type: catalog.Type{Kind: catalog.BigInt}},
		catalog.Column{Name: "body", Type: catalog.Type{Kind: catalog.Text}})
	storage.SetTable(tab)
	conn, err := rpcnet.Dial(network, "storage")
	if err != nil {
		t.Fatal(err)
	}
	shape, err := match.NewCache().Get(match.Spec{Table: tab, Columns: []uint32{1, 2}, Encoding: livev1.Encoding_ENCODING_JSON, UserID: "ann",
		Role: catalog.RoleUser})
	if err != nil {
		t.Fatal(err)
	}
	return &world{storage, NewReader(one{conn}), shape}
}

func (w *world) put(id int64, body string) uint64 {
	return w.storage.Put(table, "ann", datum.Int(id), datum.Text(body))
}

func (w *world) request() Request {
	return Request{Shape: w.shape, Identity: &catalogv1.Identity{UserId: "ann", Role: catalogv1.Role_ROLE_USER}, User: "ann", Rows: 100, BatchRows: 100}
}

// read returns a page and the ids of its batches, as "1,2|3".
func (w *world) read(t *testing.T, change func(*Request)) (*Page, string) {
	t.Helper()
	req := w.request()
	change(&req)
	page, err := w.reader.Read(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var batches []string
	for _, b := range page.Batches {
		var rows []map[string]string
		if err := json.Unmarshal(b.Rows, &rows); err != nil || len(rows) != b.Count {
			t.Fatalf("%d rows in %q: %v", b.Count, b.Rows, err)
		}
		var ids []string
		for _, r := range rows {
			ids = append(ids, r["id"])
		}
		batches = append(batches, strings.Join(ids, ","))
	}
	return page, strings.Join(batches, "|")
}

func TestPages(t *testing.T) {
	w := newWorld(t)
	if page, got := w.read(t, func(*Request) {}); got != "" || len(page.Batches) != 1 || page.More || page.FirstSeq != 0 || page.Position != storagefake.FirstSeq {
		t.Fatalf("an empty partition: %+v", page)
	}
	seqs := map[int64]uint64{}
	for _, id := range []int64{3, 1, 2, 5, 4} { // rows come in the order in which they were written
		seqs[id] = w.put(id, fmt.Sprint(id))
	}
	for _, c := range []struct {
		name   string
		change func(*Request)
		want   string
		more   bool
		first  int64
		last   int64
	}{
		{"all", func(*Request) {}, "3,1,2,5,4", false, 3, 4},
		{"batches", func(r *Request) { r.BatchRows = 2 }, "3,1|2,5|4", false, 3, 4},
		{"a page", func(r *Request) { r.Rows, r.BatchRows = 3, 2 }, "3,1|2", true, 3, 2},
		{"exactly the rest", func(r *Request) { r.Rows = 5 }, "3,1,2,5,4", false, 3, 4},
		{"the next page", func(r *Request) { r.Rows, r.After = 2, seqs[2] }, "5,4", false, 5, 4},
		{"only what was there", func(r *Request) { r.UpTo = seqs[2] }, "3,1,2", false, 3, 2},
		{"the newest", func(r *Request) { r.Newest, r.Rows = true, 2 }, "5,4", false, 5, 4},
		{"the newest in batches", func(r *Request) { r.Newest, r.Rows, r.BatchRows = true, 3, 2 }, "2,5|4", false, 2, 4},
	} {
		page, got := w.read(t, c.change)
		if got != c.want || page.More != c.more || page.FirstSeq != seqs[c.first] || page.Batches[len(page.Batches)-1].LastSeq != seqs[c.last] ||
			page.Position != w.storage.Position() {
			t.Errorf("%s: %s, %+v", c.name, got, page)
		}
	}
}

// A page ends after a batch of a megabyte, however many rows were asked for.
func TestPagesAreBoundedInBytes(t *testing.T) {
	w := newWorld(t)
	wide := strings.Repeat("x", batchBytesMax/4)
	for id := range int64(12) {
		w.put(id, wide)
	}
	page, got := w.read(t, func(*Request) {})
	if !page.More || len(page.Batches) != 1 || page.Batches[0].Count > 5 {
		t.Errorf("%s: more %t", got, page.More)
	}
	var all []string
	for after := uint64(0); ; {
		page, got := w.read(t, func(r *Request) { r.After = after })
		all = append(all, got)
		if after = page.Batches[len(page.Batches)-1].LastSeq; !page.More {
			break
		}
	}
	if got := strings.ReplaceAll(strings.Join(all, ","), "|", ","); got != "0,1,2,3,4,5,6,7,8,9,10,11" {
		t.Errorf("pages %v", all)
	}
}

// More than one Arrow record, in both directions.
func TestManyRecords(t *testing.T) {
	w := newWorld(t)
	const rows = 700
	for id := range int64(rows) {
		w.put(id, "x")
	}
	for _, newest := range []bool{false, true} {
		page, got := w.read(t, func(r *Request) { r.Rows, r.BatchRows, r.Newest = rows, rows, newest })
		ids := strings.Split(got, ",")
		if len(ids) != rows || ids[0] != "0" || ids[rows-1] != "699" || page.More {
			t.Errorf("newest %t: %d rows from %s to %s", newest, len(ids), ids[0], ids[len(ids)-1])
		}
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	w := newWorld(t)
	w.put(1, "x")
	w.storage.LimitScans(10)
	if _, err := w.reader.Read(t.Context(), w.request()); !dberr.Is(err, dberr.LimitExceeded) {
		t.Errorf("too many rows: %v", err)
	}
	w.storage.LimitScans(0)
	w.storage.Lead("", false)
	if _, err := w.reader.Read(t.Context(), w.request()); !dberr.Is(err, dberr.NotLeader) {
		t.Errorf("no leader: %v", err)
	}
	w.storage.Stop()
	if _, err := w.reader.Read(t.Context(), w.request()); !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("no node: %v", err)
	}
}
