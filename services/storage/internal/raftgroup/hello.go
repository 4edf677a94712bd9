package raftgroup

import (
	"encoding/binary"
	"io"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// A connection begins with a hello: version u8, group u32 big-endian, length u8 and bytes of the server id
// that is meant. Version 1 had no server id; only a node alone ever spoke it, to itself, so nobody reads it.
const (
	helloVersion = 2
	// ServerIDMax bounds a server id, so that a stranger cannot make this node read on.
	ServerIDMax = 64
)

type hello struct {
	group  uint32
	server string
}

func (h hello) encode() ([]byte, error) {
	if h.server == "" || len(h.server) > ServerIDMax {
		return nil, dberr.New(dberr.InvalidArgument, "a server id of %d bytes: it has 1 to %d (ServerIDMax)", len(h.server), ServerIDMax)
	}
	b := binary.BigEndian.AppendUint32([]byte{helloVersion}, h.group)
	return append(append(b, byte(len(h.server))), h.server...), nil
}

// readHello reads no byte beyond the hello: what follows belongs to Raft.
func readHello(r io.Reader) (h hello, err error) {
	var head [1 + 4 + 1]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return h, dberr.New(dberr.Corrupt, "a connection without a hello: %w", err)
	}
	if head[0] != helloVersion {
		return h, dberr.New(dberr.Unsupported, "a hello of version %d, this node reads %d", head[0], helloVersion)
	}
	if _, err := io.ReadFull(r, head[1:]); err != nil {
		return h, dberr.New(dberr.Corrupt, "a hello that is cut: %w", err)
	}
	n := int(head[5])
	if n == 0 || n > ServerIDMax {
		return h, dberr.New(dberr.Corrupt, "a hello for a server id of %d bytes: it has 1 to %d (ServerIDMax)", n, ServerIDMax)
	}
	id := make([]byte, n)
	if _, err := io.ReadFull(r, id); err != nil {
		return h, dberr.New(dberr.Corrupt, "a hello that is cut: %w", err)
	}
	return hello{group: binary.BigEndian.Uint32(head[1:]), server: string(id)}, nil
}
