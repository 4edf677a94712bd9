package shard

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kalamdb/kalamdb-go/internal/catalog"
)

// policies are messages and settings with a policy each.
func policies() testTables {
	t := tables()
	t[messagesID].Options = catalog.TableOptions{FlushRows: 3}
	t[settingsID].Options = catalog.TableOptions{FlushIntervalSeconds: 10}
	return t
}

func names(due []Due) string {
	var out []string
	for _, d := range due {
		out = append(out, fmt.Sprintf("%s/%s:%d", d.Table.Name, d.Owner, d.rows.rows))
	}
	return strings.Join(out, " ")
}

func TestDuePartitions(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	n := openNode(t, nodeOptions{tables: policies(), now: func() time.Time { return at }})
	defer n.stop()
	expect := func(what, want string) {
		t.Helper()
		if got := names(n.shard.TakeDue(100)); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	for id := range 2 {
		n.mustWrite("ann", insert(message(id, "x", nil)))
	}
	expect("two of three rows", "")
	n.mustWrite("ann", insert(message(2, "x", nil)))
	n.mustWrite("bob", insert(message(1, "x", nil), message(2, "x", nil), message(3, "x", nil), message(4, "x", nil)))
	list := n.shard.TakeDue(1)
	if names(list) != "messages/ann:3" {
		t.Errorf("the first: %s", names(list))
	}
	expect("the second", "messages/bob:4")
	expect("taken", "")
	n.shard.GiveBack(list[0])
	n.mustWrite("ann", insert(message(9, "x", nil)))
	expect("given back, and waits", "")
	at = at.Add(flushRetry)
	expect("its time", "messages/ann:4")
}

func TestPartitionsThatAreDueByTime(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	tables := policies()
	tables[messagesID].Options = catalog.TableOptions{FlushRows: 100, FlushIntervalSeconds: 10}
	n := openNode(t, nodeOptions{tables: tables, now: func() time.Time { return at }})
	defer n.stop()
	n.mustWrite("ann", insert(message(1, "x", nil)))
	at = at.Add(5 * time.Second)
	n.mustWrite("ann", insert(message(2, "x", nil)))
	n.mustWrite("bob", insert(message(1, "x", nil)))
	at = at.Add(4 * time.Second)
	if due := n.shard.TakeDue(9); len(due) != 0 {
		t.Errorf("too early: %s", names(due))
	}
	at = at.Add(2 * time.Second)
	if due := n.shard.TakeDue(9); names(due) != "messages/ann:2" {
		t.Errorf("after the interval: %s", names(due))
	}
	n.mustWrite("ann", insert(message(3, "x", nil)))
	at = at.Add(5 * time.Second)
	due := n.shard.TakeDue(9)
	if names(due) != "messages/bob:1" {
		t.Errorf("what was taken begins anew: %s", names(due))
	}
	n.shard.GiveBack(due[0])
	at = at.Add(10 * time.Second)
	if due := n.shard.TakeDue(9); names(due) != "messages/ann:1" {
		t.Errorf("what was given back has to wait: %s", names(due))
	}
	at = at.Add(flushRetry)
	if due := n.shard.TakeDue(9); names(due) != "messages/bob:1" {
		t.Errorf("it has waited: %s", names(due))
	}
}

// A new leader counts what it finds, of tables with a policy only.
func TestANewLeaderCountsTheHotStore(t *testing.T) {
	tables := policies()
	delete(tables, settingsID)
	n := openNode(t, nodeOptions{tables: tables})
	defer n.stop()
	for user, rows := range map[string]int{"ann": 5, "bob": 2, "eve": 3} {
		for id := range rows {
			n.mustWrite(user, insert(message(id, "x", nil)))
		}
	}
	n.shard.Lead(n.shard.term.Load())
	if due := n.shard.TakeDue(9); len(due) != 0 {
		t.Errorf("known before it was counted: %s", names(due))
	}
	for range 2 { // the second time finds that it was done
		if err := n.shard.CountUnflushed(); err != nil {
			t.Fatal(err)
		}
	}
	if due := n.shard.TakeDue(9); names(due) != "messages/ann:5 messages/eve:3" {
		t.Errorf("%s", names(due))
	}
}
