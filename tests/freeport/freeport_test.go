package freeport

import "testing"

func TestNoPortIsGivenTwice(t *testing.T) {
	seen := map[string]bool{}
	for range 300 { // of 12,000: two equal ones among so many are all but certain if nobody remembers
		addrs, err := Take(5)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			if seen[a] {
				t.Fatalf("%s twice", a)
			}
			seen[a] = true
		}
	}
}
