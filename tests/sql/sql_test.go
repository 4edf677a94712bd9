// Package sqltest runs SQL against real storage and query roles. testdata holds the statements and
// what they answer; -rewrite updates the answers.
package sqltest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/datum"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/tests/cluster"
)

// answerBytesMax is more than any answer here.
const answerBytesMax = 1 << 20

// TestSQL runs testdata, with all rows in the hot store, and with all of them in segments behind each statement: an answer does not tell.
func TestSQL(t *testing.T) {
	t.Run("hot", func(t *testing.T) { runFiles(t, func(*cluster.Cluster) {}) })
	t.Run("cold", func(t *testing.T) { runFiles(t, func(c *cluster.Cluster) { c.Flush(t) }) })
}

func runFiles(t *testing.T, between func(*cluster.Cluster)) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		c, dir := cluster.Start(t), t.TempDir() // a folder that storages may be in
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "exec":
				defer between(c)
				d.Input = strings.ReplaceAll(d.Input, "$DIR", dir)
				return strings.ReplaceAll(exec(t, c, d), dir, "$DIR")
			case "jobs":
				return jobs(t, c, d)
			case "plan":
				return plan(t, c, d)
			case "flush":
				flush(t, c)
				return ""
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

// tablesMax is more tables than any test makes.
const tablesMax = 8

// flush moves the rows of all tables into segments.
func flush(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for shard := uint32(0); ; shard++ {
		for table := uint32(1); table <= tablesMax; table++ {
			_, err := c.Storage().Flush(t.Context(), &storagev1.FlushRequest{Shard: shard, TableId: table})
			switch {
			case dberr.Is(err, dberr.TableNotFound), dberr.Is(err, dberr.InvalidOperation): // there is none, or a STREAM table
			case dberr.Is(err, dberr.InvalidArgument) && shard > 0:
				return // there are no more shards
			case err != nil:
				t.Fatal(err)
			}
		}
	}
}

// TestAlteredHotRows: what testdata/alter.txt says of rows in segments holds of rows in the hot store.
func TestAlteredHotRows(t *testing.T) {
	c := cluster.Start(t)
	datadriven.RunTest(t, "testdata/alter.txt", func(t *testing.T, d *datadriven.TestData) string {
		if d.Cmd == "flush" {
			return ""
		}
		return exec(t, c, d)
	})
}

// identity reads user= and role=.
func identity(t *testing.T, d *datadriven.TestData) catalog.Identity {
	id := catalog.Identity{Role: catalog.RoleUser}
	d.ScanArgs(t, "user", &id.UserID)
	if d.HasArg("role") {
		var name string
		d.ScanArgs(t, "role", &name)
		role, ok := catalog.ParseRole(name)
		if !ok {
			d.Fatalf(t, "unknown role %s", name)
		}
		id.Role = role
	}
	return id
}

func exec(t *testing.T, c *cluster.Cluster, d *datadriven.TestData) string {
	req := &queryv1.ExecuteRequest{Identity: catalog.IdentityToProto(identity(t, d)), Sql: d.Input}
	d.MaybeScanArgs(t, "ns", &req.Namespace)
	d.MaybeScanArgs(t, "max_rows", &req.MaxRows)
	if d.HasArg("params") {
		var list string
		d.ScanArgs(t, "params", &list)
		for _, p := range strings.Split(list, "|") {
			req.Params = append(req.Params, parseParam(p))
		}
	}
	resp, err := c.Query().Execute(t.Context(), req)
	if err != nil {
		return errorText(err)
	}
	var out strings.Builder
	for _, r := range resp.GetResults() {
		out.WriteString(resultText(t, r))
	}
	if e := resp.GetError(); e != nil {
		fmt.Fprintf(&out, "statement %d: error %s: %s\n", resp.GetFailedStatement(), e.GetCode(), e.GetMessage())
	}
	return out.String()
}

