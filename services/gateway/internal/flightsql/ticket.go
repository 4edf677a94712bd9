package flightsql

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	queryv1 "github.com/kalamdb/kalamdb-go/proto/query/v1"
)

// A ticket is version u8, expiry u64 (Unix seconds), MAC, and the statement. It is bound to the user it
// was made for: another user's ticket is as good as no ticket.
const (
	ticketVersion = 1
	macBytes      = sha256.Size
	headBytes     = 1 + 8
	// ticketLifetime is for a client that fetches what it planned, not for storing.
	ticketLifetime = 10 * time.Minute
	// ticketKeyLabel separates these MACs from tokens signed with the same secret.
	ticketKeyLabel = "kalamdb flight ticket v1"
)

type sealer struct {
	key []byte
	now func() time.Time
}

func newSealer(secret []byte, now func() time.Time) sealer {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(ticketKeyLabel))
	return sealer{key: m.Sum(nil), now: now}
}

func (s sealer) seal(t *queryv1.StatementTicket) ([]byte, error) {
	payload, err := proto.Marshal(t)
	if err != nil {
		return nil, dberr.New(dberr.Internal, "encode a ticket: %w", err)
	}
	head := binary.BigEndian.AppendUint64([]byte{ticketVersion}, uint64(s.now().Add(ticketLifetime).Unix()))
	return append(append(head, s.mac(head, payload)...), payload...), nil
}

func (s sealer) mac(head, payload []byte) []byte {
	m := hmac.New(sha256.New, s.key)
	m.Write(head)
	m.Write(payload)
	return m.Sum(nil)
}

// errTicket is the answer to every ticket that is not good, whatever is wrong with it.
var errTicket = dberr.New(dberr.PermissionDenied, "the ticket is not valid for this user or has expired; plan the statement again")

// open returns the statement of a ticket that was made for user and is not too old.
func (s sealer) open(handle []byte, user string) (*queryv1.StatementTicket, error) {
	if len(handle) < headBytes+macBytes || handle[0] != ticketVersion {
		return nil, errTicket
	}
	head, mac, payload := handle[:headBytes], handle[headBytes:headBytes+macBytes], handle[headBytes+macBytes:]
	if !hmac.Equal(mac, s.mac(head, payload)) {
		return nil, errTicket
	}
	t := &queryv1.StatementTicket{}
	if err := proto.Unmarshal(payload, t); err != nil {
		return nil, errTicket
	}
	if t.GetIdentity().GetUserId() != user || uint64(s.now().Unix()) > binary.BigEndian.Uint64(head[1:]) {
		return nil, errTicket
	}
	return t, nil
}
