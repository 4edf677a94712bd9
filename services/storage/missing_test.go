package storage

import "testing"

func TestMissing(t *testing.T) {
	m := &missing{}
	want := func(what string, in, any bool) {
		t.Helper()
		if m.in(1) != in || m.any() != any {
			t.Errorf("%s: shard 1 lacks files: %v, some shard: %v", what, m.in(1), m.any())
		}
	}
	want("nobody has looked", true, true)
	m.look(1)()
	want("another shard was not looked at", true, true)
	m.looked(map[uint32]bool{1: true})
	want("all was looked at", false, false)
	m.found(1)
	want("found", true, true)
	has := m.look(1)
	m.found(1)
	has()
	want("found again while it was looked for", true, true)
	m.look(1)()
	want("it is there", false, false)
	m.found(2)
	want("of another shard", false, true)
	m.looked(map[uint32]bool{1: true})
	want("whose replica has gone", false, false)
}
