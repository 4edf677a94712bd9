package grpcapi

import (
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/apache/arrow-go/v18/arrow/flight"
	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	kalamv1 "github.com/kalamdb/kalamdb-go/proto/kalam/v1"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
)

// OpenQuery starts a SELECT at the query role.
func OpenQuery(ctx context.Context, c flight.FlightServiceClient, ticket *queryv1.StatementTicket) (flight.FlightService_DoGetClient, error) {
	raw, err := proto.Marshal(ticket)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "encode a ticket: %w", err)
	}
	return c.DoGet(ctx, &flight.Ticket{Ticket: raw})
}

const (
	// chunkBytesMax keeps every message below gRPC's default limit of 4 MiB on the client's side.
	chunkBytesMax = 1 << 20
	// joinBytesMax is up to where copying a body behind its header beats sending a second message.
	joinBytesMax = 32 << 10
	ipcAlignment = 8
	ipcPrefix    = 8 // continuation marker and length
)

// endOfStream ends an Arrow IPC stream.
var endOfStream = []byte{0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0}

// relayIPC repackages a Flight stream as an Arrow IPC stream: the same bytes, framed differently.
func relayIPC(rows flight.FlightService_DoGetClient, stream kalamv1.KalamService_QueryServer) error {
	for {
		data, err := rows.Recv()
		if errors.Is(err, io.EOF) {
			return stream.Send(&kalamv1.QueryResponse{ArrowIpc: endOfStream})
		}
		if err != nil {
			return err
		}
		if len(data.GetDataHeader()) == 0 {
			continue // only metadata
		}
		if err := sendMessage(stream, data); err != nil {
			return err
		}
	}
}

func sendMessage(stream kalamv1.KalamService_QueryServer, data *flight.FlightData) error {
	head, rest := AppendMessageHead(nil, data.GetDataHeader()), data.GetDataBody()
	if len(head)+len(rest) <= joinBytesMax {
		head, rest = append(head, rest...), nil
	}
	if err := stream.Send(&kalamv1.QueryResponse{ArrowIpc: head}); err != nil {
		return err
	}
	for len(rest) > 0 {
		n := min(len(rest), chunkBytesMax)
		if err := stream.Send(&kalamv1.QueryResponse{ArrowIpc: rest[:n]}); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// AppendMessageHead appends the encapsulated form of an IPC message's metadata; the body follows it.
func AppendMessageHead(dst, metadata []byte) []byte {
	size := (len(metadata) + ipcAlignment - 1) / ipcAlignment * ipcAlignment
	if cap(dst)-len(dst) < ipcPrefix+size {
		dst = append(make([]byte, 0, len(dst)+ipcPrefix+size+joinBytesMax/ipcAlignment), dst...)
	}
	dst = append(dst, 0xFF, 0xFF, 0xFF, 0xFF)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(size))
	dst = append(dst, metadata...)
	return append(dst, make([]byte, size-len(metadata))...)
}
