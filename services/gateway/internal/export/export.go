// Package export makes the archive of all that a user has, while it is sent: nothing is stored, and memory does not grow with what there is.
//
// It reads as any client does, one SELECT for each file, so what a user may not read is in no archive. A ZIP is written front to back, so each
// of a table's two files is a reading of its own; the manifest, which comes last, says up to which position each one is.
package export

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow/flight"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
)

// exportsMax is how many exports a gateway sends at a time: each holds a place among the statements of a query node.
const exportsMax = 4

// format is the version of the archive's layout.
const format = 1

// Config is what exports stand on.
type Config struct {
	// Query answers StatementTickets.
	Query flight.FlightServiceClient
	// Tables are the tables there are, in no order.
	Tables func() []*catalog.Table
	Now    func() time.Time
}

// Exports sends archives.
type Exports struct {
	cfg Config

	mu      sync.Mutex
	running map[string]bool // by user
}

// New makes it.
func New(cfg Config) *Exports { return &Exports{cfg: cfg, running: map[string]bool{}} }

// Begin takes a place for the export of a user, who has one at a time. Call end when it is over.
func (e *Exports) Begin(user string) (end func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.running[user]:
		return nil, dberr.New(dberr.RateLimited, "an export of user '%s' is being sent already: there is one at a time", user)
	case len(e.running) >= exportsMax:
		return nil, dberr.New(dberr.RateLimited, "%d exports are being sent, the limit is %d (exportsMax): try again later", len(e.running), exportsMax)
	}
	e.running[user] = true
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.running, user)
	}, nil
}

// Request is whose data is exported, and for whom: the owner, or somebody who may act for the owner.
type Request struct {
	ID     string
	Caller catalog.Identity
	User   string
}

// Write sends the archive. What was written before an error is no archive.
func (e *Exports) Write(ctx context.Context, req Request, w io.Writer) error {
	a := &archive{exports: e, req: req, zip: zip.NewWriter(w), manifest: manifest{Format: format, ExportID: req.ID, UserID: req.User,
		CreatedAt: e.cfg.Now().UTC().Format(time.RFC3339Nano), Tables: []tableEntry{}, Members: []member{}, NotIncluded: notIncluded}}
	tables := slices.DeleteFunc(e.cfg.Tables(), func(t *catalog.Table) bool { return t.Kind != catalog.UserTable })
	slices.SortFunc(tables, func(x, y *catalog.Table) int { return strings.Compare(x.QualifiedName(), y.QualifiedName()) })
	for _, t := range tables {
		if err := a.table(ctx, t); err != nil {
			return err
		}
	}
	if err := a.document("schema.json", a.schemas); err != nil {
		return err
	}
	if err := a.document("manifest.json", a.manifest); err != nil {
		return err
	}
	return a.zip.Close()
}

var notIncluded = []string{"rows of STREAM tables, which are in memory for a time only", "rows of SHARED tables, which are nobody's",
	"rows that were deleted", "the account: its e-mail address and metadata are in system.users"}

// manifest is the archive's last member.
type manifest struct {
	Format      int          `json:"format"`
	ExportID    string       `json:"export_id"`
	UserID      string       `json:"user_id"`
	CreatedAt   string       `json:"created_at"`
	Tables      []tableEntry `json:"tables"`
	Members     []member     `json:"members"`
	NotIncluded []string     `json:"not_included"`
}

type tableEntry struct {
	Namespace     string `json:"namespace"`
	Table         string `json:"table"`
	SchemaVersion uint32 `json:"schema_version"`
}

// member is a file of the archive. Position is the highest _seq in it, as text, as it has 63 bits.
type member struct {
	Name     string `json:"name"`
	Rows     uint64 `json:"rows"`
	Bytes    uint64 `json:"bytes"`
	SHA256   string `json:"sha256"`
	Position string `json:"position,omitempty"`
}

type archive struct {
	exports  *Exports
	req      Request
	zip      *zip.Writer
	manifest manifest
	schemas  []tableSchema
}

