package scaling

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestFitLine(t *testing.T) {
	f, err := FitLine([]float64{9, 65, 257}, []float64{1 + 9*.5, 1 + 65*.5, 1 + 257*.5})
	if err != nil || math.Abs(f.Base-1) > 1e-9 || math.Abs(f.PerUnit-.5) > 1e-9 || f.Residual > 1e-9 {
		t.Errorf("%+v %v", f, err)
	}
	if f, err = FitLine([]float64{0, 1, 2}, []float64{0, 3, 0}); err != nil || f.PerUnit != 0 || f.Base != 1 || f.Residual != 2 {
		t.Errorf("a point off the line: %+v %v", f, err)
	}
	for _, x := range [][]float64{nil, {1}, {2, 2}, {1, 2, 3}} {
		if f, err := FitLine(x, []float64{1, 2}); err == nil {
			t.Errorf("a line through %v: %+v", x, f)
		}
	}
}

func TestGroupCostsLeaveOutWhatWasNotBorne(t *testing.T) {
	report := func(shards int, cpu, busy float64, terms int) *IdleReport {
		return &IdleReport{Shards: shards, Busy: busy, Terms: terms, Window: 20 * time.Second, Nodes: []IdleNode{{CPU: cpu}, {CPU: cpu}}}
	}
	all := []*IdleReport{report(9, .1, .3, 0), report(19, .2, .5, 5), report(255, .3, .5, 6), report(511, .3, .95, 0)}
	costs, err := GroupCosts(all)
	if err != nil {
		t.Fatal(err)
	}
	if c := costs[0]; c.What != "CPU" || math.Abs(c.PerUnit-.02) > 1e-9 || math.Abs(c.Base) > 1e-9 {
		t.Errorf("%+v", c)
	}
	if _, err := GroupCosts(all[1:]); err == nil || !strings.Contains(err.Error(), "bore 1 of 3") {
		t.Errorf("one cluster gives a difference: %v", err)
	}
}

func TestProcFiles(t *testing.T) {
	// From Linux 6.1; a name may contain spaces and parentheses.
	const stat = "42 (a b) c) S 1 42 42 0 -1 4194560 1 2 3 4 250 50 7 8 20 0 9 0 100 1 2"
	if got, err := cpuTime([]byte(stat)); err != nil || got != 3*time.Second {
		t.Errorf("CPU time %v %v", got, err)
	}
	for _, bad := range []string{"", "42 (x) S 1", "42 (x) S 1 2 3 4 5 6 7 8 9 10 many 12 13"} {
		if got, err := cpuTime([]byte(bad)); err == nil {
			t.Errorf("%q has the CPU time %v", bad, got)
		}
	}
	if got, err := field([]byte("VmHWM:\t  77 kB\nVmRSS:\t  12 kB\n"), "VmRSS:"); err != nil || got != 12 {
		t.Errorf("VmRSS %d %v", got, err)
	}
	for _, bad := range []string{"", "VmRSS:", "VmRSS: x kB"} {
		if got, err := field([]byte(bad), "VmRSS:"); err == nil {
			t.Errorf("%q has %d", bad, got)
		}
	}
	before, err := parseMachine("cpu  10 0 10 60 20 0 0 0 0 0\ncpu0 1 2 3\n")
	if err != nil {
		t.Fatal(err)
	}
	after, err := parseMachine("cpu  30 10 20 80 40 5 5 10 0 0\n")
	if got := after.busySince(before); err != nil || got != .6 {
		t.Errorf("busy %v %v", got, err)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "cpu0 1 2 3 4 5 6 7 8"} {
		if _, err := parseMachine(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// A cluster of two shards on three nodes that is complete, and what may be missing.
func TestComplete(t *testing.T) {
	nodes := func(change func(text string, node int) string) (all []metrics) {
		for i := range 3 {
			text := "# HELP x\ngo_goroutines 7\n"
			for g, name := range []string{"catalog", "0", "1"} {
				leads, changes := "0", "0"
				if g == i {
					leads, changes = "1", "4"
				}
				for metric, v := range map[string]string{"leader": leads, "last_index": "9", "commit_index": "9", "member_changes_total": changes, "term": "2"} {
					text += "kalamdb_storage_raft_" + metric + `{group="` + name + `"} ` + v + "\n"
				}
			}
			m, err := parseMetrics(strings.NewReader(change(text, i)))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, m)
		}
		return all
	}
	replace := func(on int, old, new string) []metrics {
		return nodes(func(text string, node int) string {
			if node == on {
				return strings.Replace(text, old, new, 1)
			}
			return text
		})
	}
	if all := replace(0, "", ""); complete(all, 2, true) != nil || terms(all, 2) != 6 || all[0]["go_goroutines"] != 7 {
		t.Errorf("%v, %v terms", complete(all, 2, true), terms(all, 2))
	}
	for _, c := range []struct{ old, new, want string }{
		{`raft_leader{group="1"} 0`, `raft_leader{group="1"} 1`, "group 1 has 2 leaders"},
		{`raft_leader{group="catalog"} 1`, `raft_leader{group="catalog"} 0`, "group catalog has 0 leaders"},
		{`raft_leader{group="0"}`, `raft_leader{group="7"}`, "group 0 is not on every node"},
		{`raft_commit_index{group="1"} 9`, `raft_commit_index{group="1"} 8`, "a replica of group 1 knows 8 of 9 entries"},
		{`changes_total{group="catalog"} 4`, `changes_total{group="catalog"} 3`, "group catalog has seen 3 of 4 changes"},
	} {
		if err := complete(replace(0, c.old, c.new), 2, true); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	if err := complete(replace(0, `changes_total{group="catalog"} 4`, `changes_total{group="catalog"} 0`), 2, false); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	// What a follower has beyond its leader's log is not committed and will be cut.
	if err := complete(replace(2, `last_index{group="catalog"} 9`, `last_index{group="catalog"} 10`), 2, true); err != nil {
		t.Errorf("a follower with more than its leader: %v", err)
	}
	if _, err := parseMetrics(strings.NewReader("x many\n")); err == nil {
		t.Error("a value that is no number was read")
	}
}
