package requestid

import (
	"context"
	"testing"
)

func TestIDs(t *testing.T) {
	a := Of("alice", "k")
	if a != Of("alice", "k") {
		t.Error("the same key gives two ids")
	}
	seen := map[ID]string{a: "alice k"}
	for name, id := range map[string]ID{"bob k": Of("bob", "k"), "moved border": Of("alic", "ek"), "part 0": a.Part(0), "part 1": a.Part(1),
		"part of a part": a.Part(0).Part(0), "derived": a.Derive([]byte("x")), "random": New(), "random 2": FromBytes(nil)} {
		if other, twice := seen[id]; twice {
			t.Errorf("%s and %s have one id", name, other)
		}
		seen[id] = name
	}
	if FromBytes(a[:]) != a || From(With(context.Background(), a)) != a {
		t.Error("an id does not survive its way")
	}
	if ctx := context.Background(); From(ctx) == From(ctx) {
		t.Error("contexts without an id share one")
	}
}