type tableSchema struct {
	Namespace     string         `json:"namespace"`
	Table         string         `json:"table"`
	SchemaVersion uint32         `json:"schema_version"`
	Columns       []columnSchema `json:"columns"`
}

type columnSchema struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	ColumnID   uint32 `json:"column_id"`
	PrimaryKey bool   `json:"primary_key"`
	NotNull    bool   `json:"not_null"`
	Unique     bool   `json:"unique"`
}

// table adds both files of a table.
func (a *archive) table(ctx context.Context, t *catalog.Table) error {
	schema := tableSchema{Namespace: t.Namespace, Table: t.Name, SchemaVersion: t.SchemaVersion, Columns: []columnSchema{}}
	names := []string{catalog.SeqColumn}
	for _, c := range t.VisibleColumns() {
		schema.Columns = append(schema.Columns, columnSchema{c.Name, c.Type.String(), c.ID, c.PrimaryKey, c.NotNull, c.Unique})
		names = append(names, quoted(c.Name))
	}
	a.schemas = append(a.schemas, schema)
	a.manifest.Tables = append(a.manifest.Tables, tableEntry{t.Namespace, t.Name, t.SchemaVersion})
	sql := fmt.Sprintf("SELECT %s FROM %s.%s", strings.Join(names, ", "), quoted(t.Namespace), quoted(t.Name))
	for _, kind := range []struct {
		ending string
		make   func(io.Writer) sink
	}{{"data.parquet", newParquet}, {"data.ndjson", newNDJSON}} {
		if err := a.data(ctx, t.Namespace+"/"+t.Name+"/"+kind.ending, sql, kind.make); err != nil {
			return dberr.New(dberr.CodeOf(err), "export %s: %w", t.QualifiedName(), err)
		}
	}
	return nil
}

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// data adds one file with the rows of a SELECT.
func (a *archive) data(ctx context.Context, name, sql string, make func(io.Writer) sink) error {
	out, err := a.create(name)
	if err != nil {
		return err
	}
	rows, position, err := a.exports.copyRows(ctx, a.ticket(sql), make(out))
	if err != nil {
		return err
	}
	a.manifest.Members = append(a.manifest.Members, member{Name: name, Rows: rows, Bytes: out.bytes, SHA256: out.checksum(), Position: fmt.Sprint(position)})
	return nil
}

// ticket reads as the caller, or, of another user, as that one, if the caller may.
func (a *archive) ticket(sql string) *queryv1.StatementTicket {
	if a.req.Caller.UserID != a.req.User {
		sql = "EXECUTE AS USER '" + strings.ReplaceAll(a.req.User, "'", "''") + "' (" + sql + ")"
	}
	return &queryv1.StatementTicket{Identity: catalog.IdentityToProto(a.req.Caller), Sql: sql, Unhurried: true}
}

// document adds a small file; the manifest does not list itself.
func (a *archive) document(name string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return dberr.New(dberr.Internal, "write %s: %w", name, err)
	}
	out, err := a.create(name)
	if err != nil {
		return err
	}
	if _, err := out.Write(append(raw, '\n')); err != nil {
		return err
	}
	a.manifest.Members = append(a.manifest.Members, member{Name: name, Bytes: out.bytes, SHA256: out.checksum()})
	return nil
}

func (a *archive) create(name string) (*measured, error) {
	w, err := a.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: a.exports.cfg.Now()})
	if err != nil {
		return nil, dberr.New(dberr.Internal, "begin %s: %w", name, err)
	}
	return &measured{to: w, sum: sha256.New()}, nil
}

// measured is a member being written.
type measured struct {
	to    io.Writer
	sum   hash.Hash
	bytes uint64
}

func (m *measured) Write(p []byte) (int, error) {
	n, err := m.to.Write(p)
	_, _ = m.sum.Write(p[:n]) // a hash never fails
	m.bytes += uint64(n)
	return n, err
}

func (m *measured) checksum() string { return hex.EncodeToString(m.sum.Sum(nil)) }
