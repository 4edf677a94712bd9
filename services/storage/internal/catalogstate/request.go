package catalogstate

import (
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	catalogv1 "github.com/kalamdb/kalamdb-go/proto/catalog/v1"
)

const (
	// requestIDBytes is the length of a command's request id.
	requestIDBytes = 16
	// requestsMax is how many answers are kept. A caller tries a command again for seconds; with a hundred
	// commands a second this is most of a minute.
	requestsMax = 4096
)

// What an outcome begins with.
const (
	outcomeResponse = 1 // an ApplyResponse follows
	outcomeRefusal  = 2 // the length of the code, the code and the text follow
)

// recall is the answer the request got, nil if it is not known.
func (t *transaction) recall(id []byte) (*Result, error) {
	raw := t.bucket(bucketRequests).Get(id)
	if raw == nil {
		return nil, nil
	}
	if len(raw) < 8 {
		return nil, dberr.New(dberr.Corrupt, "the answer of a request has %d bytes", len(raw))
	}
	return decodeOutcome(raw[8:])
}

// remember keeps an answer and forgets the oldest one above requestsMax.
func (t *transaction) remember(id []byte, r *Result) error {
	raw, err := appendOutcome(binary.BigEndian.AppendUint64(nil, t.index), r)
	if err != nil {
		return err
	}
	requests, order, meta := t.bucket(bucketRequests), t.bucket(bucketRequestLog), t.bucket(bucketMeta)
	if err := requests.Put(id, raw); err != nil {
		return err
	}
	if err := order.Put(raw[:8], id); err != nil {
		return err
	}
	n := number(meta, keyRequests) + 1
	for ; n > requestsMax; n-- {
		index, oldest := order.Cursor().First()
		if index == nil {
			return dberr.New(dberr.Corrupt, "the catalog counts %d requests and lists none", n)
		}
		if err := requests.Delete(oldest); err != nil {
			return err
		}
		if err := order.Delete(index); err != nil {
			return err
		}
	}
	return putNumber(meta, keyRequests, n)
}

func appendOutcome(dst []byte, r *Result) ([]byte, error) {
	if r.Err == nil {
		return stored.MarshalAppend(append(dst, outcomeResponse), r.Response)
	}
	code := dberr.CodeOf(r.Err)
	dst = append(dst, outcomeRefusal, byte(len(code)))
	return append(append(dst, code...), r.Err.Error()...), nil
}

func decodeOutcome(src []byte) (*Result, error) {
	switch {
	case len(src) > 0 && src[0] == outcomeResponse:
		resp := &catalogv1.ApplyResponse{}
		if err := proto.Unmarshal(src[1:], resp); err != nil {
			return nil, dberr.New(dberr.Corrupt, "the answer of a request: %w", err)
		}
		return &Result{Response: resp}, nil
	case len(src) > 1 && src[0] == outcomeRefusal && len(src) >= 2+int(src[1]):
		code, text := src[2:2+int(src[1])], src[2+int(src[1]):]
		return &Result{Err: dberr.New(dberr.Code(code), "%s", text)}, nil
	}
	return nil, dberr.New(dberr.Corrupt, "the answer of a request is of no known kind")
}
