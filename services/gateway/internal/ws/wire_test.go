package ws

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/coder/websocket"

	livev1 "github.com/kalamdb/kalamdb-go/proto/live/v1"
)

// TestWires replays recorded conversations: testdata/n for the wire of spec 4.1, testdata/s for 4.2.
//
//	connect [as=c] [path=/v1/ws] [bearer=user] [basic=user] [origin=url]   open a socket
//	send [as=c] [packed] [gzip]                 the client sends each line
//	recv [as=c] [n=1]                           the next frames the client gets
//	leave [as=c]                                the client hangs up
//	live                                        the next request the live role gets
//	subscribed | rows | change | ended          the live role says something
//	clock add=3s | revoke user=alice | cut      time passes, a session is revoked, the live stream breaks
func TestWires(t *testing.T) {
	for _, dir := range []string{"testdata/n", "testdata/s"} {
		datadriven.Walk(t, dir, func(t *testing.T, path string) {
			s := &script{world: newWorld(t, Config{}), conns: map[string]*websocket.Conn{}}
			datadriven.RunTest(t, path, s.run)
		})
	}
}

type script struct {
	*world
	conns map[string]*websocket.Conn
}

func arg(d *datadriven.TestData, key, otherwise string) string {
	for _, a := range d.CmdArgs {
		if a.Key == key && len(a.Vals) > 0 {
			return a.Vals[0]
		}
	}
	return otherwise
}

func num(t *testing.T, d *datadriven.TestData, key string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(arg(d, key, "0"), 10, 64)
	if err != nil {
		d.Fatalf(t, "%s: %v", key, err)
	}
	return n
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	c := s.conns[arg(d, "as", "c")]
	switch d.Cmd {
	case "connect":
		return s.connect(t, d)
	case "send":
		for line := range strings.SplitSeq(d.Input, "\n") {
			s.send(t, d, c, line)
		}
	case "recv":
		var out strings.Builder
		for range max(num(t, d, "n"), 1) {
			fmt.Fprintln(&out, hear(t, c))
		}
		return out.String()
	case "leave":
		_ = c.Close(websocket.StatusNormalClosure, "")
	case "live":
		return show(s.live.Next(t)) + "\n"
	case "clock":
		add, err := time.ParseDuration(arg(d, "add", ""))
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.pass(add)
	case "revoke":
		s.auth.revoke(arg(d, "user", ""))
	case "cut":
		s.live.Break(t)
	default:
		s.event(t, d)
	}
	return ""
}

func (s *script) connect(t *testing.T, d *datadriven.TestData) string {
	header := http.Header{}
	if user := arg(d, "bearer", ""); user != "" {
		header.Set("Authorization", "Bearer "+user+"-token")
	}
	if user := arg(d, "basic", ""); user != "" {
		header.Set("Authorization", "Basic "+basic(user, user+"-password"))
	}
	if origin := arg(d, "origin", ""); origin != "" {
		header.Set("Origin", origin)
	}
	c, resp, err := s.dial(t, arg(d, "path", "/v1/ws"), header)
	if err != nil {
		body, _ := io.ReadAll(resp.Body)
		return fmt.Sprintf("%d %s\n", resp.StatusCode, body)
	}
	s.conns[arg(d, "as", "c")] = c
	return "open\n"
}

func (s *script) send(t *testing.T, d *datadriven.TestData, c *websocket.Conn, line string) {
	kind, b := websocket.MessageText, []byte(line)
	if d.HasArg("packed") {
		kind, b = websocket.MessageBinary, repack(t, b)
	}
	if d.HasArg("gzip") {
		out, err := newCompressors().appendCompressed(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		kind, b = websocket.MessageBinary, out[2:] // without the frame's head; these are short
	}
	if err := c.Write(t.Context(), kind, b); err != nil {
		t.Fatal(err)
	}
}

func (s *script) event(t *testing.T, d *datadriven.TestData) {
	rows := func(line int) []byte {
		lines := strings.Split(d.Input, "\n")
		if line >= len(lines) || lines[line] == "" {
			return nil
		}
		b := []byte(strings.ReplaceAll(lines[line], "LONG", strings.Repeat("long ", 200)))
		if d.HasArg("packed") {
			return repack(t, b)
		}
		return b
	}
	id := num(t, d, "sub")
	switch d.Cmd {
	case "subscribed":
		s.live.Subscribed(t, &livev1.Subscribed{Subscription: id, Position: num(t, d, "position"), Reset_: d.HasArg("reset"),
			SnapshotFollows: d.HasArg("snapshot"), SchemaIpc: schemaOf(t, strings.ReplaceAll(arg(d, "columns", "id+body"), "+", ","))})
	case "rows":
		s.live.InitialRows(t, &livev1.InitialRows{Subscription: id, BatchNum: uint32(num(t, d, "batch")), HasMore: d.HasArg("more"),
			LastSeq: num(t, d, "last"), RowCount: uint32(num(t, d, "count")), Rows: rows(0)})
	case "change":
		kind := livev1.Kind(livev1.Kind_value["KIND_"+strings.ToUpper(arg(d, "kind", ""))])
		m := &livev1.Changed{Subscriptions: []uint64{id}, Kind: kind, Seq: num(t, d, "seq")}
		switch kind {
		case livev1.Kind_KIND_DELETE:
			m.OldRows = rows(0)
		default:
			m.Rows, m.OldRows = rows(0), rows(1)
		}
		s.live.Changed(t, m)
	case "ended":
		s.live.Ended(t, &livev1.Ended{Subscription: id, Code: arg(d, "code", ""), Message: d.Input, Position: num(t, d, "position")})
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
}

// show prints what the live role was asked, without what every request has.
func show(m *livev1.ConnectRequest) string {
	switch r := m.GetRequest().(type) {
	case *livev1.ConnectRequest_NextBatch:
		return fmt.Sprintf("next batch %d", r.NextBatch)
	case *livev1.ConnectRequest_Unsubscribe:
		return fmt.Sprintf("unsubscribe %d", r.Unsubscribe)
	}
	q := m.GetSubscribe()
	out := fmt.Sprintf("subscribe %d user=%s encoding=%s batch=%d snapshot=%t", q.GetSubscription(),
		q.GetPlan().GetUserId(), strings.ToLower(strings.TrimPrefix(q.GetEncoding().String(), "ENCODING_")), q.GetBatchSize(), q.GetSnapshot())
	if q.LastRows != nil {
		out += fmt.Sprintf(" last_rows=%d", *q.LastRows)
	}
	if q.FromSeq != nil {
		out += fmt.Sprintf(" from=%d", *q.FromSeq)
	}
	if q.GetOptionsJson() != "" {
		out += " options=" + q.GetOptionsJson()
	}
	return out + " as " + q.GetClientSubscriptionId() + ": " + q.GetPlan().GetSql()
}
