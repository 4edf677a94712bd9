package grpcapi

import (
	"context"
	"errors"
	"io"
	"strconv"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
	"github.com/kalamdb/kalamdb-go/services/gateway/internal/auth"
)

// writesInFlightMax bounds the batches of one stream that are sent on and not yet acknowledged. Past it
// the gateway stops reading, and gRPC's flow control stops the client.
const writesInFlightMax = 1024

// Write implements the contract.
func (s *Server) Write(stream kalamv1.KalamService_WriteServer) error {
	sess, err := auth.FromContext(stream.Context())
	if err != nil {
		return err
	}
	bound, stop := s.cfg.Auth.Bind(stream.Context(), sess)
	defer stop()
	ctx, cancel := context.WithCancelCause(bound)
	defer cancel(context.Canceled)
	up, err := s.query.WriteStream(ctx)
	if err != nil {
		return err
	}
	w := &writer{server: s, sess: sess, client: stream, up: up, ids: make(chan uint64, writesInFlightMax)}
	// Recv returns only when this handler does (or the client stops), so the receiver cannot be waited
	// for here; Server.Wait does.
	s.receivers.Add(1)
	go func() {
		defer s.receivers.Done()
		if err := w.forward(ctx); err != nil {
			cancel(err)
		}
	}()
	return caused(ctx, w.acknowledge())
}

type writer struct {
	server *Server
	sess   auth.Session
	client kalamv1.KalamService_WriteServer
	up     queryv1.QueryService_WriteStreamClient
	ids    chan uint64 // batch ids sent on, in order; closed after the last
	// position is that of the newest batch acknowledged.
	position uint64
}

// forward sends the client's batches on, in order.
func (w *writer) forward(ctx context.Context) error {
	identity := catalog.IdentityToProto(w.sess.Identity) // in the first message only
	for {
		req, err := w.client.Recv()
		if errors.Is(err, io.EOF) {
			close(w.ids)
			return w.up.CloseSend()
		}
		if err != nil {
			return err
		}
		select {
		case w.ids <- req.GetBatchId():
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := w.up.Send(writeRequest(req, identity)); err != nil && !errors.Is(err, io.EOF) {
			return err // io.EOF: the other side ended; acknowledge learns why
		}
		identity = nil
	}
}

// acknowledge passes the answers back, in order.
func (w *writer) acknowledge() error {
	for {
		resp, err := w.up.Recv()
		if errors.Is(err, io.EOF) {
			return w.finished()
		}
		if err != nil {
			return w.broke(err)
		}
		id, ok := <-w.ids
		if !ok {
			return dberr.New(dberr.Internal, "the query role acknowledged more batches than it was sent")
		}
		if err := w.client.Send(w.ack(id, resp)); err != nil {
			return err
		}
		w.position = max(w.position, resp.GetPosition())
	}
}

// broke is the end of a stream whose query node is gone. Batches have no ids by which they would be known
// again, so the client decides about those that were not acknowledged; position is that of the last that was.
func (w *writer) broke(err error) error {
	if !dberr.Is(err, dberr.Unavailable) {
		return err
	}
	out := dberr.New(dberr.Unavailable, "the write stream broke; batches that were not acknowledged may or may not be written: %w", err)
	if w.position == 0 {
		return out
	}
	return out.With(dberr.FieldPosition, strconv.FormatUint(w.position, 10))
}

// finished checks that every batch was answered: silence must not look like success.
func (w *writer) finished() error {
	select {
	case _, more := <-w.ids:
		if !more {
			return nil
		}
	default:
	}
	return w.broke(dberr.New(dberr.Unavailable, "the query role ended it early"))
}

func (w *writer) ack(id uint64, resp *queryv1.WriteStreamResponse) *kalamv1.WriteResponse {
	out := &kalamv1.WriteResponse{BatchId: id, Rows: resp.GetRows(), Durability: kalamv1.Durability(resp.GetDurability()),
		Position: resp.GetPosition()}
	if e := resp.GetError(); e != nil {
		err := Redact(w.client.Context(), w.server.cfg.Logger, w.sess, dberr.FromMessage(e))
		out.Error = &kalamv1.Error{Code: string(dberr.CodeOf(err)), Message: err.Error()}
	}
	return out
}

func writeRequest(req *kalamv1.WriteRequest, identity *catalogv1.Identity) *queryv1.WriteStreamRequest {
	out := &queryv1.WriteStreamRequest{Identity: identity, Namespace: req.GetNamespaceId(), Table: req.GetTable(), AsUser: req.GetAsUser()}
	switch rows := req.GetRows().(type) {
	case *kalamv1.WriteRequest_ArrowIpc:
		out.Rows = &queryv1.WriteStreamRequest_ArrowIpc{ArrowIpc: rows.ArrowIpc}
	case *kalamv1.WriteRequest_RowSet:
		set := &queryv1.RowSet{Columns: rows.RowSet.GetColumns(), Rows: make([]*queryv1.RowValues, len(rows.RowSet.GetRows()))}
		for i, r := range rows.RowSet.GetRows() {
			set.Rows[i] = &queryv1.RowValues{Values: paramsOf(r.GetValues())}
		}
		out.Rows = &queryv1.WriteStreamRequest_RowSet{RowSet: set}
	}
	return out
}