// parseParam reads null, true, false, a number, or text (also as $text:…).
func parseParam(s string) *queryv1.Param {
	if text, ok := strings.CutPrefix(s, "$text:"); ok {
		return &queryv1.Param{Value: &queryv1.Param_Text{Text: text}}
	}
	switch s {
	case "null":
		return &queryv1.Param{Value: &queryv1.Param_Null{Null: true}}
	case "true", "false":
		return &queryv1.Param{Value: &queryv1.Param_Boolean{Boolean: s == "true"}}
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return &queryv1.Param{Value: &queryv1.Param_Integer{Integer: n}}
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		return &queryv1.Param{Value: &queryv1.Param_Float{Float: f}}
	}
	return &queryv1.Param{Value: &queryv1.Param_Text{Text: s}}
}

func errorText(err error) string {
	place := ""
	if line := dberr.FieldOf(err, dberr.FieldLine); line != "" {
		place = " at " + line + ":" + dberr.FieldOf(err, dberr.FieldColumn)
	}
	return fmt.Sprintf("error %s%s: %s\n", dberr.CodeOf(err), place, err)
}

// subscriptionID is random.
var subscriptionID = regexp.MustCompile(`sub-[0-9a-f]{8}`)

// jobID is random.
var jobID = regexp.MustCompile(`(FL|CO|MV|BK|RS)-[0-9a-f]{12}`)

// resultText shows one result: rows as a header and a line each, or the message.
func resultText(t *testing.T, r *queryv1.StatementResult) string {
	var out strings.Builder
	if len(r.GetArrowIpc()) > 0 {
		out.WriteString(rowsText(t, r.GetArrowIpc()))
	}
	if r.GetMessage() != "" {
		fmt.Fprintf(&out, "%s\n", jobID.ReplaceAllString(r.GetMessage(), "$1-…"))
	}
	if r.GetSubscriptionJson() != "" {
		fmt.Fprintf(&out, "%s\n", subscriptionID.ReplaceAllString(r.GetSubscriptionJson(), "sub-…"))
	}
	if r.GetTruncated() {
		fmt.Fprintf(&out, "truncated at %d row(s)\n", r.GetRowCount())
	}
	return out.String()
}

func rowsText(t *testing.T, data []byte) string {
	schema, batches, err := rowbatch.Decode(memory.DefaultAllocator, data, answerBytesMax)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	columns := rowbatch.ColumnsOf(schema)
	for i, c := range columns {
		fmt.Fprintf(&out, "%s%s:%s", separator(i), c.Name, c.Type)
	}
	out.WriteByte('\n')
	for _, b := range batches {
		for row := range int(b.NumRows()) {
			for i, c := range columns {
				out.WriteString(separator(i) + cellText(c, rowbatch.DatumAt(b.Column(i), row, c.Type)))
			}
			out.WriteByte('\n')
		}
		b.Release()
	}
	return out.String()
}

func separator(i int) string {
	if i == 0 {
		return ""
	}
	return " | "
}

// cellText hides what differs from run to run: points in time of the catalog, sizes, generated ids.
func cellText(c catalog.Column, d datum.Datum) string {
	switch {
	case d.IsNull():
		return "∅"
	case c.Name == "latency_ms", c.Name == "tested_at", c.Name == "total_bytes", c.Name == "used_bytes", c.Name == "created_at", c.Name == "updated_at", c.Name == "storage_bytes", c.Name == "_seq":
		return "…"
	}
	return datum.FormatText(d, c.Type)
}

// plan shows what a subscription was bound to.
func plan(t *testing.T, c *cluster.Cluster, d *datadriven.TestData) string {
	resp, err := c.Query().PlanSubscription(t.Context(), &queryv1.PlanSubscriptionRequest{
		Identity: catalog.IdentityToProto(identity(t, d)), Sql: d.Input})
	if err != nil {
		return errorText(err)
	}
	p := resp.GetPlan()
	out := fmt.Sprintf("%s.%s of %q, columns %v, filter %t", p.GetNamespace(), p.GetTable(), p.GetUserId(), p.GetColumnIds(), p.GetFilter() != nil)
	if resp.LastRows != nil || resp.BatchSize != nil || resp.FromSeq != nil {
		resp.Plan = nil
		// protojson varies its spaces on purpose.
		out += ", options " + strings.ReplaceAll(protojson.Format(resp), "\n", "")
		out = strings.Join(strings.Fields(out), " ")
	}
	return out + "\n"
}
