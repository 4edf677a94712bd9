// Package requestid carries the id by which a group recognizes a repeated command or write.
//
// A request has one id in all its attempts; what it does derives its own from it, always the same for the
// same part of the request. So a request that is sent again, to whichever node, is done once.
package requestid

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
)

// Size is the length of an id in bytes.
const Size = 16

// ID is a request's or a part's.
type ID [Size]byte

// New makes a random id.
func New() (id ID) {
	_, _ = rand.Read(id[:]) // never fails: see crypto/rand
	return id
}

// FromBytes reads an id; one of another length makes a new one.
func FromBytes(b []byte) ID {
	if len(b) != Size {
		return New()
	}
	return ID(b)
}

// Of derives an id from a client's key: the same for the same user and key, another for another user.
func Of(user, key string) ID {
	h := sha256.New()
	_ = binary.Write(h, binary.BigEndian, uint64(len(user))) // where the user ends; a hash does not fail
	h.Write([]byte(user))
	h.Write([]byte(key))
	return ID(h.Sum(nil)[:Size])
}

// Part derives the id of a numbered part of the request.
func (id ID) Part(n uint64) ID {
	return id.Derive(binary.BigEndian.AppendUint64(nil, n))
}

// Derive derives the id of a part that is told by its content.
func (id ID) Derive(content []byte) ID {
	h := sha256.New()
	h.Write(id[:])
	h.Write(content)
	return ID(h.Sum(nil)[:Size])
}

type (
	key        struct{}
	repetition struct{}
)

// AsRepetition returns a context whose request may have had an earlier attempt.
func AsRepetition(ctx context.Context) context.Context {
	return context.WithValue(ctx, repetition{}, true)
}

// Repeated reports whether the context's request may have had an earlier attempt.
func Repeated(ctx context.Context) bool {
	r, _ := ctx.Value(repetition{}).(bool)
	return r
}

// With returns a context that carries an id.
func With(ctx context.Context, id ID) context.Context { return context.WithValue(ctx, key{}, id) }

// From returns the id of a context, a new one when it carries none.
func From(ctx context.Context) ID {
	if id, ok := ctx.Value(key{}).(ID); ok {
		return id
	}
	return New()
}
