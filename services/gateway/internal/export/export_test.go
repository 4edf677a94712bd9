package export

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	"github.com/kalamdb/kalamdb-go/internal/rpcnet"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/gatewaytest"
)

var notes = (&catalog.Table{ID: 1, Namespace: "app", Name: "no\"tes", Kind: catalog.UserTable, SchemaVersion: 2, Columns: []catalog.Column{
	{ID: 1, Name: "id", Type: catalog.Type{Kind: catalog.BigInt}, PrimaryKey: true, NotNull: true}, {ID: 2, Name: "body", Type: catalog.Type{Kind: catalog.Text}}}}).Index()

// columns are what a scan of notes answers with.
var columns = []catalog.Column{{Name: catalog.SeqColumn, Type: catalog.Type{Kind: catalog.BigInt}, NotNull: true}, notes.Columns[0], notes.Columns[1]}

// with makes exports over a scripted query role.
func with(t *testing.T, get func(*queryv1.StatementTicket, flight.FlightService_DoGetServer) error) *Exports {
	t.Helper()
	net := rpcnet.NewLocal()
	(&gatewaytest.Query{OnGet: get}).Serve(t, net)
	conn, err := rpcnet.Dial(net, "query")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	shared := (&catalog.Table{ID: 2, Namespace: "app", Name: "all", Kind: catalog.SharedTable, Columns: notes.Columns}).Index()
	return New(Config{Query: flight.NewFlightServiceClient(conn), Now: time.Now, Tables: func() []*catalog.Table { return []*catalog.Table{shared, notes} }})
}

var ann = Request{ID: "UE-000000000001", User: "ann", Caller: catalog.Identity{UserID: "ann", Role: catalog.RoleUser}}

// An export reads as its caller, only USER tables, and each table for each of its files.
func TestWhatIsAsked(t *testing.T) {
	var mu sync.Mutex
	var asked []*queryv1.StatementTicket
	e := with(t, func(q *queryv1.StatementTicket, to flight.FlightService_DoGetServer) error {
		mu.Lock()
		asked = append(asked, q)
		mu.Unlock()
		return gatewaytest.SendBatches(to, gatewaytest.Batch(t, columns, []datum.Datum{datum.Int(7), datum.Int(1), datum.Text("x")}))
	})
	if err := e.Write(t.Context(), ann, io.Discard); err != nil {
		t.Fatal(err)
	}
	const sql = `SELECT _seq, "id", "body" FROM "app"."no""tes"`
	for _, q := range asked {
		if q.GetSql() != sql || q.GetIdentity().GetUserId() != "ann" || !q.GetUnhurried() {
			t.Errorf("asked %v", q)
		}
	}
	if len(asked) != 2 {
		t.Errorf("asked %d times", len(asked))
	}
	asked = nil
	other := ann
	other.Caller, other.User = catalog.Identity{UserID: "chief", Role: catalog.RoleDBA}, "o'neil"
	if err := e.Write(t.Context(), other, io.Discard); err != nil {
		t.Fatal(err)
	}
	if want := "EXECUTE AS USER 'o''neil' (" + sql + ")"; asked[0].GetSql() != want || asked[0].GetIdentity().GetUserId() != "chief" {
		t.Errorf("asked %v", asked[0])
	}
}

func TestAUserHasOneExportAtATime(t *testing.T) {
	e := New(Config{})
	end, err := e.Begin("ann")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Begin("ann"); !dberr.Is(err, dberr.RateLimited) || !strings.Contains(err.Error(), "ann") {
		t.Errorf("a second one: %v", err)
	}
	for _, user := range []string{"b", "c", "d"} {
		if _, err := e.Begin(user); err != nil {
			t.Error(err)
		}
	}
	if _, err := e.Begin("eve"); !dberr.Is(err, dberr.RateLimited) || !strings.Contains(err.Error(), "exportsMax") {
		t.Errorf("one too many: %v", err)
	}
	end()
	if _, err := e.Begin("ann"); err != nil {
		t.Errorf("after the first: %v", err)
	}
}

var errHungUp = errors.New("the client is gone")

// hangsUp takes some bytes.
type hangsUp struct{ left int }

func (h *hangsUp) Write(p []byte) (int, error) {
	if h.left -= len(p); h.left < 0 {
		return 0, errHungUp
	}
	return len(p), nil
}

// A client that is gone ends the reading, which would never end by itself.
func TestAClientThatHangsUpEndsTheReading(t *testing.T) {
	ended := make(chan error, 1)
	rows := make([][]datum.Datum, 64)
	for i := range rows {
		random := make([]byte, 32<<10) // which does not become smaller
		_, _ = rand.Read(random)
		rows[i] = []datum.Datum{datum.Int(int64(i)), datum.Int(int64(i)), datum.Text(hex.EncodeToString(random))}
	}
	e := with(t, func(_ *queryv1.StatementTicket, to flight.FlightService_DoGetServer) error {
		batch := gatewaytest.Batch(t, columns, rows...)
		defer batch.Release()
		w := rowbatch.NewFlightWriter(to, memory.DefaultAllocator)
		err := w.Start(rowbatch.SchemaHeader(batch.Schema(), memory.DefaultAllocator), nil)
		for err == nil {
			err = w.Write(batch)
		}
		ended <- to.Context().Err()
		return err
	})
	if err := e.Write(t.Context(), ann, &hangsUp{left: 1000}); !errors.Is(err, errHungUp) && !dberr.Is(err, dberr.Unavailable) {
		t.Errorf("got %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the reading ended with %v", err)
	}
}

// What breaks while it is read breaks the export: an archive that lacks rows must not look whole.
func TestABrokenReadingBreaksTheExport(t *testing.T) {
	e := with(t, func(_ *queryv1.StatementTicket, to flight.FlightService_DoGetServer) error {
		if err := gatewaytest.SendBatches(to, gatewaytest.Batch(t, columns, []datum.Datum{datum.Int(7), datum.Int(1), datum.Null})); err != nil {
			return err
		}
		return dberr.New(dberr.Corrupt, "a segment is damaged")
	})
	var out bytes.Buffer
	if err := e.Write(t.Context(), ann, &out); !dberr.Is(err, dberr.Corrupt) || !strings.Contains(err.Error(), "app.no\"tes") {
		t.Errorf("got %v", err)
	}
	if bytes.Contains(out.Bytes(), []byte("manifest.json")) {
		t.Error("the archive has its manifest")
	}
}
