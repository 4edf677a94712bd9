package sealedfile

import (
	"bytes"
	"crypto/cipher"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/keyring"
)

func aead(t testing.TB, fill byte) cipher.AEAD {
	t.Helper()
	a, err := keyring.AEAD(bytes.Repeat([]byte{fill}, keyring.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// seal writes in pieces of a length that divides no frame.
func seal(t testing.TB, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, aead(t, 1), "user/ann")
	if err != nil {
		t.Fatal(err)
	}
	for rest := plain; len(rest) > 0; {
		n := min(len(rest), 7919)
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func open(t testing.TB, sealed []byte, fill byte) ([]byte, error) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(sealed), func(id string) (cipher.AEAD, error) {
		if id != "user/ann" {
			return nil, dberr.New(dberr.Corrupt, "there is no key %q", id)
		}
		return aead(t, fill), nil
	})
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 31 / 7)
	}
	return b
}

func TestWhatWasSealedIsRead(t *testing.T) {
	for _, n := range []int{0, 1, FrameBytes - 1, FrameBytes, FrameBytes + 1, 3 * FrameBytes, 3*FrameBytes + 5} {
		sealed := seal(t, pattern(n))
		got, err := open(t, sealed, 1)
		if err != nil || !bytes.Equal(got, pattern(n)) {
			t.Errorf("%d bytes: got %d, %v", n, len(got), err)
		}
		if n > 16 && bytes.Contains(sealed, pattern(16)) {
			t.Errorf("%d bytes can be read", n)
		}
		if _, err := open(t, sealed, 2); !dberr.Is(err, dberr.Corrupt) {
			t.Errorf("with another key: %v", err)
		}
	}
}

func TestEveryChangeIsNoticed(t *testing.T) {
	const frameLen = FrameBytes + tagBytes
	sealed := seal(t, pattern(3*FrameBytes+100))
	header := len(sealed) - 3*frameLen - 100 - tagBytes
	frames := func(order ...int) []byte {
		out := bytes.Clone(sealed[:header])
		for _, i := range order {
			out = append(out, sealed[header+i*frameLen:min(header+(i+1)*frameLen, len(sealed))]...)
		}
		return out
	}
	if _, err := open(t, frames(0, 1, 2, 3), 1); err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{"exchanged": frames(1, 0, 2, 3), "repeated": frames(0, 0, 1, 2, 3), "left out": frames(0, 2, 3), "cut at a frame": frames(0, 1, 2),
		"empty": nil, "only the header": sealed[:header], "one byte more": append(bytes.Clone(sealed), 0)}
	for i := range header {
		bad["byte "+string(rune('a'+i))+" of the header"] = flip(sealed, i)
		bad["cut in the header at "+string(rune('a'+i))] = sealed[:i]
	}
	for _, i := range []int{header, header + frameLen - 1, header + frameLen, len(sealed) - 1} {
		bad["byte "+string(rune('0'+i%10))+" of a frame"] = flip(sealed, i)
		bad["cut at "+string(rune('0'+i%10))] = sealed[:i]
	}
	for what, b := range bad {
		if _, err := open(t, b, 1); !dberr.Is(err, dberr.Corrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func flip(b []byte, i int) []byte {
	out := bytes.Clone(b)
	out[i] ^= 1
	return out
}

// The fixture is what an earlier version of this program wrote.
func TestFixture(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("testdata", "sealed-v1.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := open(t, b, 1); err != nil || !bytes.Equal(got, pattern(FrameBytes+1000)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{})
	f.Add(seal(f, pattern(100)))
	f.Add(seal(f, pattern(FrameBytes+1)))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if _, err := open(t, sealed, 1); err != nil && !dberr.Is(err, dberr.Corrupt) {
			t.Error(err)
		}
	})
}
