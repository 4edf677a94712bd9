package grpcapi

import (
	"bytes"
	"encoding/binary"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
)

// TestMessageHead: the metadata is padded so that the body starts at a multiple of eight, and the
// length says so.
func TestMessageHead(t *testing.T) {
	for n := range 40 {
		meta := bytes.Repeat([]byte{7}, n)
		got := AppendMessageHead([]byte("before"), meta)[len("before"):]
		size := int(binary.LittleEndian.Uint32(got[4:]))
		if !bytes.Equal(got[:4], []byte{0xFF, 0xFF, 0xFF, 0xFF}) || size%8 != 0 || size < n || size > n+7 || len(got) != 8+size ||
			!bytes.Equal(got[8:8+n], meta) || bytes.ContainsFunc(got[8+n:], func(r rune) bool { return r != 0 }) {
			t.Errorf("%d bytes: % x", n, got)
		}
	}
}

// FuzzCredential: whatever stands in the header is a credential or one error.
func FuzzCredential(f *testing.F) {
	for _, s := range []string{"Bearer x", "Basic YTpi", "basic YTpi==", "Basic", "", " ", "Bearer  x "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", header))
		c, err := CredentialOf(ctx)
		if err != nil && (!dberr.Is(err, dberr.Unauthenticated) || c != (Credential{})) {
			t.Fatalf("%q: %v with %+v", header, err, c)
		}
		if c.Token != "" && (c.User != "" || c.Password != "") {
			t.Fatalf("%q: both a token and a password", header)
		}
	})
}
