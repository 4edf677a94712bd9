// Package segmentsync brings the files of segments to the replicas of their shard: before a leader commits a segment a
// majority has it, and who misses one later fetches it from the others.
package segmentsync

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	storagev1 "github.com/kalamdb/kalamdb-go/proto/storage/v1"
	"github.com/kalamdb/kalamdb-go/services/storage/internal/cold"
)

const (
	// partBytes is how much of a file one message carries.
	partBytes = 1 << 20
	// stragglerTimeout is how long replicas beyond a majority are waited for: they fetch a segment now or when they
	// apply it.
	stragglerTimeout = 2 * time.Second
	// askTimeout and askBytesPerSecond bound what one replica is given to fetch a segment: a disk that stands still answers nothing,
	// and everybody behind would wait.
	askTimeout        = 30 * time.Second
	askBytesPerSecond = 1 << 20
)

// Peers are the storage nodes of the cluster.
type Peers interface {
	// Server is a connection to one.
	Server(id string) (grpc.ClientConnInterface, error)
	// Holders are the servers that may have a shard's files, the likeliest first: those of its replicas, then the others, one of which may
	// have had a replica before.
	Holders(shard uint32) []string
}

// Sync copies files. Self is this server.
type Sync struct {
	Files  *cold.Files
	Peers  Peers
	Self   string
	Logger *slog.Logger
}

// Hold returns when all voters have a segment that this node has, or a majority has it and the others take long.
func (s *Sync) Hold(ctx context.Context, shard uint32, voters []string, seg *storagev1.Segment) error {
	if !s.Files.Keep(seg) {
		return dberr.New(dberr.Unavailable, "segment %s is not here any more", seg.GetPath())
	}
	need := len(voters)/2 + 1
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, askTimeout+time.Duration(seg.GetBytes()/askBytesPerSecond)*time.Second)
	defer cancel()
	answers, asked, held := make(chan error, len(voters)), 0, 0
	for _, voter := range voters {
		if voter == s.Self {
			held++
			continue
		}
		asked++
		go func() { answers <- s.ask(ctx, voter, shard, seg) }() // ends with ctx, and always has room to answer
	}
	var errs []error
	var late <-chan time.Time
	for ; asked > 0; asked-- {
		if held >= need && late == nil {
			late = time.After(stragglerTimeout)
		}
		select {
		case err := <-answers:
			if err == nil {
				held++
			}
			errs = append(errs, err)
		case <-late:
			return nil
		}
	}
	if held < need {
		if caller.Err() != nil {
			return dberr.FromStatus(caller.Err())
		}
		return dberr.New(dberr.Unavailable, "segment %s is on %d of %d replicas, a majority of them must have it: %w", seg.GetPath(), held, len(voters), errors.Join(errs...))
	}
	return nil
}

func (s *Sync) ask(ctx context.Context, server string, shard uint32, seg *storagev1.Segment) error {
	conn, err := s.Peers.Server(server)
	if err != nil {
		return err
	}
	_, err = storagev1.NewStorageServiceClient(conn).HoldSegments(ctx, &storagev1.HoldSegmentsRequest{Shard: shard,
		Segments: []*storagev1.Segment{seg}, ServerId: s.Self})
	return err
}

// Take fetches what a leader is about to commit, unless it is here.
func (s *Sync) Take(ctx context.Context, req *storagev1.HoldSegmentsRequest) error {
	for _, seg := range req.GetSegments() {
		if s.Files.Keep(seg) {
			continue
		}
		if err := s.copyFrom(ctx, req.GetServerId(), req.GetShard(), seg); err != nil {
			return err
		}
	}
	return nil
}

// Fetch gets a segment that is missing or damaged here from any other replica.
func (s *Sync) Fetch(ctx context.Context, shard uint32, seg *storagev1.Segment) error {
	var errs []error
	lost := true // every replica was asked, and none has it
	for _, server := range s.Peers.Holders(shard) {
		if server == s.Self {
			continue
		}
		err := s.copyFrom(ctx, server, shard, seg)
		if err == nil {
			s.Logger.InfoContext(ctx, "a segment was fetched from another replica", "shard", shard, "path", seg.GetPath(), "server", server)
			return nil
		}
		lost = lost && (dberr.Is(err, dberr.NotFound) || dberr.Is(err, dberr.Corrupt))
		errs = append(errs, dberr.New(dberr.CodeOf(err), "server %s: %w", server, err))
	}
	code := dberr.Unavailable
	switch {
	case ctx.Err() != nil:
		code = dberr.CodeOf(dberr.FromStatus(ctx.Err()))
	case lost:
		code = dberr.Corrupt
	}
	return dberr.New(code, "segment %s of shard %d is missing or damaged here and no other replica gave it: %w", seg.GetPath(), shard, errors.Join(errs...))
}

func (s *Sync) copyFrom(ctx context.Context, server string, shard uint32, seg *storagev1.Segment) error {
	conn, err := s.Peers.Server(server)
	if err != nil { // it was not asked: what it has is not known
		return dberr.New(dberr.Unavailable, "reach server %s: %w", server, err)
	}
	ctx, cancel := context.WithCancel(ctx) // also frees a stream that is not read to its end
	defer cancel()
	parts, err := storagev1.NewStorageServiceClient(conn).FetchSegment(ctx, &storagev1.FetchSegmentRequest{Shard: shard, Path: seg.GetPath()})
	if err != nil {
		return err
	}
	file, err := s.Files.Create(seg.GetPath())
	if err != nil {
		return err
	}
	for {
		part, err := parts.Recv()
		if errors.Is(err, io.EOF) {
			return file.Commit(seg)
		}
		if err == nil {
			_, err = file.Write(part.GetData())
		}
		if err == nil && file.Bytes() > seg.GetBytes() {
			err = dberr.New(dberr.Corrupt, "segment %s is longer than %d bytes there", seg.GetPath(), seg.GetBytes())
		}
		if err != nil {
			return errors.Join(err, file.Abort())
		}
	}
}

// Send streams a file that is here.
func (s *Sync) Send(path string, send func(*storagev1.FetchSegmentResponse) error) (err error) {
	file, size, err := s.Files.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	buf := make([]byte, min(partBytes, size))
	for at := int64(0); at < size; {
		n, err := file.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return dberr.New(dberr.Unavailable, "read segment %s: %w", path, err)
		}
		if n == 0 {
			return dberr.New(dberr.Corrupt, "segment %s became shorter", path)
		}
		if err := send(&storagev1.FetchSegmentResponse{Data: buf[:n]}); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}
