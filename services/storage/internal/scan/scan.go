// Package scan reads partitions: Arrow Flight DoGet with a storage.v1.ScanRequest as the ticket (see
// proto/storage/v1/SCAN.md).
//
// A scan is one pass over one consistent view. It decodes only the columns the filter needs, then, for
// rows that match, those the caller wants. In primary key order it streams and stops at the limit;
// otherwise it keeps the best rows in a heap (small limits) or sorts what fits in memory.
package scan

import (
	"context"
	"time"

	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/golang-lru/v2"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/rowbatch"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/stream"
)

// Shards is what scanning needs from the node.
type Shards interface {
	// Reader waits until the local state of the shard is as consistent as wanted, and returns the store to read
	// from. maxAge is for CONSISTENCY_STALE.
	Reader(ctx context.Context, shard uint32, want storagev1.Consistency, maxAge time.Duration) (pebble.Reader, error)
	// Streams returns the shard's STREAM tables, NotLeader if this node does not lead it.
	Streams(ctx context.Context, shard uint32) (*stream.Store, error)
	// Table returns the newest version of a table that exists.
	Table(id uint32) (*catalog.Table, bool)
	// RoleOf returns an account's role; exists is false for ids without one and for dropped accounts.
	RoleOf(user string) (role catalog.Role, exists bool, err error)
}

// Config tunes a Server; zero fields take the defaults.
type Config struct {
	// Allocator of Arrow memory.
	Allocator memory.Allocator
	// WaitVersion returns once the catalog that Shards knows has a version; nil means that it always has.
	WaitVersion func(ctx context.Context, version uint64) error
	// Open refuses users whose accounts are closed for good; nil refuses nobody.
	Open func(user string) error
	// Cold reads the segments that the shards' state names.
	Cold *cold.Readers
	// SortBytesMax bounds what one scan may hold to sort. Zero means 64 MiB.
	SortBytesMax int
}

const (
	// sortBytesDefault bounds one sort; larger results are ordered by the query role's engine.
	sortBytesDefault = 64 << 20
	// layoutsMax bounds the schemas kept encoded: one per table and column list in use.
	layoutsMax = 1024
	// catalogWaitMax bounds how long a scan waits for the catalog it was bound to.
	catalogWaitMax = 5 * time.Second
)

// Server is the storage role's Flight service. Only DoGet is served.
type Server struct {
	flight.BaseFlightServer

	shards  Shards
	cfg     Config
	layouts *lru.Cache[string, *layout]
}

// NewServer makes the service over the node's shards.
func NewServer(shards Shards, cfg Config) (*Server, error) {
	if cfg.Allocator == nil {
		cfg.Allocator = memory.NewGoAllocator()
	}
	if cfg.SortBytesMax == 0 {
		cfg.SortBytesMax = sortBytesDefault
	}
	layouts, err := lru.New[string, *layout](layoutsMax)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "make the scan service: %w", err)
	}
	return &Server{shards: shards, cfg: cfg, layouts: layouts}, nil
}

// DoGet answers a scan ticket.
func (s *Server) DoGet(ticket *flight.Ticket, out flight.FlightService_DoGetServer) error {
	req := new(storagev1.ScanRequest)
	if err := proto.Unmarshal(ticket.GetTicket(), req); err != nil {
		return dberr.New(dberr.InvalidArgument, "the ticket is no scan request: %w", err)
	}
	return s.Scan(out.Context(), req, out)
}

// Scan answers a request.
func (s *Server) Scan(ctx context.Context, req *storagev1.ScanRequest, to rowbatch.FlightSender) error {
	if err := s.waitCatalog(ctx, req.GetCatalogVersion()); err != nil {
		return err
	}
	p, err := s.plan(req)
	if err != nil {
		return err
	}
	rows, position, err := s.open(ctx, p)
	if err != nil {
		return err
	}
	out := newOutput(s.cfg.Allocator, p, to)
	defer out.release()
	err = out.start(position)
	if err == nil {
		err = p.run(ctx, rows, out, s.cfg.SortBytesMax)
	}
	if closeErr := rows.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return out.flush()
}

// open starts reading, and tells the position of what is read.
func (s *Server) open(ctx context.Context, p *plan) (rows, uint64, error) {
	shard := p.req.GetShard()
	if p.table.Kind == catalog.StreamTable {
		store, err := s.shards.Streams(ctx, shard)
		if err != nil {
			return nil, 0, err
		}
		list, position, err := store.Rows(p.table, p.user)
		if err != nil {
			return nil, 0, err
		}
		return newStreamRows(list, p), position, nil
	}
	maxAge := time.Duration(p.req.GetMaxStalenessMs()) * time.Millisecond
	reader, err := s.shards.Reader(ctx, shard, p.req.GetConsistency(), maxAge)
	if err != nil {
		return nil, 0, err
	}
	stored, position, err := s.openStored(ctx, reader, p, nil)
	if err != nil {
		return nil, 0, err
	}
	if p.req.GetAllUsers() && p.table.Kind.PerUser() {
		return &ownedRows{storedOrMerged: stored, shards: s.shards, open: s.isOpen, caller: catalog.Role(p.req.GetIdentity().GetRole())}, position, nil
	}
	return stored, position, nil
}

func (s *Server) isOpen(user string) bool { return s.cfg.Open == nil || s.cfg.Open(user) == nil }

func (s *Server) waitCatalog(ctx context.Context, version uint64) error {
	if version == 0 || s.cfg.WaitVersion == nil {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, catalogWaitMax)
	defer cancel()
	err := s.cfg.WaitVersion(wait, version)
	if err != nil && ctx.Err() == nil {
		return dberr.New(dberr.Unavailable, "this node's catalog is behind (catalogWaitMax): %w", err)
	}
	return err
}
